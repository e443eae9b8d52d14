package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// How often some agent does what is done for all.
const (
	figuresEvery   = 5 * time.Minute
	forgetEvery    = 10 * time.Minute
	retentionEvery = time.Minute
	foreignEvery   = time.Hour // reads all jobs whose ids do not tell their age
	holdEvery      = 20 * time.Second
)

// duty is a task that this agent does when it is its turn. The heartbeat asks
// for the turn, which is one short statement; the work is done beside it, by a
// connection that is closed afterwards.
type duty struct {
	task  jobs.Task
	every time.Duration
	do    func(ctx context.Context, conn *pgx.Conn) (outcome string, err error)
	turn  chan struct{} // capacity 1
	busy  atomic.Bool
	asked time.Time // keepLease's own
}

func (a *Agent) newDuties() []*duty {
	all := []*duty{
		{task: jobs.RollUpMetrics, every: figuresEvery, do: a.rollUp},
		{task: jobs.ForgetAgents, every: forgetEvery, do: a.forget},
	}
	if a.opt.Retention > 0 {
		all = append(all, &duty{task: jobs.Retention, every: retentionEvery, do: a.retain})
	}
	for _, d := range all {
		d.turn = make(chan struct{}, 1)
	}
	return all
}

// upkeep asks, with each heartbeat, whose turn the tasks are. It never fails
// the heartbeat: the lease matters more.
func (a *Agent) upkeep(ctx context.Context, conn *pgx.Conn) error {
	for _, d := range a.duties {
		if d.busy.Load() || !d.asked.IsZero() && time.Since(d.asked) < d.every {
			continue
		}
		d.asked = time.Now()
		mine, err := jobs.Turn(ctx, conn, d.task, a.opt.Name, d.every)
		switch {
		case err != nil && (conn.IsClosed() || ctx.Err() != nil):
			return err
		case err != nil:
			a.log.Warn("upkeep is not to be had", "task", d.task, "error", err)
		case mine:
			d.busy.Store(true)
			d.turn <- struct{}{}
		}
	}
	return nil
}

// attend does a duty whenever it is this agent's turn, until ctx ends.
func (a *Agent) attend(ctx context.Context, d *duty) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.turn:
		}
		if err := a.discharge(ctx, d); err != nil && ctx.Err() == nil {
			a.log.Warn("upkeep failed, its next turn goes on", "task", d.task, "error", err)
		}
		d.busy.Store(false)
	}
}

func (a *Agent) discharge(ctx context.Context, d *duty) error {
	conn, err := a.connect(ctx, forUpkeep)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	outcome, err := d.do(ctx, conn)
	if err != nil {
		return err
	}
	a.log.Debug("upkeep done", "task", d.task, "outcome", outcome)
	return jobs.Done(ctx, conn, d.task, a.opt.Name, outcome)
}

// inSteps takes steps until none is left, with rests between, and keeps the
// task's turn meanwhile.
func (a *Agent) inSteps(ctx context.Context, conn *pgx.Conn, task jobs.Task, step func() (more bool, err error)) error {
	held := time.Now()
	for {
		began := time.Now()
		more, err := step()
		if err != nil || !more {
			return err
		}
		if time.Since(held) >= holdEvery {
			held = time.Now()
			if err := jobs.Hold(ctx, conn, task, a.opt.Name); err != nil {
				return err
			}
		}
		rest(ctx, time.Since(began))
	}
}

// rest leaves the database to others for twice as long as the last step took.
// A server under load makes steps slow, and so is asked the less.
func rest(ctx context.Context, took time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(min(max(2*took, 5*time.Millisecond), 2*time.Second)):
	}
}

// rollUp sums up old minutes to hours and drops old hours.
func (a *Agent) rollUp(ctx context.Context, conn *pgx.Conn) (string, error) {
	rolled, dropped := 0, 0
	err := a.inSteps(ctx, conn, jobs.RollUpMetrics, func() (bool, error) {
		n, err := jobs.RollUp(ctx, conn)
		rolled += n
		return n > 0, err
	})
	if err != nil {
		return "", err
	}
	err = a.inSteps(ctx, conn, jobs.RollUpMetrics, func() (bool, error) {
		n, err := jobs.DropFigures(ctx, conn)
		dropped += n
		return n > 0, err
	})
	return fmt.Sprintf("%d hours summed up, %d rows dropped", rolled, dropped), err
}

func (a *Agent) forget(ctx context.Context, conn *pgx.Conn) (string, error) {
	f, err := jobs.Forget(ctx, conn)
	return fmt.Sprintf("%d agents, %d lanes and %d slices forgotten", f.Agents, f.Lanes, f.Slices), err
}

// retain deletes jobs that ended longer ago than the retention.
func (a *Agent) retain(ctx context.Context, conn *pgx.Conn) (string, error) {
	deleted := 0
	sweep := func(span jobs.Span) error {
		return a.inSteps(ctx, conn, jobs.Retention, func() (bool, error) {
			n, rest, more, err := jobs.DeleteFinished(ctx, conn, span, a.opt.Retention)
			deleted, span = deleted+n, rest
			return more, err
		})
	}
	aged, foreign, err := jobs.Spans(ctx, conn, a.opt.Retention)
	if err != nil {
		return "", err
	}
	if err := sweep(aged); err != nil {
		return "", err
	}
	if err := jobs.Enter(ctx, conn, jobs.ForeignIDs); err != nil {
		return "", err
	}
	mine, err := jobs.Turn(ctx, conn, jobs.ForeignIDs, a.opt.Name, foreignEvery)
	if err == nil && mine {
		err = sweep(foreign)
	}
	if deleted > 0 {
		a.log.Info("old jobs deleted", "jobs", deleted, "retention", a.opt.Retention)
	}
	return fmt.Sprintf("%d jobs deleted", deleted), err
}
