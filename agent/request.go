package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// coldEvery bounds how often a busy agent looks into lanes that were empty the
// last time; an agent with nothing else to do looks at once.
const coldEvery = 2 * time.Millisecond

// request is one exchange that a loop has taken to do.
type request struct {
	agent    jobs.ID
	exchange jobs.Exchange
	out      *outbox
	looks    []*look    // as exchange.Claim.Lanes
	gated    []*look    // as exchange.Claim.Gated
	found    jobs.Place // of a search: from where the lanes that it finds are looked at
	config   *registry.Config
	carries  int  // results and costs, as it was taken
	prompt   bool // it leaves out what has gates
}

// asks tells whether the request claims.
func (r *request) asks() bool { return len(r.looks)+len(r.gated) > 0 }

// idle tells whether there is nothing in it to do.
func (r *request) idle() bool {
	return r.out.len() == 0 && !r.asks() && !r.exchange.Search && len(r.exchange.Metrics) == 0 &&
		len(r.exchange.Costs) == 0 && len(r.exchange.Busy) == 0
}

// full tells whether the request looks through a lane from its beginning.
func (r *request) full() bool {
	first := func(l *look) bool { return l.from == jobs.First }
	return slices.ContainsFunc(r.looks, first) || slices.ContainsFunc(r.gated, first)
}

// take hands out what is to be exchanged now: results of one incarnation and
// a claim for all room that there is. ok is false when nothing is; then again
// says after which time something may be, zero for never. The caller tells land
// when the exchange is over.
//
// Many results in one exchange cost the database less than a few in each of
// two. So a few are left to the end of an exchange under way, and wait for a
// moment where many jobs run, which are likely to end in it.
func (l *ledger) take(now time.Time) (req *request, again time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if few := l.ended < l.quorum && (l.woken == jobs.Last && l.left == leftNone || l.free <= 0); few && !l.closed {
		if left := slowExchange - now.Sub(l.taken); left > 0 && l.flying > 0 {
			return nil, left, false
		}
		if left := moment - now.Sub(l.first); left > 0 && l.ended > 0 && len(l.running) >= l.quorum {
			return nil, left, false
		}
	}
	req = &request{agent: l.agent, out: &outbox{}, config: l.config}
	l.takeResults(req)
	l.takeCosts(req)
	if req.agent == l.agent && !l.closed && !l.paused {
		again = l.takeRoom(req, now)
	}
	due := l.tallied() && (now.Sub(l.flushed) >= metricsEvery || l.closed)
	if due {
		req.exchange.Metrics = l.drainTally()
		l.flushed = now
	} else if l.tallied() && again == 0 {
		again = metricsEvery
	}
	if ok = !req.idle(); ok {
		l.fly(req, now)
	}
	return req, again, ok
}

// takeAtOnce is take for whoever has heard of new jobs at a place: it hands out a
// claim and nothing else. The loops are called where that leaves something to
// them: lanes with gates; or all of it, where an exchange is under way or due that
// takes the jobs along, or where the caller is busy. Lanes with gates that had no
// jobs the last time are looked at when the claim is over: a look at the same time
// would nearly double the time to the start of a job that it brings.
func (l *ledger) takeAtOnce(at jobs.Place, now time.Time, busy bool) (req *request, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at.Before(l.woken) {
		l.woken = at
	}
	if busy || l.flying > 0 || l.ended > 0 || len(l.costs) > 0 || l.many() || l.closed || l.paused {
		l.poke()
		return nil, false
	}
	req = &request{agent: l.agent, out: &outbox{}, config: l.config, prompt: true}
	l.takeRoom(req, now)
	if ok = req.asks(); ok {
		l.fly(req, now)
	}
	if l.left == leftHot || !ok {
		l.poke()
	}
	return req, ok
}

// leaving is what a claim leaves of lanes with gates that may let something through.
type leaving int

const (
	leftNone leaving = iota
	leftCold         // such as were empty the last time
	leftHot          // also such as were not
)

// fly begins the exchange.
func (l *ledger) fly(req *request, now time.Time) {
	l.flying++
	if req.asks() {
		l.asking++
	}
	req.carries = req.out.len() + len(req.exchange.Costs)
	l.aloft += req.carries
	l.taken = now
}

// slowExchange is how long a few results wait for an exchange under way, which
// may wait for a lock; then another connection takes them.
const slowExchange = 5 * time.Millisecond

// moment is how long a few results wait for more.
const moment = 500 * time.Microsecond

// land ends the exchange: what it carried is recorded, or was put back. There may
// be more to claim.
func (l *ledger) land(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flying--
	l.aloft -= req.carries
	if req.asks() {
		l.asking--
		l.seeEnd()
	}
	if req.asks() || req.exchange.Search {
		l.poke()
	}
}

// takeResults moves as many results as may be into the request. Results of an
// earlier incarnation go first, by themselves: they are fenced by its id.
func (l *ledger) takeResults(req *request) {
	if l.ended == 0 {
		return
	}
	id, box := l.agent, l.results[l.agent]
	for other, b := range l.results {
		if other != l.agent {
			id, box = other, b
		}
	}
	req.agent = id
	if most := l.share(box.len()); most == box.len() {
		req.out = box
		delete(l.results, id)
	} else {
		c := min(len(box.completed), most)
		f := min(len(box.failed), most-c)
		h := min(len(box.handBack), most-c-f)
		n := c + f + h
		// lanes only free room; which result a lane stands for is of no matter.
		req.out = &outbox{completed: box.completed[:c:c], failed: box.failed[:f:f], handBack: box.handBack[:h:h],
			lanes: box.lanes[:n:n], circuits: box.circuits}
		box.completed, box.failed, box.handBack, box.lanes = box.completed[c:], box.failed[f:], box.handBack[h:], box.lanes[n:]
		box.circuits = nil
		l.poke()
	}
	req.exchange.Completed, req.exchange.Failed, req.exchange.HandBack = req.out.completed, req.out.failed, req.out.handBack
	for _, c := range req.out.circuits {
		req.exchange.Circuits = append(req.exchange.Circuits, *c)
	}
	l.usual = req.out.len()
	l.ended -= req.out.len()
	l.free += req.out.len()
	for _, ln := range req.out.lanes {
		ln.running--
	}
}

// share is how many of n results one exchange carries: all of them, unless that is
// far more than an even share of the jobs that run, wait to be recorded or are being
// recorded. Otherwise one loop would come to carry nearly all of them in long
// exchanges while another one made many of a few.
func (l *ledger) share(n int) int {
	even := max(l.quorum, (l.ended+l.aloft+len(l.running)+l.loops-1)/l.loops)
	if n > even+even/4 {
		n = even
	}
	return min(n, maxBatch)
}

// takeRoom asks for as many jobs as there are slots, shared out between the
// lanes that may have some, a different one first each time. Lanes that had
// jobs the last time share the slots; one that was empty may take as much as
// one of those, and usually takes nothing.
func (l *ledger) takeRoom(req *request, now time.Time) (again time.Duration) {
	if l.free <= 0 || len(l.lanes) == 0 {
		return 0
	}
	lanes := l.candidates(req, now)
	l.left = leftNone
	var hot, cold []*lane
	for i := range lanes {
		ln := lanes[(l.next+i)%len(lanes)]
		switch {
		case ln.from == jobs.Last || ln.room(l.free) <= 0:
		case now.Before(ln.opens()):
			if in := ln.opens().Sub(now); again == 0 || in < again {
				again = in
			}
		case req.prompt && ln.gated():
			if l.left = max(l.left, leftCold); ln.hot {
				l.left = leftHot
			}
		case ln.hot:
			hot = append(hot, ln)
		default:
			cold = append(cold, ln)
		}
	}
	if req.exchange.Search {
		l.coldDue = now.Add(max(coldEvery, 20*l.searched))
	} else if in := l.coldDue.Sub(now); l.many() && l.woken.Before(jobs.Last) && (again == 0 || in < again) {
		again = in
	}
	if len(cold) > 0 && len(hot) > 0 && !l.many() && now.Before(l.coldDue) {
		cold = nil
	}
	if len(hot)+len(cold) == 0 {
		return again
	}
	if len(cold) > 0 && !l.many() {
		l.coldDue = now.Add(coldEvery)
	}
	l.next = (l.next + max(1, len(hot))) % len(lanes)
	sharers := len(hot)
	if len(cold) > 0 {
		sharers++
	}
	if l.left != leftNone {
		sharers++
	}
	share := (l.free + sharers - 1) / sharers
	limit := 0
	for _, ln := range append(cold, hot...) {
		room := min(share, ln.room(l.free))
		if room <= 0 { // those before it have taken it
			continue
		}
		asked := jobs.Lane{Service: ln.service, Type: ln.typ, Room: room, From: ln.from, Gates: ln.gates}
		if !ln.gated() {
			limit += room
			req.looks = append(req.looks, ln.begin(room))
			req.exchange.Claim.Lanes = append(req.exchange.Claim.Lanes, asked)
			continue
		}
		// What a gated lane may take is set aside, as no limit is over it.
		asked.Gates = l.price(ln)
		l.free -= room
		req.gated = append(req.gated, ln.begin(room))
		req.exchange.Claim.Gated = append(req.exchange.Claim.Gated, asked)
	}
	limit = min(limit, l.free)
	req.exchange.Claim.Limit = limit
	l.free -= limit
	return again
}

// manyLanes is the number of lanes from which on a search for those that have
// jobs costs less than a look into each.
const manyLanes = 64

func (l *ledger) many() bool { return len(l.lanes) > manyLanes }

// candidates are the lanes that may have jobs, after the wake-ups since the
// last claim. A wake-up does not say whose job has come: few lanes are all
// looked at, of many the database tells which have any.
func (l *ledger) candidates(req *request, now time.Time) []*lane {
	if !l.many() {
		if l.woken.Before(jobs.Last) {
			for _, ln := range l.lanes {
				ln.wake(l.woken)
			}
			l.woken = jobs.Last
		}
		return l.lanes
	}
	l.active = slices.DeleteFunc(l.active, func(ln *lane) bool {
		ln.active = ln.from != jobs.Last || len(ln.looks) > 0
		return !ln.active
	})
	if l.woken.Before(jobs.Last) && !now.Before(l.coldDue) {
		req.exchange.Search, req.found = true, l.woken
		for _, ln := range l.active { // a look under way is older than this wake-up
			ln.wake(l.woken)
		}
		l.woken = jobs.Last
	}
	return l.active
}

// foundWaiting wakes the lanes that a search found.
func (l *ledger) foundWaiting(req *request, services []string, took time.Duration) {
	l.searched = took
	for _, service := range services {
		ln := l.byName[strings.ToLower(service)]
		if ln == nil || ln.service != service || !ln.listed {
			continue
		}
		if !ln.active {
			ln.active = true
			l.active = append(l.active, ln)
		}
		ln.wake(req.found)
	}
}

// done settles a request that was carried out and returns the attempts to
// start, and when a lane's gates open.
func (l *ledger) done(req *request, out *jobs.Exchanged, now time.Time, took time.Duration) (started []*attempt, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(req)
	if req.exchange.Search {
		l.foundWaiting(req, out.Waiting, took)
	}
	last := make(map[*lane]jobs.Place, 4)
	got := make(map[*lane]int, 4)
	limited := 0
	started = make([]*attempt, 0, len(out.Claimed))
	reserved := req.reservedBy()
	var ln *lane
	var service *registry.Service
	for i, j := range out.Claimed {
		if i == 0 || j.Service != out.Claimed[i-1].Service {
			ln = l.byName[strings.ToLower(j.Service)]
			service, _ = req.config.Service(j.Service)
		}
		ln.running++
		got[ln]++
		last[ln] = j.Place // they come in order
		a := &attempt{job: j, config: req.config, service: service, lane: ln, agent: req.agent, reserved: reserved[ln]}
		if a.agent != l.agent { // that incarnation has been given up meanwhile
			a.stoppable.end(errLeaseGone)
		}
		started = append(started, a)
		if older := l.running[j.ID]; older != nil {
			l.ending[older] = true
		}
		l.running[j.ID] = a
	}
	l.free -= len(out.Claimed)
	for _, look := range req.looks {
		limited += got[look.lane]
	}
	full := limited == req.exchange.Claim.Limit
	for _, look := range req.looks {
		n := got[look.lane]
		look.lane.hot = n > 0 || full && look.lane.hot
		look.end(reached(look, n, full, last[look.lane]))
	}
	for i, look := range req.gated {
		g := out.Gates[i]
		look.lane.hot = g.Claimed > 0
		in := look.lane.obey(g, now)
		if in > 0 && (again == 0 || in < again) {
			again = in
		}
		switch {
		case in > 0 && g.Claimed == 0: // what waits there waits for the gates
			look.undo()
		default:
			look.end(reached(look, g.Claimed, in > 0, last[look.lane]))
		}
	}
	return started, again
}

// reached is the place up to which a look has taken all that waited: the end
// of the lane when it found less than it had room for.
func reached(look *look, found int, cut bool, last jobs.Place) jobs.Place {
	switch {
	case found < look.room && !cut:
		return jobs.Last
	case found == 0:
		return look.from
	}
	return last
}

// release gives back the room that a request had reserved.
func (l *ledger) release(req *request) {
	l.free += req.exchange.Claim.Limit
	for i := range req.exchange.Claim.Gated {
		l.free += req.exchange.Claim.Gated[i].Room
	}
}

// undo puts a request back that could not be carried out: its results wait
// for the next exchange.
func (l *ledger) undo(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undoClaimLocked(req)
	l.putBack(req.agent, req.out)
	l.unwritten = append(l.unwritten, req.exchange.Metrics...)
}

// putBack takes results again that were handed out.
func (l *ledger) putBack(agent jobs.ID, out *outbox) {
	n := out.len()
	if n == 0 && len(out.circuits) == 0 {
		return
	}
	l.free -= n
	l.ended += n
	for _, ln := range out.lanes {
		ln.running++
	}
	box := l.box(agent)
	box.completed = append(box.completed, out.completed...)
	box.failed = append(box.failed, out.failed...)
	box.handBack = append(box.handBack, out.handBack...)
	box.lanes = append(box.lanes, out.lanes...)
	for ln, c := range out.circuits {
		if newer := box.circuits[ln]; newer == nil {
			box.circuit(ln).Failures, box.circuit(ln).Reset = c.Failures, c.Reset
		} else if !newer.Reset {
			newer.Failures += c.Failures
			newer.Reset = c.Reset
		}
	}
	l.poke() // the loop that had them may be without a connection
}

// undoClaim settles a request whose results are dealt with otherwise: its
// claim was not made.
func (l *ledger) undoClaim(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undoClaimLocked(req)
	l.poke()
}

func (l *ledger) undoClaimLocked(req *request) {
	l.costs = append(req.exchange.Costs, l.costs...)
	req.exchange.Costs = nil
	l.release(req)
	if req.exchange.Search && req.found.Before(l.woken) {
		l.woken = req.found
	}
	for _, look := range req.looks {
		look.undo()
	}
	for _, look := range req.gated {
		look.undo()
	}
}
