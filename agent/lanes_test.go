package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// queue is a model of the table: rows that wait, and requests under way.
type queue struct {
	ledger  *ledger
	waiting map[string][]jobs.Place
	wakes   []jobs.Place // committed, not yet heard of
	flying  []flight
	running []*attempt
	ended   int // and not recorded
	claimed int
}

type flight struct {
	req *request
	out jobs.Exchanged
}

// insert commits a row; its wake-up comes later.
func (q *queue) insert(service string, at jobs.Place) {
	q.waiting[service] = append(q.waiting[service], at)
	slices.SortFunc(q.waiting[service], jobs.Place.Compare)
	q.wakes = append(q.wakes, jobs.Place{Micros: at.Micros})
}

// send takes a request and lets the model answer as the claim's SQL does; the
// ledger hears of it later. It tells whether there was anything to do.
func (q *queue) send() bool {
	req, _, ok := q.ledger.take(time.Now())
	if ok {
		q.fly(req)
	}
	return ok
}

func (q *queue) fly(req *request) {
	f := flight{req: req}
	for _, lane := range req.exchange.Claim.Lanes {
		room := min(lane.Room, req.exchange.Claim.Limit-len(f.out.Claimed))
		rows := q.waiting[lane.Service]
		rest := rows[:0:0]
		for _, at := range rows {
			if room > 0 && lane.From.Before(at) {
				f.out.Claimed = append(f.out.Claimed, &jobs.Job{ID: jobs.NewID(), Service: lane.Service, Place: at})
				room--
			} else {
				rest = append(rest, at)
			}
		}
		q.waiting[lane.Service] = rest
	}
	if req.exchange.Search {
		for service, rows := range q.waiting {
			if len(rows) > 0 {
				f.out.Waiting = append(f.out.Waiting, service)
			}
		}
		f.out.Waiting = append(f.out.Waiting, "unknown")
	}
	q.flying = append(q.flying, f)
}

func (q *queue) land(i int, fail bool) {
	f := q.flying[i]
	defer q.ledger.land(f.req)
	q.flying = slices.Delete(q.flying, i, i+1)
	if fail { // rolled back: the rows wait as before, and nobody is told
		for _, j := range f.out.Claimed {
			q.waiting[j.Service] = append(q.waiting[j.Service], j.Place)
		}
		for s := range q.waiting {
			slices.SortFunc(q.waiting[s], jobs.Place.Compare)
		}
		q.ledger.undo(f.req)
		return
	}
	q.ended -= f.req.out.len()
	started, _ := q.ledger.done(f.req, &f.out, time.Now(), 0)
	q.running = append(q.running, started...)
	q.claimed += len(started)
}

func (q *queue) end(i int) {
	a := q.running[i]
	q.running = slices.Delete(q.running, i, i+1)
	q.ended++
	q.ledger.finish(a, outcome{completed: &jobs.Completion{Job: a.job}}, func(*ledger) {})
}

// hear hears of a wake-up and may claim at once.
func (q *queue) hear(busy bool) {
	if req, ok := q.ledger.takeAtOnce(q.wakes[0], time.Now(), busy); ok {
		q.fly(req)
	}
	q.wakes = q.wakes[1:]
}

// TestNoJobIsOverlooked: however wake-ups, claims of several connections, lost
// claims and ends follow each other, every job is found without any look
// through a whole lane after the first.
func TestNoJobIsOverlooked(t *testing.T) {
	few := []string{"a:http", "b:http", "c:http"}
	many := slices.Clone(few)
	for i := range manyLanes {
		many = append(many, fmt.Sprintf("other_%d:http", i))
	}
	for name, config := range map[string]*registry.Config{"few lanes": parse(t, few...), "many lanes": parse(t, many...)} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				findAll(t, config)
			}
		})
	}
}

func findAll(t *testing.T, config *registry.Config) {
	config.Services[0].Concurrency, config.Services[1].Concurrency = 1, 3
	rapid.Check(t, func(t *rapid.T) {
		const slots = 7
		q := &queue{ledger: newLedger(slots, 2, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{}}
		q.ledger.apply(config, nil)
		inserted := 0
		for now := range rapid.Int64Range(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				service := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service")
				for range rapid.IntRange(1, 4).Draw(t, "rows") {
					q.insert(service, jobs.Place{Micros: now - rapid.Int64Range(0, 5).Draw(t, "age"), ID: jobs.NewID()})
					inserted++
				}
			case 2:
				if len(q.wakes) > 0 {
					q.hear(rapid.Bool().Draw(t, "busy"))
				}
			case 3, 4, 5:
				if len(q.flying) < 4 {
					q.send()
				}
			case 6:
				if len(q.flying) > 0 {
					q.land(rapid.IntRange(0, len(q.flying)-1).Draw(t, "which"), rapid.IntRange(0, 2).Draw(t, "fails") == 0)
				}
			default:
				if len(q.running) > 0 {
					q.end(rapid.IntRange(0, len(q.running)-1).Draw(t, "which"))
				}
			}
			busy := len(q.running)
			for _, f := range q.flying {
				busy += len(f.out.Claimed)
			}
			if busy > slots || q.ledger.free > slots {
				t.Fatalf("%d jobs in %d slots, %d free", busy, slots, q.ledger.free)
			}
			if running, unrecorded := q.ledger.state(); running != len(q.running) || unrecorded != q.ended {
				t.Fatalf("the ledger has %d running and %d unrecorded, there are %d and %d", running, unrecorded, len(q.running), q.ended)
			}
		}
		for len(q.wakes) > 0 {
			q.hear(false)
		}
		for round := 0; ; round++ {
			for len(q.flying) > 0 {
				q.land(0, false)
			}
			for len(q.running) > 0 {
				q.end(0)
			}
			q.ledger.coldDue = time.Time{}
			if !q.send() {
				break
			}
			if round > 10000 {
				t.Fatal("the ledger never comes to rest")
			}
		}
		if q.claimed != inserted {
			t.Fatalf("%d of %d jobs were found; %v wait", q.claimed, inserted, q.waiting)
		}
		if _, unrecorded := q.ledger.state(); q.ledger.free != slots || unrecorded != 0 {
			t.Fatalf("at rest %d of %d slots are free, %d results unrecorded", q.ledger.free, slots, unrecorded)
		}
		for _, ln := range q.ledger.lanes {
			if ln.running != 0 || ln.reserved != 0 || len(ln.looks) != 0 {
				t.Fatalf("at rest lane %s has running %d, reserved %d, looks %d", ln.service, ln.running, ln.reserved, len(ln.looks))
			}
		}
	})
}

func TestContextOfAnAttemptIsLikeTheStandardOne(t *testing.T) {
	cause := errors.New("cause")
	waits := &attemptContext{deadline: time.Now().Add(time.Hour)}
	done := waits.Done()
	waits.end(cause)
	<-done
	early := &attemptContext{deadline: time.Now().Add(time.Hour)}
	early.end(cause)
	<-early.Done()
	late := &attemptContext{deadline: time.Now().Add(-time.Second)}
	if late.Err() == nil {
		t.Error("a deadline that has passed is not seen before anybody waits")
	}
	<-late.Done()
	for name, c := range map[string]*attemptContext{"waited for": waits, "stopped early": early} {
		if c.Err() == nil || context.Cause(c) != cause {
			t.Errorf("%s: %v, cause %v", name, c.Err(), context.Cause(c))
		}
		child, stop := context.WithTimeout(c, time.Hour)
		defer stop()
		<-child.Done()
	}
}

// TestAttemptsAreStoppedFromTheirClaimOn, also before they begin: one that an
// operator cancels, and all of an incarnation that was given up in the meantime.
func TestAttemptsAreStoppedFromTheirClaimOn(t *testing.T) {
	q := &queue{ledger: newLedger(2, 1, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{"a": {{Micros: 1}, {Micros: 2}}}}
	l := q.ledger
	l.apply(parse(t, "a:http"), nil)
	q.send()
	q.land(0, false)
	if !l.cancel(q.running[0].job.ID, errCancelled) || l.cancel(jobs.NewID(), errCancelled) {
		t.Error("cancel does not know which attempt it stopped")
	}
	begin := func(at *attempt) error {
		at.stoppable.deadline = time.Now().Add(time.Hour)
		return context.Cause(&at.stoppable)
	}
	if first, second := begin(q.running[0]), begin(q.running[1]); first != errCancelled || second != nil {
		t.Errorf("the one cancelled: %v; the other: %v", first, second)
	}
	q.end(0)
	q.end(0)
	q.waiting["a"] = []jobs.Place{{Micros: 3}}
	l.wake(jobs.First)
	q.send()
	l.become(jobs.NewID())
	l.cancelAll(errLeaseGone)
	q.land(0, false)
	if cause := begin(q.running[0]); cause != errLeaseGone {
		t.Errorf("claimed by an incarnation that was given up: %v", cause)
	}
}

func TestAnAttemptThatWasStoppedBeforeItBeginsRunsNothing(t *testing.T) {
	config := parse(t, "a:http")
	q := &queue{ledger: newLedger(1, 1, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{"a": {{Micros: 1}}}}
	q.ledger.apply(config, nil)
	q.send()
	q.land(0, false)
	at := q.running[0]
	at.job.Operation = config.Services[0].Operations[0].Name
	a := &Agent{log: (&journal{}).logger(slog.LevelInfo), ledger: q.ledger, logs: newLogs(), opt: Options{Runners: []runners.Runner{
		fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
			t.Error("it ran")
			return runners.Result{}, nil
		}}}}}
	q.ledger.cancel(at.job.ID, errCancelled)
	a.run(at)
	if running, unrecorded := q.ledger.state(); running != 0 || unrecorded != 0 || q.ledger.free != 1 {
		t.Errorf("%d run, %d are unrecorded, %d slots are free", running, unrecorded, q.ledger.free)
	}
}

// TestAFewResultsWaitForMore: a full exchange costs less than several small
// ones, but nothing waits long, and a new job not at all.
func TestAFewResultsWaitForMore(t *testing.T) {
	q := &queue{ledger: newLedger(100, 2, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{}}
	q.ledger.apply(parse(t, "a:http"), nil)
	for i := range int64(100) {
		q.waiting["a"] = append(q.waiting["a"], jobs.Place{Micros: i + 1})
	}
	if !q.send() {
		t.Fatal("nothing is claimed")
	}
	q.land(0, false)
	if len(q.running) != 100 {
		t.Fatalf("%d jobs run", len(q.running))
	}
	l := q.ledger
	declines := func(what string, at time.Time, most time.Duration) {
		t.Helper()
		if _, again, ok := l.take(at); ok || again <= 0 || again > most {
			t.Fatalf("%s: taken %t, looks again in %s, want within %s", what, ok, again, most)
		}
	}
	q.end(0)
	ended := l.first
	declines("one result of many jobs", ended, moment)
	req, _, ok := l.take(ended.Add(moment))
	if !ok || len(req.exchange.Completed) != 1 {
		t.Fatal("one result waits longer than a moment")
	}
	// Beside that exchange:
	q.end(0)
	declines("one result beside an exchange", l.taken.Add(moment), slowExchange)
	if _, _, ok := l.take(l.taken.Add(slowExchange)); !ok {
		t.Fatal("a result waits for an exchange that takes long")
	}
	q.end(0)
	declines("a result once more", l.taken, slowExchange)
	for range l.quorum - 1 {
		q.end(0)
	}
	if req, _, ok := l.take(l.taken); !ok || len(req.exchange.Completed) != l.quorum {
		t.Fatal("results that fill an exchange wait")
	}
	q.end(0)
	l.wake(jobs.Place{Micros: 1000})
	l.mu.Lock()
	l.free++ // as where a slot is idle
	l.mu.Unlock()
	if req, _, ok := l.take(l.taken); !ok || !req.asks() {
		t.Fatal("a new job waits although there is room for it")
	}
}

// TestNewJobsAreClaimedAtOnce: whoever hears of new jobs claims them where there is
// nothing else to exchange, but asks no gates and carries no results; both are left
// to the loops.
func TestNewJobsAreClaimedAtOnce(t *testing.T) {
	config := parse(t, "a:http", "b:http")
	config.Services[1].SecurityPolicy.RateLimitPerMinute = 60
	q := &queue{ledger: newLedger(10, 2, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{}}
	l := q.ledger
	l.apply(config, nil)
	at := jobs.Place{Micros: 7}
	q.insert("a", at)
	called := func() bool {
		select {
		case <-l.signal:
			return true
		default:
			return false
		}
	}
	called()

	req, ok := l.takeAtOnce(at, time.Now(), false)
	if !ok || len(req.exchange.Claim.Lanes) != 1 || req.exchange.Claim.Lanes[0].Service != "a" || len(req.exchange.Claim.Gated) != 0 {
		t.Fatalf("claimed at once: %v, %+v", ok, req)
	}
	gated, _, ok := l.take(time.Now())
	if !ok || len(gated.exchange.Claim.Lanes) != 0 || len(gated.exchange.Claim.Gated) != 1 {
		t.Fatalf("left to the loops: %v, %+v", ok, gated)
	}
	refuses := func(why string, busy bool) {
		t.Helper()
		called()
		if _, ok := l.takeAtOnce(at, time.Now(), busy); ok {
			t.Errorf("claims at once %s", why)
		}
		if !called() {
			t.Errorf("nobody was called %s", why)
		}
	}
	refuses("beside an exchange", false)
	l.done(gated, &jobs.Exchanged{Gates: []jobs.Gate{{Service: "b"}}}, time.Now(), 0)
	l.land(gated)
	q.fly(req)
	q.land(0, false)
	if len(q.running) != 1 {
		t.Fatalf("%d jobs run", len(q.running))
	}
	refuses("while it is busy", true)
	q.end(0)
	refuses("while a result waits", false)
	if !q.send() {
		t.Fatal("the result is not sent")
	}
	q.land(0, false)
	l.close()
	refuses("when the ledger is closed", false)
}

// besideGates is a ledger of a lane a without gates and a lane b with them, and
// tells whether a loop has been called since.
func besideGates(t *testing.T) (l *ledger, called func() bool) {
	config := parse(t, "a:http", "b:http")
	config.Services[1].SecurityPolicy.RateLimitPerMinute = 60
	l = newLedger(10, 2, []jobs.ExecutionType{jobs.HTTP})
	l.apply(config, nil)
	called = func() bool { return len(l.signal) > 0 }
	for called() {
		<-l.signal
	}
	return l, called
}

// TestLanesWithGatesThatHadNoJobsWaitForAClaimAtOnce: no loop is called beside it for
// them, but when it is over. For one that had jobs a loop is.
func TestLanesWithGatesThatHadNoJobsWaitForAClaimAtOnce(t *testing.T) {
	for _, hot := range []bool{false, true} {
		l, called := besideGates(t)
		l.byName["b"].hot = hot
		req, ok := l.takeAtOnce(jobs.Place{Micros: 7}, time.Now(), false)
		if !ok || called() != hot {
			t.Errorf("had jobs: %t; claimed at once: %t, a loop is called: %t", hot, ok, called())
		}
		l.done(req, &jobs.Exchanged{}, time.Now(), 0)
		l.land(req)
		if !called() {
			t.Error("no loop is called when the claim is over")
		}
		if next, _, ok := l.take(time.Now()); !ok || len(next.exchange.Claim.Gated) != 1 {
			t.Errorf("the lane with gates is not asked: %t, %+v", ok, next)
		}
	}
}

// TestALaneWhoseGatesAreClosedCallsNoLoopBesideAClaimAtOnce: there is nothing to ask
// it, although it had jobs the last time. When the claim is over, a loop comes to
// know when the lane opens, also if its only job was heard of with this claim.
func TestALaneWhoseGatesAreClosedCallsNoLoopBesideAClaimAtOnce(t *testing.T) {
	l, called := besideGates(t)
	l.woken = jobs.Last // all is looked through
	now := time.Now()
	ln := l.byName["b"]
	ln.hot, ln.closed, ln.from = true, now.Add(time.Minute), jobs.Last
	req, ok := l.takeAtOnce(jobs.Place{Micros: 7}, now, false)
	if !ok || called() {
		t.Errorf("claimed at once: %t, a loop is called: %t", ok, called())
	}
	l.done(req, &jobs.Exchanged{}, now, 0)
	l.land(req)
	if !called() {
		t.Error("no loop is called when the claim is over")
	}
	if next, again, ok := l.take(now); ok || again != time.Minute {
		t.Errorf("to be asked again in %v, wanted %v: %t, %+v", again, time.Minute, ok, next)
	}
	if next, _, ok := l.take(now.Add(time.Minute)); !ok || len(next.exchange.Claim.Gated) != 1 {
		t.Errorf("the open lane is not asked: %t, %+v", ok, next)
	}
}

// TestAClaimUnderWayIsNoEnd: a ledger that claims no more is not finished while a
// claim is under way, whoever made it: what that brings has to be run and recorded.
func TestAClaimUnderWayIsNoEnd(t *testing.T) {
	q := &queue{ledger: newLedger(10, 2, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{}}
	q.ledger.apply(parse(t, "a:http"), nil)
	q.insert("a", jobs.Place{Micros: 7})
	q.hear(false)
	q.ledger.close()
	for _, s := range []struct {
		when string
		then func()
	}{
		{"while a claim is under way", func() { q.land(0, false) }},
		{"while an attempt runs", func() { q.end(0) }},
		{"while a result waits", func() { q.send() }},
		{"while a result is being recorded", func() { q.land(0, false) }},
	} {
		if q.ledger.finished() {
			t.Fatalf("finished %s", s.when)
		}
		s.then()
	}
	if !q.ledger.finished() {
		t.Fatal("not finished when all is recorded")
	}
}
