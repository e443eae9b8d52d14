package agent

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// exchange is one connection's loop: it sends "finish what is done and claim
// what there is room for" as one round trip, again at once while there is
// anything to do, and blocks only when there is not. Under load the results
// of one round trip's time make the next batch.
func (a *Agent) exchange(ctx context.Context) {
	conn := a.reconnect(ctx, "the queue", nil)
	for conn != nil {
		req, ok := a.ledger.take(time.Now())
		if !ok {
			if a.finished() {
				break
			}
			select {
			case <-a.ledger.signal:
			case <-time.After(metricsEvery): // counts that no exchange took along
			}
			continue
		}
		if err := a.carryOut(ctx, conn, req); err != nil {
			conn.Close(context.WithoutCancel(ctx))
			a.doubt.Store(a.doubt.Load() || req.exchange.Claim.Limit > 0)
			conn = a.reconnect(ctx, "the queue", err)
		}
		if a.doubt.Load() && conn != nil {
			a.recover(ctx, conn)
		}
	}
	a.ledger.poke() // the other loops see the end too
	if conn != nil {
		conn.Close(context.WithoutCancel(ctx))
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

// carryOut makes one exchange and starts what it claimed.
func (a *Agent) carryOut(ctx context.Context, conn *pgx.Conn, req *request) error {
	a.exchanging.RLock()
	defer a.exchanging.RUnlock()
	out, err := req.exchange.Do(ctx, conn, req.agent)
	if err != nil && jobs.Unstorable(err) && !conn.IsClosed() {
		return a.takeApart(ctx, conn, req)
	}
	if err != nil {
		a.ledger.undo(req)
		return err
	}
	if lost := req.out.len() - out.Recorded; lost > 0 {
		a.log.Warn("results not recorded: the jobs were cancelled or their lease was lost", "count", lost)
	}
	for _, at := range a.ledger.done(req, out.Claimed) {
		go a.run(at)
	}
	return nil
}

// takeApart records the results of a batch one by one, because one of them
// cannot be stored: that one becomes a failure that says so, the others are
// recorded as they are.
func (a *Agent) takeApart(ctx context.Context, conn *pgx.Conn, req *request) error {
	a.ledger.undoClaim(req)
	one := func(e jobs.Exchange) error { _, err := e.Do(ctx, conn, req.agent); return err }
	refused := func(c jobs.Completion, cause error) error {
		c.Output, c.Security = nil, nil
		return one(jobs.Exchange{Failed: []jobs.Failure{{Completion: c, Final: true,
			Error: printable((&runners.FinalError{Err: cause}).Error())}}})
	}
	for _, c := range req.out.completed {
		if err := one(jobs.Exchange{Completed: []jobs.Completion{c}}); err != nil {
			if !jobs.Unstorable(err) {
				return err
			}
			if err := refused(c, err); err != nil {
				return err
			}
		}
	}
	for _, f := range req.out.failed {
		if err := one(jobs.Exchange{Failed: []jobs.Failure{f}}); err != nil {
			if !jobs.Unstorable(err) {
				return err
			}
			if err := refused(f.Completion, err); err != nil {
				return err
			}
		}
	}
	return one(jobs.Exchange{HandBack: req.out.handBack, Metrics: req.exchange.Metrics})
}

// recover hands back the jobs of a claim whose answer was lost with its
// connection: the table says that this agent runs them, and it does not.
func (a *Agent) recover(ctx context.Context, conn *pgx.Conn) {
	a.exchanging.Lock()
	defer a.exchanging.Unlock()
	if !a.doubt.Load() {
		return
	}
	agent := a.ledger.incarnation()
	n, err := jobs.HandBackUnknown(ctx, conn, agent, a.ledger.known(agent))
	if err != nil {
		a.log.Warn("look for claims whose answer was lost", "error", err)
		return
	}
	a.doubt.Store(false)
	a.ledger.arm()
	if n > 0 {
		a.log.Warn("handed back claims whose answer was lost", "jobs", n)
	}
}

// listen keeps the subscription to wake-ups and control messages.
func (a *Agent) listen(ctx context.Context) {
	conn := a.reconnect(ctx, "wake-ups", nil)
	for conn != nil {
		listening := func() { // what was said before is looked for
			a.ledger.arm()
			a.pulseIn(0)
		}
		err := jobs.Listen(ctx, conn, listening, func(s jobs.Signal) {
			switch s.Kind {
			case jobs.Cancel:
				if a.ledger.cancel(s.Job, errCancelled) {
					a.log.Info("job cancelled by an operator", "job", s.Job.String())
				}
			default:
				a.ledger.arm()
			}
		})
		conn.Close(context.WithoutCancel(ctx))
		conn = a.reconnect(ctx, "wake-ups", err)
	}
}
