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
// stands one that claims on a connection of its own.
//
// All but River, which does not rest, are at work at once and take turns job by
// job: what the machine does meanwhile, be it for a moment, falls on all of them.
func latency(ctx context.Context, l *lab) error {
	n := l.sizes.rounds * l.sizes.singles
	var places []place
	for _, c := range []contender{agentContender(100), bareContender(1), bareApart(1), notified()} {
		from, err := l.emptyFor(ctx, c)
		if err != nil {
			return err
		}
		places = append(places, place{c.name, c, from, nil})
	}
	found, err := l.inTurn(ctx, n, places...)
	if err != nil {
		return err
	}
	sides, err := l.contend(ctx, []contender{riverContender(100, riverPrompt)}, func(ctx context.Context, db *database, c contender) (figures, error) {
		return singles(ctx, db, c, l.sizes.singles)
	})
	if err != nil {
		return err
	}
	alone, err := l.interleave(ctx, "latency", l.sizes.rounds, sides)
	if err != nil {
		return err
	}
	found["River"] = alone.of("River")
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

// inTurn gives n jobs to each of the contenders, one by one and each time another
// one first.
func (l *lab) inTurn(ctx context.Context, n int, places ...place) (found map[string]figures, err error) {
	err = l.together(ctx, places, func(ctx context.Context, seats []*seat) error {
		found, err = l.singlesInTurn(ctx, n, seats)
		return err
	})
	return found, err
}

// singlesInTurn is inTurn for contenders that are at work.
func (l *lab) singlesInTurn(ctx context.Context, n int, seats []*seat) (map[string]figures, error) {
	for i := range warmUp + n {
		for k := range seats {
			if err := seats[(i+k)%len(seats)].one(ctx); err != nil {
				return nil, err
			}
		}
	}
	found := map[string]figures{}
	for _, s := range seats {
		found[s.name] = s.figures()
		l.note("latency, %d jobs, %s: %s", n, s.name, s.figures())
	}
	return found, nil
}

// singles has n jobs inserted one by one.
func singles(ctx context.Context, db *database, c contender, n int) (found figures, err error) {
	s, err := sit(ctx, db, c.name, c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.leave()) }()
	for range warmUp + n {
		if err := s.one(ctx); err != nil {
			return nil, err
		}
	}
	return s.figures(), nil
}

// one has a job inserted and waits until it has started, is recorded and has been
// so for a while.
func (s *seat) one(ctx context.Context) error {
	job := s.jobs
	s.jobs++
	start := time.Now()
	if err := s.app.insert(ctx, job); err != nil {
		return err
	}
	committed := time.Now()
	select {
	case at := <-s.began:
		if job >= warmUp {
			s.sent, s.returned = append(s.sent, at.Sub(start)), append(s.returned, at.Sub(committed))
		}
	case <-ctx.Done():
		return fmt.Errorf("job %d never started: %w", job, ctx.Err())
	}
	if s.contender.records {
		if err := s.db.settled(ctx, job); err != nil {
			return err
		}
	}
	time.Sleep(rest)
	return nil
}

func (s *seat) figures() figures {
	return figures{p50: quantile(s.returned, 0.5), p99: quantile(s.returned, 0.99),
		sentP50: quantile(s.sent, 0.5), sentP99: quantile(s.sent, 0.99)}
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
