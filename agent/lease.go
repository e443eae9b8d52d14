package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specql/specql-ops/jobs"
)

// earliestPulse bounds how often anything but its time may ask for a heartbeat
// or a chore.
const earliestPulse = 100 * time.Millisecond

// pulseIn asks for a heartbeat in at most d.
func (a *Agent) pulseIn(d time.Duration) { soonest(a.pulse, max(d, earliestPulse)) }

// choreIn asks for the promotion of retries in at most d, when one is due.
func (a *Agent) choreIn(d time.Duration) { soonest(a.chore, d) }

// soonest leaves the smallest of all wishes in the channel of one place.
func soonest(wishes chan time.Duration, d time.Duration) {
	for {
		select {
		case wishes <- d:
			return
		case other := <-wishes:
			d = min(d, other)
		}
	}
}

// alarm is a timer that only ever moves forward.
type alarm struct {
	*time.Timer
	due time.Time
}

func newAlarm(in time.Duration) *alarm {
	return &alarm{Timer: time.NewTimer(in), due: time.Now().Add(in)}
}

func (al *alarm) set(in time.Duration) {
	al.due = time.Now().Add(in)
	al.Reset(max(0, in))
}

func (al *alarm) sooner(in time.Duration) {
	if time.Now().Add(in).Before(al.due) {
		al.set(in)
	}
}

// at moves the alarm forward to what the database says is due.
func (al *alarm) at(d jobs.Due) {
	if d.Known {
		al.sooner(max(d.In, earliestPulse))
	}
}

// never is how far an alarm is set that waits to be moved forward.
const never = 1000 * time.Hour

// keepLease renews the lease every third of it and does what any agent does
// for all. Without a renewal for a whole lease other agents take the jobs
// over, so the agent stops its own attempts then.
func (a *Agent) keepLease(ctx context.Context, conn *pgx.Conn) {
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	defer a.vitals.sign.Store(0)
	beat, lapses, retries := newAlarm(0), newAlarm(never), newAlarm(never)
	defer beat.Stop()
	defer lapses.Stop()
	defer retries.Stop()
	for {
		var err error
		a.vitals.alive()
		select {
		case <-ctx.Done():
			return
		case in := <-a.pulse:
			beat.sooner(in)
			continue
		case in := <-a.chore:
			retries.sooner(max(in, earliestPulse))
			continue
		case <-beat.C:
			beat.set(a.interval())
			if a.unregistered.Load() {
				err = a.register(ctx, conn)
				beat.set(earliestPulse)
				break
			}
			var pulse jobs.Pulse
			if pulse, err = a.beat(ctx, conn); err == nil {
				lapses.at(pulse.NextLapse)
				retries.at(pulse.NextRetry)
			}
		case <-lapses.C:
			lapses.set(never)
			err = a.takeOver(ctx, conn)
		case <-retries.C:
			retries.set(never)
			var next jobs.Due
			if next, err = a.promote(ctx, conn); err == nil {
				retries.at(next)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, jobs.ErrLeaseLost):
			a.loseLease("the agent's lease ran out: registering anew")
			beat.set(0)
		case ctx.Err() != nil:
			return
		default:
			conn.Close(context.WithoutCancel(ctx))
			if conn = a.reconnectFor(ctx, a.vitals.renewedAt().Add(a.opt.Lease), err); conn == nil {
				return
			}
			beat.set(0)
		}
	}
}

// interval is a third of the lease, jittered so that agents do not beat as one.
func (a *Agent) interval() time.Duration {
	third := a.opt.Lease / 3
	return third - rand.N(third/5)
}

// beat renews the lease and obeys what operators want.
func (a *Agent) beat(ctx context.Context, conn *pgx.Conn) (pulse jobs.Pulse, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease/3)
	defer cancel()
	asked := a.vitals.now()
	pulse, err = jobs.Heartbeat(ctx, conn, a.info(), a.opt.Lease)
	if err != nil {
		return pulse, err
	}
	a.vitals.renew(asked)
	a.obeyOrders(pulse)
	a.poll()
	for _, do := range []func(context.Context, *pgx.Conn) error{a.obeyCancellations, a.obeyCircuits, a.obeySwitches, a.publish, a.upkeep} {
		if err := do(ctx, conn); err != nil {
			return pulse, err
		}
	}
	return pulse, nil
}

// takeOver puts the jobs of lost agents back to pending.
func (a *Agent) takeOver(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease/3)
	defer cancel()
	taken, err := jobs.TakeOver(ctx, conn)
	if taken > 0 {
		a.log.Warn("took over jobs of agents whose lease ran out", "jobs", taken)
		a.counts.takenOver.Add(int64(taken))
	}
	return err
}

// promote lets retries that are due wait again; next is when another one is.
func (a *Agent) promote(ctx context.Context, conn *pgx.Conn) (next jobs.Due, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease/3)
	defer cancel()
	_, next, err = jobs.Promote(ctx, conn)
	return next, err
}

// poll is the net below the notifications: now and then all lanes are looked
// through from their beginning. Where that takes long, because PostgreSQL must
// keep the traces of finished jobs for somebody's old snapshot, it is done the
// more seldom.
func (a *Agent) poll() {
	every := max(a.opt.Lease*9/10, 50*time.Duration(a.fullLook.Load()))
	if time.Since(a.polled) >= every {
		a.polled = time.Now()
		a.ledger.wake(jobs.First)
	}
}

// obeyCancellations stops attempts whose cancellation was not signalled to
// this agent, because nobody listened at that moment.
func (a *Agent) obeyCancellations(ctx context.Context, conn *pgx.Conn) error {
	_, running := a.ledger.known()
	if len(running) == 0 {
		return nil
	}
	cancelled, err := jobs.CancelledAmong(ctx, conn, running)
	for _, id := range cancelled {
		a.ledger.cancel(id, errCancelled)
	}
	return err
}

// obeyCircuits reads which circuits are not closed, where any may have changed.
func (a *Agent) obeyCircuits(ctx context.Context, conn *pgx.Conn) error {
	if !a.circuits.Swap(false) {
		return nil
	}
	tripped, err := jobs.Tripped(ctx, conn)
	if err != nil {
		a.circuits.Store(true)
		return err
	}
	a.ledger.trip(tripped)
	return nil
}

// register enters the incarnation that the agent has become.
func (a *Agent) register(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, a.opt.Lease/3)
	defer cancel()
	info, asked, at := a.info(), a.vitals.now(), time.Now()
	err := jobs.Register(ctx, conn, info, a.opt.Lease)
	refused := (*pgconn.PgError)(nil)
	switch {
	case err == nil:
		a.vitals.renew(asked)
		a.unregistered.Store(false)
		a.doubted = registration{}
	case errors.Is(err, jobs.ErrLeaseLost):
		a.unregistered.Store(false) // it was registered
	case !errors.As(err, &refused) && a.doubted.id != info.ID:
		a.doubted = registration{info.ID, at}
	}
	return err
}

// registration is one whose answer was lost: it may have been carried out, and
// jobs be claimed by it, from then on.
type registration struct {
	id jobs.ID
	at time.Time
}

// reconnectFor reconnects. An incarnation whose lease runs out meanwhile is
// given up, whether or not the database counts it as run out, too: a heartbeat
// may have arrived whose answer was lost. What was stopped must not be taken
// for what was never started.
func (a *Agent) reconnectFor(ctx context.Context, expiry time.Time, cause error) *pgx.Conn {
	doubtful := a.doubted.id == a.ledger.incarnation()
	if doubtful {
		expiry = a.doubted.at.Add(a.opt.Lease)
	}
	if doubtful || !a.unregistered.Load() {
		stop := time.AfterFunc(time.Until(expiry), func() {
			a.loseLease("the agent's lease ran out without the database: stopped the running jobs")
		})
		defer stop.Stop()
	}
	return a.reconnect(ctx, forHeartbeats, cause)
}

// loseLease gives up what the old incarnation runs and becomes a new one.
// Results that it has already may still be recorded: they are fenced by the
// old id, and count only if nobody took the job over.
func (a *Agent) loseLease(how string) {
	if !a.unregistered.Swap(true) {
		a.mu.Lock()
		a.before = a.ledger.incarnation()
		a.mu.Unlock()
	}
	a.ledger.become(jobs.NewID())
	n := a.ledger.cancelAll(errLeaseGone)
	a.log.Error(how, "stopped_jobs", n)
	a.counts.leasesLost.Add(1)
}
