package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Batches stay below the size at which a round trip starts to cost latency.
const maxBatch = 2000

// metricsEvery is how long counts gather before they ride along with an
// exchange. An agent that is killed loses at most so much of its figures,
// never a job.
const metricsEvery = 500 * time.Millisecond

// ledger is the agent's account of slots, lanes, attempts and results. All
// decisions about "how much room" are made here, under one lock, without I/O.
type ledger struct {
	mu      sync.Mutex
	free    int // slots neither running, nor unrecorded, nor asked for
	types   map[jobs.ExecutionType]bool
	config  *registry.Config
	lanes   []*lane          // of the present snapshot, in the registry's order
	byName  map[string]*lane // lower case; survives a reload
	next    int              // the lane that is asked first, rotating
	wakes   uint64           // counts arm calls, so that none is missed during a claim
	closed  bool             // no more claims
	running map[jobs.ID]*attempt
	agent   jobs.ID             // the present incarnation
	results map[jobs.ID]*outbox // by incarnation
	metrics metrics
	flushed time.Time
	signal  chan struct{} // something may be to do; capacity: the number of loops
}

// lane is a service's room for jobs.
type lane struct {
	service  string
	typ      jobs.ExecutionType
	bound    int  // concurrency; 0: none
	running  int  // claimed and not yet recorded
	reserved int  // asked for by a claim under way
	armed    bool // may have waiting jobs
}

// outbox holds what an incarnation finished and has not yet recorded.
type outbox struct {
	completed []jobs.Completion
	failed    []jobs.Failure
	handBack  []*jobs.Job
	lanes     []*lane // of each result, for the room that recording it frees
}

func (o *outbox) len() int { return len(o.completed) + len(o.failed) + len(o.handBack) }

// attempt is a running job.
type attempt struct {
	job    *jobs.Job
	config *registry.Config
	lane   *lane
	agent  jobs.ID
	cancel context.CancelCauseFunc
}

func newLedger(slots, loops int, types []jobs.ExecutionType) *ledger {
	l := &ledger{free: slots, types: map[jobs.ExecutionType]bool{}, byName: map[string]*lane{},
		running: map[jobs.ID]*attempt{}, results: map[jobs.ID]*outbox{}, metrics: metrics{},
		signal: make(chan struct{}, loops)}
	for _, t := range types {
		l.types[t] = true
	}
	return l
}

// apply makes config the one that the next claims follow.
func (l *ledger) apply(config *registry.Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config = config
	l.lanes = l.lanes[:0:0]
	for _, s := range config.Services {
		if !l.types[s.ExecutionType] {
			continue
		}
		name := strings.ToLower(s.Name)
		ln := l.byName[name]
		if ln == nil {
			ln = &lane{}
			l.byName[name] = ln
		}
		ln.service, ln.typ, ln.bound = s.Name, s.ExecutionType, s.Concurrency
		l.lanes = append(l.lanes, ln)
	}
	l.armAll()
}

// arm says that jobs may be waiting in any lane.
func (l *ledger) arm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armAll()
}

func (l *ledger) armAll() {
	l.wakes++
	for _, ln := range l.lanes {
		ln.armed = true
	}
	l.poke()
}

// poke lets every waiting loop look again.
func (l *ledger) poke() {
	for range cap(l.signal) {
		select {
		case l.signal <- struct{}{}:
		default:
			return
		}
	}
}

func (l *ledger) pokeOne() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// request is one exchange that a loop has taken to do.
type request struct {
	agent    jobs.ID
	exchange jobs.Exchange
	out      *outbox
	lanes    []*lane // asked, as exchange.Claim.Lanes
	config   *registry.Config
	wakes    uint64
}

// take hands out what is to be exchanged now: results of one incarnation and
// a claim for all room that there is. ok is false when nothing is.
func (l *ledger) take(now time.Time) (req *request, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	req = &request{agent: l.agent, out: &outbox{}, config: l.config, wakes: l.wakes}
	l.takeResults(req)
	if req.agent == l.agent && !l.closed {
		l.takeRoom(req)
	}
	due := len(l.metrics) > 0 && (now.Sub(l.flushed) >= metricsEvery || l.closed)
	if due {
		req.exchange.Metrics = l.metrics.drain()
		l.flushed = now
	}
	return req, req.out.len() > 0 || req.exchange.Claim.Limit > 0 || due
}

// takeResults moves at most maxBatch results into the request. Results of an
// earlier incarnation go first, by themselves: they are fenced by its id.
func (l *ledger) takeResults(req *request) {
	id, box := l.agent, l.results[l.agent]
	for other, b := range l.results {
		if other != l.agent {
			id, box = other, b
		}
	}
	if box == nil {
		return
	}
	req.agent = id
	if box.len() <= maxBatch {
		req.out = box
		delete(l.results, id)
	} else {
		c := min(len(box.completed), maxBatch)
		f := min(len(box.failed), maxBatch-c)
		h := min(len(box.handBack), maxBatch-c-f)
		n := c + f + h
		// lanes only free room; which result a lane stands for is of no matter.
		req.out = &outbox{completed: box.completed[:c:c], failed: box.failed[:f:f], handBack: box.handBack[:h:h], lanes: box.lanes[:n:n]}
		box.completed, box.failed, box.handBack, box.lanes = box.completed[c:], box.failed[f:], box.handBack[h:], box.lanes[n:]
		l.pokeOne()
	}
	req.exchange.Completed, req.exchange.Failed, req.exchange.HandBack = req.out.completed, req.out.failed, req.out.handBack
	l.free += req.out.len()
	for _, ln := range req.out.lanes {
		ln.running--
	}
}

// takeRoom asks for as many jobs as there are slots, shared out between the
// armed lanes, a different one first each time.
func (l *ledger) takeRoom(req *request) {
	if l.free <= 0 || len(l.lanes) == 0 {
		return
	}
	var open []*lane
	for i := range l.lanes {
		ln := l.lanes[(l.next+i)%len(l.lanes)]
		if ln.armed && ln.room(l.free) > 0 {
			open = append(open, ln)
		}
	}
	if len(open) == 0 {
		return
	}
	l.next = (l.next + 1) % len(l.lanes)
	share := (l.free + len(open) - 1) / len(open)
	limit := 0
	for _, ln := range open {
		room := min(share, ln.room(l.free))
		ln.reserved += room
		limit += room
		req.lanes = append(req.lanes, ln)
		req.exchange.Claim.Lanes = append(req.exchange.Claim.Lanes, jobs.Lane{Service: ln.service, Type: ln.typ, Room: room})
	}
	limit = min(limit, l.free)
	req.exchange.Claim.Limit = limit
	l.free -= limit
}

func (ln *lane) room(free int) int {
	if ln.bound == 0 {
		return free
	}
	return min(free, ln.bound-ln.running-ln.reserved)
}

// done settles a request that was carried out and returns the attempts to
// start.
func (l *ledger) done(req *request, claimed []*jobs.Job) []*attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	got := make(map[string]int, len(req.lanes))
	started := make([]*attempt, 0, len(claimed))
	for _, j := range claimed {
		got[j.Service]++
		ln := l.byName[strings.ToLower(j.Service)]
		ln.running++
		a := &attempt{job: j, config: req.config, lane: ln, agent: req.agent}
		started = append(started, a)
		l.running[j.ID] = a
	}
	l.release(req)
	l.free -= len(claimed)
	full := len(claimed) == req.exchange.Claim.Limit
	for i, ln := range req.lanes {
		if !full && got[ln.service] < req.exchange.Claim.Lanes[i].Room && l.wakes == req.wakes {
			ln.armed = false
		}
	}
	if len(req.lanes) > 0 {
		l.pokeOne()
	}
	return started
}

// release gives back the room that a request had reserved.
func (l *ledger) release(req *request) {
	l.free += req.exchange.Claim.Limit
	for i, ln := range req.lanes {
		ln.reserved -= req.exchange.Claim.Lanes[i].Room
	}
}

// undo puts a request back that could not be carried out: its results wait
// for the next exchange.
func (l *ledger) undo(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(req)
	l.free -= req.out.len()
	for _, ln := range req.out.lanes {
		ln.running++
	}
	box := l.box(req.agent)
	box.completed = append(box.completed, req.out.completed...)
	box.failed = append(box.failed, req.out.failed...)
	box.handBack = append(box.handBack, req.out.handBack...)
	box.lanes = append(box.lanes, req.out.lanes...)
	l.metrics.merge(req.exchange.Metrics)
}

// undoClaim settles a request whose results are being recorded one by one: its
// claim was not made.
func (l *ledger) undoClaim(req *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(req)
	l.pokeOne()
}

func (l *ledger) box(agent jobs.ID) *outbox {
	box := l.results[agent]
	if box == nil {
		box = &outbox{}
		l.results[agent] = box
	}
	return box
}

// finish takes an attempt's end: put says where it goes. An attempt without a
// result to record (cancelled by an operator) frees its slot at once.
func (l *ledger) finish(a *attempt, put func(*outbox), count func(metrics)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, a.job.ID)
	if count != nil {
		count(l.metrics)
	}
	if put == nil {
		l.free++
		a.lane.running--
	} else {
		box := l.box(a.agent)
		put(box)
		box.lanes = append(box.lanes, a.lane)
	}
	l.pokeOne()
}

// start gives an attempt the means to be stopped.
func (l *ledger) start(a *attempt, cancel context.CancelCauseFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.cancel = cancel
}

// cancel stops one running attempt with its cause.
func (l *ledger) cancel(id jobs.ID, cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.running[id]
	if a == nil || a.cancel == nil {
		return false
	}
	a.cancel(cause)
	return true
}

// cancelAll stops every running attempt with its cause.
func (l *ledger) cancelAll(cause error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.running {
		if a.cancel != nil {
			a.cancel(cause)
		}
	}
	return len(l.running)
}

// known lists the jobs that this agent holds as the incarnation: running or
// with a result to record.
func (l *ledger) known(agent jobs.ID) []jobs.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]jobs.ID, 0, len(l.running))
	for id, a := range l.running {
		if a.agent == agent {
			ids = append(ids, id)
		}
	}
	if box := l.results[agent]; box != nil {
		for i := range box.completed {
			ids = append(ids, box.completed[i].ID)
		}
		for i := range box.failed {
			ids = append(ids, box.failed[i].ID)
		}
		for _, j := range box.handBack {
			ids = append(ids, j.ID)
		}
	}
	return slices.Clip(ids)
}

// close ends claiming.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.poke()
}

// state returns how many attempts run and how many results wait.
func (l *ledger) state() (running, unrecorded int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, box := range l.results {
		unrecorded += box.len()
	}
	return len(l.running), unrecorded
}

// become makes id the incarnation that claims from now on.
func (l *ledger) become(id jobs.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agent = id
	l.armAll()
}

func (l *ledger) incarnation() jobs.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agent
}
