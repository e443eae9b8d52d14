package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// earliestPulse bounds how often due retries alone may ask for a heartbeat.
const earliestPulse = 100 * time.Millisecond

// pulseIn asks for a heartbeat in at most d, for a retry that is due then.
func (a *Agent) pulseIn(d time.Duration) {
	d = max(d, earliestPulse)
	for {
		select {
		case a.pulse <- d:
			return
		case other := <-a.pulse:
			d = min(d, other)
		}
	}
}

// keepLease renews the lease every third of it and does with it what any
// agent does for all. Without a renewal for a whole lease other agents take
// the jobs over, so the agent stops its own attempts then.
func (a *Agent) keepLease(ctx context.Context, conn *pgx.Conn) {
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	renewed := time.Now()
	next := time.NewTimer(a.interval())
	defer next.Stop()
	due := time.Now().Add(a.interval())
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-a.pulse:
			if at := time.Now().Add(in); at.Before(due) {
				due = at
				next.Reset(in)
			}
			continue
		case <-next.C:
		}
		wait := a.interval()
		pulse, err := a.beat(ctx, conn)
		switch {
		case err == nil:
			renewed = time.Now()
			if pulse.NextRetry >= 0 {
				wait = min(wait, max(pulse.NextRetry, earliestPulse))
			}
			if pulse.TakenOver > 0 {
				a.log.Warn("took over jobs of agents whose lease ran out", "jobs", pulse.TakenOver)
			}
			a.ledger.arm() // the poll that is the net below the notifications
		case errors.Is(err, jobs.ErrLeaseLost):
			a.loseLease()
			if err := jobs.Register(ctx, conn, a.info(), a.opt.Lease); err == nil {
				renewed = time.Now()
			}
			wait = earliestPulse
		case ctx.Err() != nil:
			return
		default:
			conn.Close(context.WithoutCancel(ctx))
			if conn = a.reconnectFor(ctx, renewed.Add(a.opt.Lease), err); conn == nil {
				return
			}
			wait = 0
		}
		due = time.Now().Add(wait)
		next.Reset(wait)
	}
}

// interval is a third of the lease, jittered so that agents do not beat as one.
func (a *Agent) interval() time.Duration {
	third := a.opt.Lease / 3
	return third - time.Duration(rand.Float64()*0.2*float64(third))
}

func (a *Agent) beat(ctx context.Context, conn *pgx.Conn) (jobs.Pulse, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease/3)
	defer cancel()
	pulse, err := jobs.Heartbeat(ctx, conn, a.info(), a.opt.Lease)
	if err != nil {
		return pulse, err
	}
	return pulse, a.obeyCancellations(ctx, conn)
}

// obeyCancellations stops attempts whose cancellation was not signalled to
// this agent, because nobody listened at that moment.
func (a *Agent) obeyCancellations(ctx context.Context, conn *pgx.Conn) error {
	running := a.ledger.known(a.ledger.incarnation())
	if len(running) == 0 {
		return nil
	}
	cancelled, err := jobs.CancelledAmong(ctx, conn, running)
	for _, id := range cancelled {
		a.ledger.cancel(id, errCancelled)
	}
	return err
}

// reconnectFor reconnects; attempts whose lease runs out meanwhile are stopped.
func (a *Agent) reconnectFor(ctx context.Context, expiry time.Time, cause error) *pgx.Conn {
	stop := time.AfterFunc(time.Until(expiry), func() {
		if n := a.ledger.cancelAll(errLeaseGone); n > 0 {
			a.log.Error("lease ran out without the database: stopped the running jobs", "jobs", n)
		}
	})
	defer stop.Stop()
	return a.reconnect(ctx, "heartbeats", cause)
}

// loseLease gives up what the old incarnation runs and becomes a new one.
// Results that it has already may still be recorded: they are fenced by the
// old id, and count only if nobody took the job over.
func (a *Agent) loseLease() {
	n := a.ledger.cancelAll(errLeaseGone)
	a.log.Error("the agent's lease ran out: registering anew", "stopped_jobs", n)
	a.ledger.become(jobs.NewID())
}
