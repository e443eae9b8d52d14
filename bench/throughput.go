package main

import (
	"context"
	"fmt"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// throughput drains a backlog of no-op jobs through the complete agent, through
// the bare loop and, half as many, through River with as many workers as slots.
func throughput(ctx context.Context, l *lab) error {
	l.table.heading("Throughput: no-op jobs from a backlog, until the last is recorded as completed")
	for _, slots := range drainSlots {
		n := l.sizes.jobs
		if slots == 100 {
			n /= 2
		}
		queue, err := l.backlogTemplate(ctx, n)
		if err != nil {
			return err
		}
		riverQueue, err := l.riverTemplate(ctx, n/2)
		if err != nil {
			return err
		}
		found, err := l.interleave(ctx, fmt.Sprintf("throughput, %d slots", slots), l.sizes.rounds, []side{
			{"agent", func(ctx context.Context) (figures, error) { return l.agentDrain(ctx, queue, n, slots) }},
			{"bare loop", func(ctx context.Context) (figures, error) { return l.bareDrain(ctx, queue, n, slots) }},
			{"River", func(ctx context.Context) (figures, error) { return l.riverDrain(ctx, riverQueue, n/2, slots) }},
		})
		if err != nil {
			return err
		}
		l.table.compare(fmt.Sprintf("%d slots, against the bare loop", slots), found, of("agent", rate), of("bare loop", rate), perSecond, atLeast(0.85))
		l.table.compare(fmt.Sprintf("%d slots, against River", slots), found, of("agent", rate), of("River", rate), perSecond, atLeast(2))
	}
	return nil
}

// agentDrain has an agent run the n no-op jobs of a copy of the template.
func (l *lab) agentDrain(ctx context.Context, queue template, n, slots int) (figures, error) {
	return l.drain(ctx, queue, n, jobsLeft, func(url string) (time.Duration, error) {
		begun := newTally(n)
		return agentRuns(ctx, url, slots, begun, []string{noopService}, noop{jobs.HTTP, func(*jobs.Job) { begun.add() }})
	})
}

// agentRuns measures an agent from its start to the end of its leaving, when
// all that the tally counted is recorded. Start and leave are short beside a
// drain.
func agentRuns(ctx context.Context, url string, slots int, until *tally, services []string, with ...runners.Runner) (time.Duration, error) {
	start := time.Now()
	a, err := startAgent(ctx, url, slots, services, with...)
	if err != nil {
		return 0, err
	}
	if err := a.await(ctx, until.all); err != nil {
		a.stop()
		return 0, err
	}
	err = a.stop()
	return time.Since(start), err
}

func (l *lab) bareDrain(ctx context.Context, queue template, n, slots int) (figures, error) {
	return l.drain(ctx, queue, n, jobsLeft, func(url string) (time.Duration, error) { return drainBare(ctx, url, slots) })
}

func (l *lab) riverDrain(ctx context.Context, queue template, n, slots int) (figures, error) {
	return l.drain(ctx, queue, n, riverLeft, func(url string) (time.Duration, error) {
		begun := newTally(n)
		start := time.Now()
		r, err := startRiver(ctx, url, slots, riverDrain, func(int) { begun.add() })
		if err != nil {
			return 0, err
		}
		select {
		case <-begun.all:
		case <-ctx.Done():
		}
		err = r.stop(context.WithoutCancel(ctx))
		return time.Since(start), err
	})
}

// jobsLeft counts the no-op jobs that are not completed.
const jobsLeft = `SELECT count(*) FROM jobs.tb_job_run WHERE service_name = 'noop' AND status <> 'completed'`

// drain has the n jobs of a copy of the template run, makes sure that none was
// left, and returns the rate and what a job costs.
func (l *lab) drain(ctx context.Context, queue template, n int, left string, run func(url string) (time.Duration, error)) (figures, error) {
	return l.onCopy(ctx, queue, func(db *database) (figures, error) {
		var took time.Duration
		found, err := l.spentOnJobs(n, func() (err error) {
			took, err = run(db.url)
			return err
		})
		if err != nil {
			return nil, err
		}
		found[rate] = float64(n) / took.Seconds()
		return found, db.allCompleted(ctx, left)
	})
}
