package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	for _, c := range []contender{agentContender(), bareContender(1), bareApart(1), notified()} {
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
	sides, err := l.contend(ctx, []contender{riverContender()}, func(ctx context.Context, db *database, c contender) (figures, error) {
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

// place is a contender on a copy of a template.
type place struct {
	name      string
	contender contender
	from      template
	prepare   preparation
}

// preparation, where there is one, is made on a copy before it is measured;
// release ends what it began.
type preparation func(ctx context.Context, db *database) (release func(), err error)

// inTurn gives n jobs to each of the contenders, one by one and each time another
// one first.
func (l *lab) inTurn(ctx context.Context, n int, places ...place) (map[string]figures, error) {
	var seats []*seat
	var found map[string]figures
	measure := func(ctx context.Context) error {
		for i := range warmUp + n {
			for k := range seats {
				if err := seats[(i+k)%len(seats)].one(ctx); err != nil {
					return err
				}
			}
		}
		found = map[string]figures{}
		for i, s := range seats {
			found[places[i].name] = s.figures()
			l.note("latency, %d jobs, %s: %s", n, places[i].name, s.figures())
		}
		return nil
	}
	for _, p := range slices.Backward(places) { // each inside the measurement of the one before it
		inner := measure
		measure = func(ctx context.Context) error {
			_, err := l.onCopy(ctx, p.from, func(db *database) (_ figures, err error) {
				if p.prepare != nil {
					release, err := p.prepare(ctx, db)
					if err != nil {
						return nil, err
					}
					defer release()
				}
				s, err := sit(ctx, db, p.contender)
				if err != nil {
					return nil, err
				}
				defer func() { err = errors.Join(err, s.leave()) }()
				seats = append(seats, s)
				return nil, inner(ctx)
			})
			return err
		}
	}
	return found, measure(ctx)
}

// singles has n jobs inserted one by one.
func singles(ctx context.Context, db *database, c contender, n int) (found figures, err error) {
	s, err := sit(ctx, db, c)
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

// seat is a contender at work on a database of its own, and the application that
// queues jobs for it.
type seat struct {
	contender      contender
	db             *database
	app            application
	began          chan time.Time
	stop           func() error
	jobs           int
	sent, returned []time.Duration // from the INSERT and from its return to the start, behind the warm-up
}

func sit(ctx context.Context, db *database, c contender) (*seat, error) {
	s := &seat{contender: c, db: db, began: make(chan time.Time, 1)}
	var err error
	if s.stop, err = c.on(ctx, db, func(int) { s.began <- time.Now() }); err != nil {
		return nil, err
	}
	if s.app, err = c.apply(ctx, db.url); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *seat) leave() error {
	s.app.close()
	return s.stop()
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
