package main

import (
	"context"
	"fmt"
	"time"

	"github.com/specql/specql-ops/runners"
)

// drainSlots are the slots of drains: few and many.
var drainSlots = []int{100, 2000}

// throughput drains backlogs of no-op jobs through the complete agent, through the
// bare loop, and through River with as many workers as slots.
func throughput(ctx context.Context, l *lab) error {
	l.table.heading("Throughput: no-op jobs from a backlog, until the last is recorded as completed")
	small, err := l.finishedTemplate(ctx, fewFinished)
	if err != nil {
		return err
	}
	riverSmall, err := l.riverTemplate(ctx)
	if err != nil {
		return err
	}
	for _, slots := range drainSlots {
		found, err := l.drains(ctx, "throughput", slots, []place{
			{"agent", agentContender(slots), small, nil},
			{"bare loop", bareDrains(slots), small, nil},
			{"River", riverContender(slots, riverDrain), riverSmall, nil},
		}, nil)
		if err != nil {
			return err
		}
		l.table.compare(fmt.Sprintf("%d slots, against the bare loop", slots), found, of("agent", rate), of("bare loop", rate), perSecond, atLeast(0.85))
		l.table.compare(fmt.Sprintf("%d slots, against River", slots), found, of("agent", rate), of("River", rate), perSecond, atLeast(2))
	}
	return nil
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
