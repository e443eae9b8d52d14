package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

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

// seat is a contender at work on a database of its own, and the application that
// queues jobs for it.
type seat struct {
	name      string
	contender contender
	db        *database
	app       application
	stop      func() error

	began          chan time.Time // of single jobs
	jobs           int
	sent, returned []time.Duration // from the INSERT and from its return to the start, behind the warm-up

	backlog atomic.Pointer[tally] // that is drained; nil: jobs come singly
}

func sit(ctx context.Context, db *database, name string, c contender) (*seat, error) {
	s := &seat{name: name, contender: c, db: db, began: make(chan time.Time, 1)}
	var err error
	s.stop, err = c.on(ctx, db, func(int) {
		if backlog := s.backlog.Load(); backlog != nil {
			backlog.add()
			return
		}
		select {
		case s.began <- time.Now():
		default: // a measurement that was broken off has left jobs
		}
	})
	if err != nil {
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

// together has a contender sit down at each of the places, all at once, for as long
// as measure takes.
func (l *lab) together(ctx context.Context, places []place, measure func(ctx context.Context, seats []*seat) error) error {
	var seats []*seat
	next := func(ctx context.Context) error { return measure(ctx, seats) }
	for _, p := range slices.Backward(places) { // each inside the measurement of the one before it
		inner := next
		next = func(ctx context.Context) error {
			_, err := l.onCopy(ctx, p.from, func(db *database) (_ figures, err error) {
				if p.prepare != nil {
					release, err := p.prepare(ctx, db)
					if err != nil {
						return nil, err
					}
					defer release()
				}
				s, err := sit(ctx, db, p.name, p.contender)
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
	return next(ctx)
}

// turnsARound is how many turns the drains of a round take. A machine whose speed
// changes within seconds, as one does that others share, is the same for all in a
// turn of a second each, and not in drains of many.
const turnsARound = 4

// drains has contenders of so many slots drain backlogs of n jobs in turns, half of
// that with few slots, at places of their own; then is called before they leave.
func (l *lab) drains(ctx context.Context, what string, slots, n int, places []place, then func(context.Context, []*seat) error) (found rounds, err error) {
	if slots == drainSlots[0] {
		n /= 2
	}
	err = l.together(ctx, places, func(ctx context.Context, seats []*seat) error {
		if found, err = l.drainsInTurn(ctx, fmt.Sprintf("%s, %d slots", what, slots), n, seats); err != nil || then == nil {
			return err
		}
		return then(ctx, seats)
	})
	return found, err
}

// drainsInTurn has each of the contenders drain a backlog of n jobs that is queued
// while all are at rest, again and again in turns, another one first each time and in
// the other direction each time. The first turn is a warm-up.
func (l *lab) drainsInTurn(ctx context.Context, what string, n int, seats []*seat) (rounds, error) {
	all := make(rounds, l.sizes.rounds*turnsARound+1)
	l.note("%s: %d turns of %d contenders with %s jobs each", what, len(all), len(seats), thousands(n))
	for turn := range all {
		all[turn] = map[string]figures{}
		for i := range seats {
			s := seats[inOrder(turn, i, len(seats))]
			found, err := l.drained(ctx, s, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", what, s.name, err)
			}
			all[turn][s.name] = found
		}
	}
	all = all[1:]
	for _, s := range seats {
		l.note("%s, %d turns, %s: %s", what, len(all), s.name, all.of(s.name))
	}
	return all, nil
}

// drained measures from the start of the first of n jobs until the last is
// recorded, and what a job costs.
func (l *lab) drained(ctx context.Context, s *seat, n int) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, longestMeasurement)
	defer cancel()
	runtime.GC() // nobody's garbage is another one's work
	begun := newTally(n)
	s.backlog.Store(begun)
	defer s.backlog.Store(nil)
	left, err := s.app.backlog(ctx, n)
	if err != nil {
		return nil, err
	}
	var took time.Duration
	found, err := l.spentOnJobs(n, func() error {
		select {
		case <-begun.all:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d jobs never started: %w", int64(n)-begun.count.Load(), n, ctx.Err())
		}
		for open := true; open; {
			if err := s.db.conn.QueryRow(ctx, left).Scan(&open); err != nil {
				return err
			}
		}
		took = time.Since(begun.first)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if made := begun.count.Load(); made != int64(n) {
		return nil, fmt.Errorf("%d jobs were started %d times", n, made)
	}
	found[rate] = float64(n) / took.Seconds()
	return found, nil
}
