package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	warmUp = 20                   // first jobs of a measurement, which find statements unprepared
	rest   = 5 * time.Millisecond // after a job's record, so that the next one finds everything idle
)

// The figures of latencies, in seconds.
const (
	p50, p95, p99    = "p50", "p95", "p99"
	sentP50, sentP99 = "p50 with the INSERT", "p99 with the INSERT"
)

// latency measures how soon a single job starts in an idle agent: from its
// commit, as the application sees it by the INSERT's return, to the runner's
// start. The INSERT itself, with the write to disk that its commit waits for,
// is no time of the agent's: counting it in would only bring every ratio
// nearer to one. These figures are shown beside, for comparison.
//
// The floor is a connection that listens and at a notification claims one job
// by a bare UPDATE in a transaction of its own: its return is the start. Beside it
// stands one that claims on a connection of its own, as the agent does.
func latency(ctx context.Context, l *lab) error {
	sides, err := l.contend(ctx, []contender{agentContender(), bareContender(1), bareApart(1), notified(), riverContender()},
		func(ctx context.Context, db *database, c contender) (figures, error) {
			return singles(ctx, db, c, l.sizes.singles)
		})
	if err != nil {
		return err
	}
	found, err := l.interleave(ctx, "latency", l.sizes.rounds, sides)
	if err != nil {
		return err
	}
	l.table.heading("Latency of single jobs, agent idle: from the INSERT's return to the start")
	against := func(figure, other string, goal target) {
		l.table.ratio(figure+", against "+other, found["agent"][figure], found[other][figure], milliseconds, goal)
	}
	against(p50, "bare claim", atMost(1.2))
	against(p99, "bare claim", atMost(2))
	against(p50, "bare claim, LISTEN apart", none)
	against(p99, "bare claim, LISTEN apart", none)
	against(p50, "River", none)
	against(p99, "River", none)
	for _, figure := range []string{sentP50, sentP99} {
		against(figure, "bare claim", none)
		against(figure, "notification", none)
	}
	return nil
}

// singles has n jobs inserted one by one, each when the one before has
// started, is recorded and has been so for a while.
func singles(ctx context.Context, db *database, c contender, n int) (found figures, err error) {
	began := make(chan time.Time, 1)
	stop, err := c.on(ctx, db, func(int) { began <- time.Now() })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	app, err := c.apply(ctx, db.url)
	if err != nil {
		return nil, err
	}
	defer app.close()
	var sent, returned []time.Duration
	for i := range warmUp + n {
		start := time.Now()
		if err := app.insert(ctx, i); err != nil {
			return nil, err
		}
		committed := time.Now()
		select {
		case at := <-began:
			if i >= warmUp {
				sent, returned = append(sent, at.Sub(start)), append(returned, at.Sub(committed))
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("job %d never started: %w", i, ctx.Err())
		}
		if c.records {
			if err := db.settled(ctx, i); err != nil {
				return nil, err
			}
		}
		time.Sleep(rest)
	}
	return figures{p50: quantile(returned, 0.5), p99: quantile(returned, 0.99),
		sentP50: quantile(sent, 0.5), sentP99: quantile(sent, 0.99)}, nil
}

// settled waits until a job is recorded as completed.
func (d *database) settled(ctx context.Context, job int) error {
	for completed := false; !completed; {
		err := d.conn.QueryRow(ctx, `SELECT status = 'completed' FROM jobs.tb_job_run WHERE identifier = $1`, identifier(job)).Scan(&completed)
		if err != nil {
			return err
		}
	}
	return nil
}
