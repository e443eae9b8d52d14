package agent

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// loop is a connection with the loop that works on it, which goes from one goroutine
// to another: whoever claimed jobs runs the first of them.
type loop struct {
	ctx     context.Context
	purpose string
	conn    *pgx.Conn     // nil: it is over
	busy    *atomic.Int64 // since when an exchange is under way
	ended   func()        // to be called at its end

	timer *time.Timer   // of one that exchanges
	gates time.Duration // when a lane's gates open

	signals *jobs.Subscription // of one that listens; nil: it does not yet
	rests   time.Time          // it leaves new jobs to the others until then
}

// open connects a new loop and has do work on it.
func (a *Agent) open(ctx context.Context, purpose string, ended func(), do func(*loop)) {
	l := &loop{ctx: ctx, purpose: purpose, ended: ended, busy: a.vitals.loop(), timer: time.NewTimer(time.Hour)}
	l.conn = a.reconnect(ctx, purpose, nil)
	do(l)
}

// end closes what the loop holds.
func (l *loop) end() {
	l.timer.Stop()
	if l.conn != nil {
		l.close()
	}
	l.ended()
}

func (l *loop) close() {
	if l.signals != nil {
		l.signals.Close()
		l.signals = nil
	}
	l.conn.Close(context.WithoutCancel(l.ctx))
}

// exchange sends "finish what is done and claim what there is room for" as one
// round trip, again at once while there is anything to do, and blocks only when
// there is not. Under load the results of one round trip's time make the next
// batch.
func (a *Agent) exchange(l *loop) {
	for l.conn != nil {
		req, again, ok := a.ledger.take(time.Now())
		if !ok {
			if a.ledger.finished() {
				break
			}
			if l.gates > 0 && (again == 0 || l.gates < again) {
				again = l.gates
			}
			a.await(l.timer, again)
			l.gates = 0
			continue
		}
		came := a.carryOut(l, req)
		l.gates = came.gates
		goOn := func() {
			a.after(l, req, came)
			a.gather()
			a.exchange(l)
		}
		if len(came.started) > 0 {
			a.crew.lead(came.started, goOn)
			return
		}
		a.after(l, req, came)
		a.gather()
	}
	a.ledger.poke() // the other loops see the end too
	l.end()
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

// landing is what came of an exchange.
type landing struct {
	started []*attempt
	gates   time.Duration // when a lane opens that was found closed
	lost    int           // results that the table did not take
	err     error         // the connection is of no more use
}

// carryOut makes one exchange. Whoever calls it has what it claimed started and
// then calls after.
func (a *Agent) carryOut(l *loop, req *request) (came landing) {
	a.exchanging.RLock()
	defer a.exchanging.RUnlock()
	l.busy.Store(a.vitals.now())
	defer l.busy.Store(0)
	began := time.Now()
	unbound := bound(l.ctx, l.conn, began.Add(a.opt.Lease))
	out, err := req.exchange.Do(context.Background(), l.conn, req.agent)
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
	case jobs.Unstorable(err) && !l.conn.IsClosed():
		came.err = a.within(l.ctx, func(ctx context.Context) error { return a.takeApart(ctx, l.conn, req) })
		return came
	case jobs.Locked(err) && !l.conn.IsClosed():
		came.err = a.within(l.ctx, func(ctx context.Context) error { return a.stepAround(ctx, l.conn, req) })
		return came
	default:
		a.ledger.undo(req)
		came.err = err
		return came
	}
	if err == nil { // counted by the time that the ledger has them recorded
		came.lost = req.out.len() - out.Recorded
		a.exchanges.add(took, req.out.len(), len(out.Claimed))
		a.counts.lateResults.Add(int64(came.lost))
	}
	came.started, came.gates = a.ledger.done(req, &out, time.Now(), took)
	return came
}

// after does what an exchange leaves to do once the jobs that it claimed have
// been started.
func (a *Agent) after(l *loop, req *request, came landing) {
	a.ledger.land(req)
	if came.lost > 0 {
		a.log.Warn("results not recorded: the jobs were cancelled or their lease was lost", "count", came.lost)
	}
	if came.err != nil {
		a.doubt.Store(a.doubt.Load() || req.asks())
		a.connectAnew(l, came.err)
	}
	if a.doubt.Load() && l.conn != nil {
		a.recover(l.ctx, l.conn)
	}
}

// connectAnew gives the loop another connection.
func (a *Agent) connectAnew(l *loop, cause error) {
	l.close()
	l.conn = a.reconnect(l.ctx, l.purpose, cause)
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

// What keeps a loop that listens from claiming for a while: a claim that took so
// long that other signals had to wait.
const (
	longClaim = 100 * time.Millisecond
	leftAlone = 10 * time.Second
)

// listen keeps the subscription to wake-ups and control messages. Jobs that it
// hears of while there is nothing else to exchange it claims itself, which saves
// them the way through another goroutine and another connection. Such a claim
// carries nothing and asks no gates: what could wait for somebody's lock on a row
// is the others' to send.
func (a *Agent) listen(l *loop) {
	for l.conn != nil {
		signal, err := a.hear(l)
		if err != nil {
			a.connectAnew(l, err)
			continue
		}
		if signal.Kind != jobs.JobsWaiting {
			a.obeySignal(signal)
			continue
		}
		now := time.Now()
		req, ok := a.ledger.takeAtOnce(signal.Place, now, now.Before(l.rests))
		if !ok {
			continue
		}
		came := a.carryOut(l, req)
		if took := time.Since(now); took > longClaim {
			l.rests = now.Add(took + leftAlone)
		}
		if len(came.started) > 0 {
			a.crew.lead(came.started, func() {
				a.after(l, req, came)
				a.listen(l)
			})
			return
		}
		a.after(l, req, came)
	}
	l.end()
}

// hear waits for a signal.
func (a *Agent) hear(l *loop) (s jobs.Signal, err error) {
	if l.signals == nil {
		if l.signals, err = jobs.Subscribe(l.ctx, l.conn); err != nil {
			return s, err
		}
		a.circuits.Store(true) // what was said before is looked for
		a.switches.Store(true)
		a.ledger.wake(jobs.First)
		a.pulseIn(0)
	}
	return l.signals.Next()
}

func (a *Agent) obeySignal(s jobs.Signal) {
	switch s.Kind {
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
