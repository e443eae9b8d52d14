package agent

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// exchange is one connection's loop: it sends "finish what is done and claim
// what there is room for" as one round trip, again at once while there is
// anything to do, and blocks only when there is not. Under load the results
// of one round trip's time make the next batch.
func (a *Agent) exchange(ctx context.Context) {
	conn := a.reconnect(ctx, forQueue, nil)
	busy := a.vitals.loop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var gates time.Duration // when a lane's gates open
	for conn != nil {
		req, again, ok := a.ledger.take(time.Now())
		if !ok {
			if a.finished() {
				break
			}
			if gates > 0 && (again == 0 || gates < again) {
				again = gates
			}
			a.await(timer, again)
			gates = 0
			continue
		}
		var err error
		busy.Store(a.vitals.now())
		gates, err = a.carryOut(ctx, conn, req)
		busy.Store(0)
		a.ledger.land(req)
		if err != nil {
			conn.Close(context.WithoutCancel(ctx))
			a.doubt.Store(a.doubt.Load() || req.asks())
			conn = a.reconnect(ctx, forQueue, err)
		}
		if a.doubt.Load() && conn != nil {
			a.recover(ctx, conn)
		}
		a.gather()
	}
	a.ledger.poke() // the other loops see the end too
	if conn != nil {
		conn.Close(context.WithoutCancel(ctx))
	}
}

// await blocks until something may be to do, for at most d; zero: no bound.
func (a *Agent) await(timer *time.Timer, d time.Duration) {
	if d == 0 {
		<-a.ledger.signal
		return
	}
	timer.Reset(d)
	select {
	case <-a.ledger.signal:
	case <-timer.C:
	}
}

// gatherFor is how long gather waits for one more result.
const gatherFor = 20 * time.Microsecond

// gather lets attempts that end at once do so before the next exchange, which
// then takes their results along: it yields for as long as results come in.
// Attempts that take longer are not waited for.
func (a *Agent) gather() {
	before, last := -1, time.Now()
	for {
		running, ended := a.ledger.pace()
		switch now := time.Now(); {
		case running == 0:
			return
		case ended > before:
			before, last = ended, now
		case now.Sub(last) > gatherFor:
			return
		}
		runtime.Gosched()
	}
}

// finished tells whether the drain is over.
func (a *Agent) finished() bool {
	a.mu.Lock()
	draining := a.draining
	a.mu.Unlock()
	running, unrecorded := a.ledger.state()
	return draining && running == 0 && unrecorded == 0
}

// carryOut makes one exchange and starts what it claimed. It returns when a
// lane opens that it found closed.
func (a *Agent) carryOut(ctx context.Context, conn *pgx.Conn, req *request) (gates time.Duration, err error) {
	a.exchanging.RLock()
	defer a.exchanging.RUnlock()
	began := time.Now()
	unbound := bound(ctx, conn, began.Add(a.opt.Lease))
	out, err := req.exchange.Do(context.Background(), conn, req.agent)
	unbound()
	took := time.Since(began)
	if req.full() {
		a.fullLook.Store(int64(took))
	}
	moved := (*jobs.MovedError)(nil)
	switch {
	case err == nil:
	case errors.As(err, &moved):
		a.log.Warn("results are recorded again", "error", err)
		n := len(req.out.completed)
		a.ledger.retake(req.agent, &outbox{completed: req.out.completed, lanes: req.out.lanes[:n:n]})
	case jobs.Unstorable(err) && !conn.IsClosed():
		return 0, a.within(ctx, func(ctx context.Context) error { return a.takeApart(ctx, conn, req) })
	case jobs.Locked(err) && !conn.IsClosed():
		return 0, a.within(ctx, func(ctx context.Context) error { return a.stepAround(ctx, conn, req) })
	default:
		a.ledger.undo(req)
		return 0, err
	}
	lost := 0
	if err == nil { // counted by the time that the ledger has them recorded
		lost = req.out.len() - out.Recorded
		a.exchanges.add(took, req.out.len(), len(out.Claimed))
		a.counts.lateResults.Add(int64(lost))
	}
	started, gates := a.ledger.done(req, &out, time.Now(), took)
	a.crew.start(started) // before all else that may wait
	if req.asks() || len(out.Waiting) > 0 {
		a.ledger.poke()
	}
	if lost > 0 {
		a.log.Warn("results not recorded: the jobs were cancelled or their lease was lost", "count", lost)
	}
	return gates, nil
}

// bound has what is done with conn fail at the deadline and when ctx ends, until
// it is called off. It does without the goroutine that pgx has watch a context
// that can end, which an exchange of a single job would wait for.
func bound(ctx context.Context, conn *pgx.Conn, deadline time.Time) (unbound func()) {
	raw := conn.PgConn().Conn()
	raw.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(past) })
	return func() {
		stop()
		raw.SetDeadline(time.Time{})
	}
}

var past = time.Unix(1, 0)

// within bounds what is done with the database by a lease: a server that says
// nothing must not hold the loop.
func (a *Agent) within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease)
	defer cancel()
	return do(ctx)
}

// recover hands back the jobs of a claim whose answer was lost with its
// connection: the table says that this agent runs them, and it does not.
func (a *Agent) recover(ctx context.Context, conn *pgx.Conn) {
	a.exchanging.Lock()
	defer a.exchanging.Unlock()
	if !a.doubt.Load() {
		return
	}
	agent, known := a.ledger.known()
	n, err := jobs.HandBackUnknown(ctx, conn, agent, known)
	if err != nil {
		a.log.Warn("look for claims whose answer was lost", "error", err)
		return
	}
	a.doubt.Store(false)
	a.ledger.wake(jobs.First)
	if n > 0 {
		a.log.Warn("handed back claims whose answer was lost", "jobs", n)
	}
}

// listen keeps the subscription to wake-ups and control messages.
func (a *Agent) listen(ctx context.Context) {
	conn := a.reconnect(ctx, forWakeUps, nil)
	for conn != nil {
		listening := func() { // what was said before is looked for
			a.circuits.Store(true)
			a.switches.Store(true)
			a.ledger.wake(jobs.First)
			a.pulseIn(0)
		}
		err := jobs.Listen(ctx, conn, listening, a.obeySignal)
		conn.Close(context.WithoutCancel(ctx))
		conn = a.reconnect(ctx, forWakeUps, err)
	}
}

func (a *Agent) obeySignal(s jobs.Signal) {
	switch s.Kind {
	case jobs.JobsWaiting:
		a.ledger.wake(s.Place)
	case jobs.Cancel:
		if a.ledger.cancel(s.Job, errCancelled) {
			a.log.Info("job cancelled by an operator", "job", s.Job.String())
		}
	case jobs.Order:
		if s.Agent == a.ledger.incarnation() {
			a.pulseIn(0)
		}
	case jobs.Tripping:
		a.circuits.Store(true) // read with the heartbeat
		a.switches.Store(true)
		a.pulseIn(0)
	case jobs.Follow:
		a.logs.follow(a.ledger.attempt(s.Job))
	case jobs.Switched:
		a.ledger.reopen()
	}
}
