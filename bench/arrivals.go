package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	arrivalRate    = 1000 // jobs a second
	arrivalClients = 8    // of the application, each at an eighth of the rate
	arrivalWarmUp  = arrivalRate / 2
)

// Figures of arrivals that count from when an INSERT did return, late or not.
const returnedP50, returnedP99 = "p50 from the INSERT's return", "p99 from the INSERT's return"

// arrivals measures latency while jobs arrive steadily, whatever becomes of
// those before them (an open loop). A job's clock starts at its scheduled
// commit: when its INSERT would have returned, had it been sent on time. So a
// database that is too busy to take inserts on time is not measured as fast.
func arrivals(ctx context.Context, l *lab) error {
	sides, err := l.contend(ctx, []contender{agentContender(100), bareContender(100), riverContender(100, riverPrompt)}, l.steady)
	if err != nil {
		return err
	}
	found, err := l.interleave(ctx, "arrivals", l.sizes.rounds, sides)
	if err != nil {
		return err
	}
	l.table.heading("Latency at " + thousands(arrivalRate) + " jobs a second: from the scheduled commit to the start")
	l.table.figure("p99", found.of("agent")[p99], milliseconds, atMost(0.005))
	for _, f := range []string{p50, p99, returnedP50, returnedP99} {
		l.table.compare(f+", against the bare loop", found, of("agent", f), of("bare claim", f), milliseconds, none)
		l.table.compare(f+", against River", found, of("agent", f), of("River", f), milliseconds, none)
	}
	return nil
}

// steady has jobs arrive for the time that the sizes say.
func (l *lab) steady(ctx context.Context, db *database, c contender) (found figures, err error) {
	n := arrivalWarmUp + int(arrivalRate*l.sizes.arrivals.Seconds())
	started := make([]time.Time, n)
	all := newTally(n)
	stop, err := c.on(ctx, db, func(job int) { started[job] = time.Now(); all.add() })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	committed, returned, err := arrive(ctx, c, db.url, n)
	if err != nil {
		return nil, err
	}
	select {
	case <-all.all:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d of %d jobs never started: %w", int64(n)-all.count.Load(), n, ctx.Err())
	}
	var took, after []time.Duration
	for i := arrivalWarmUp; i < n; i++ {
		took = append(took, started[i].Sub(committed[i]))
		after = append(after, started[i].Sub(returned[i]))
	}
	return figures{p50: quantile(took, 0.5), p99: quantile(took, 0.99),
		returnedP50: quantile(after, 0.5), returnedP99: quantile(after, 0.99)}, nil
}

// arrive inserts n jobs at their rate, and returns their scheduled commits and when
// their INSERTs returned.
func arrive(ctx context.Context, c contender, url string, n int) (committed, returned []time.Time, err error) {
	committed, returned = make([]time.Time, n), make([]time.Time, n)
	apps := make([]application, arrivalClients)
	for i := range apps {
		app, err := c.apply(ctx, url)
		if err != nil {
			return nil, nil, err
		}
		defer app.close()
		apps[i] = app
	}
	errs := make([]error, arrivalClients)
	var group sync.WaitGroup
	first := time.Now().Add(10 * time.Millisecond)
	for client, app := range apps {
		group.Go(func() {
			for job := client; job < n && errs[client] == nil; job += arrivalClients {
				due := first.Add(time.Duration(job) * time.Second / arrivalRate)
				time.Sleep(time.Until(due))
				sent := time.Now()
				errs[client] = app.insert(ctx, job)
				returned[job] = time.Now()
				committed[job] = due.Add(returned[job].Sub(sent))
			}
		})
	}
	group.Wait()
	return committed, returned, errors.Join(errs...)
}
