package agent

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// lockPause is how long results whose rows somebody has locked are left alone.
const lockPause = time.Second

// takeApart records the results of a batch one by one, because one of them
// cannot be stored: that one becomes a failure that says so, the others are
// recorded as they are.
func (a *Agent) takeApart(ctx context.Context, conn *pgx.Conn, req *request) error {
	a.ledger.undoClaim(req)
	rest := &outbox{completed: req.out.completed, failed: req.out.failed, handBack: req.out.handBack,
		circuits: req.out.circuits, lanes: req.out.lanes}
	one := func(e jobs.Exchange, c jobs.Completion) error {
		_, err := e.Do(ctx, conn, req.agent)
		if jobs.Unstorable(err) {
			cause := err
			c.Output, c.Security = nil, nil
			refused := jobs.Exchange{Failed: []jobs.Failure{{Completion: c, Final: true,
				Error: printable((&runners.FinalError{Err: cause}).Error())}}}
			_, err = refused.Do(ctx, conn, req.agent)
		}
		if err == nil {
			rest.lanes = rest.lanes[1:]
		}
		return err
	}
	for len(rest.completed) > 0 {
		c := rest.completed[0]
		if err := one(jobs.Exchange{Completed: []jobs.Completion{c}}, c); err != nil {
			a.ledger.retake(req.agent, rest)
			return err
		}
		rest.completed = rest.completed[1:]
	}
	for len(rest.failed) > 0 {
		f := rest.failed[0]
		if err := one(jobs.Exchange{Failed: []jobs.Failure{f}}, f.Completion); err != nil {
			a.ledger.retake(req.agent, rest)
			return err
		}
		rest.failed = rest.failed[1:]
	}
	e := jobs.Exchange{HandBack: rest.handBack, Circuits: req.exchange.Circuits, Metrics: req.exchange.Metrics}
	if _, err := e.Do(ctx, conn, req.agent); err != nil {
		a.ledger.retake(req.agent, rest)
		return err
	}
	return nil
}

// stepAround records what nobody has locked, and leaves the rest for a while:
// somebody's open transaction must not hold up the others' results.
func (a *Agent) stepAround(ctx context.Context, conn *pgx.Conn, req *request) error {
	a.ledger.undoClaim(req)
	free, err := jobs.Free(ctx, conn, req.out.ids())
	if err == nil {
		now, later := req.out.split(free)
		e := jobs.Exchange{Completed: now.completed, Failed: now.failed, HandBack: now.handBack,
			Circuits: req.exchange.Circuits, Metrics: req.exchange.Metrics}
		if _, err = e.Do(ctx, conn, req.agent); err == nil {
			if later.len() > 0 {
				a.log.Warn("results wait: somebody has locked their rows", "count", later.len())
				a.ledger.putAside(req.agent, later)
			}
			return nil
		}
	}
	a.ledger.retake(req.agent, req.out)
	if jobs.Locked(err) && !conn.IsClosed() { // the whole table, or what is counted
		a.log.Warn("the queue waits: somebody has locked it", "error", err)
		return nil
	}
	return err
}

func (o *outbox) ids() []jobs.ID {
	ids := make([]jobs.ID, 0, o.len())
	for i := range o.completed {
		ids = append(ids, o.completed[i].Job.ID)
	}
	for i := range o.failed {
		ids = append(ids, o.failed[i].Job.ID)
	}
	for i := range o.handBack {
		ids = append(ids, o.handBack[i].Job.ID)
	}
	return ids
}

// split parts the results by whether their job is in the set.
func (o *outbox) split(in map[jobs.ID]bool) (yes, no *outbox) {
	yes, no = &outbox{circuits: o.circuits}, &outbox{}
	side := func(id jobs.ID) *outbox {
		if in[id] {
			return yes
		}
		return no
	}
	for _, c := range o.completed {
		s := side(c.Job.ID)
		s.completed = append(s.completed, c)
	}
	for _, f := range o.failed {
		s := side(f.Job.ID)
		s.failed = append(s.failed, f)
	}
	for _, h := range o.handBack {
		s := side(h.Job.ID)
		s.handBack = append(s.handBack, h)
	}
	n := yes.len()
	yes.lanes, no.lanes = o.lanes[:n:n], o.lanes[n:]
	return yes, no
}

// aside is results that wait before they are sent again.
type aside struct {
	agent jobs.ID
	out   *outbox
}

// retake takes results again that were handed out and not recorded.
func (l *ledger) retake(agent jobs.ID, out *outbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putBack(agent, out)
	l.poke()
}

// putAside takes results again after a while. Until then the ledger knows
// their jobs as its own.
func (l *ledger) putAside(agent jobs.ID, out *outbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := &aside{agent, out}
	l.aside[a] = true
	l.free -= out.len()
	time.AfterFunc(lockPause, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.aside, a)
		l.free += out.len()
		l.putBack(agent, out)
		l.poke()
	})
}
