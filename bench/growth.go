package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// fewFinished is how many finished rows a small table has.
const fewFinished = 10_000

// drainSlots are the slots of drains: few and many.
var drainSlots = []int{100, 2000}

// rateAt names the rate of a case at so many slots.
func rateAt(slots int) string { return fmt.Sprintf("%s at %d slots", rate, slots) }

// growthCase is a table, and what goes on beside the jobs that are measured.
type growthCase struct {
	name    string
	queue   template
	bare    bool     // the bare loop is measured too
	others  []string // services in the registry beside the measured one
	prepare preparation
}

// bareIn names the bare loop's side of a case.
const bareIn = ", bare loop"

// without names the same registry on the small table. A wake-up does not say whose
// job has come: a registry of one service makes the shorter claim.
const without = ", without these"

// growth measures what a table that has grown, many jobs that may not run, or
// another session's old snapshot leave of the throughput and the latency of an
// agent: each case against the same on a small table. What finished rows leave of
// the bare loop's throughput stands beside it: that much is PostgreSQL's own.
func growth(ctx context.Context, l *lab) error {
	cases, err := l.growthCases(ctx)
	if err != nil {
		return err
	}
	var sides []side
	for _, c := range cases {
		sides = append(sides, side{c.name, func(ctx context.Context) (figures, error) { return l.grown(ctx, c) }})
		if c.bare {
			sides = append(sides, side{c.name + bareIn, func(ctx context.Context) (figures, error) { return l.bareGrown(ctx, c) }})
		}
	}
	found, err := l.interleave(ctx, "growth", l.sizes.rounds, sides)
	if err != nil {
		return err
	}
	var places []place
	for _, c := range cases {
		places = append(places, c.drained(l.sizes.growthJobs))
		if len(c.others) > 0 {
			c.name, c.queue = c.name+without, cases[0].queue
			places = append(places, c.drained(l.sizes.growthJobs))
		}
	}
	single, err := l.inTurn(ctx, l.sizes.rounds*l.sizes.singles/3, places...)
	if err != nil {
		return err
	}
	l.table.heading("Growth: the agent, against itself on a table with " + cases[0].name)
	small := cases[0].name
	for _, c := range cases[1:] {
		for _, slots := range drainSlots {
			l.table.compare(fmt.Sprintf("%s, %d slots", c.name, slots), found, of(c.name, rateAt(slots)), of(small, rateAt(slots)), perSecond, atLeast(0.9))
			if c.bare {
				l.table.compare("  the bare loop's", found, of(c.name+bareIn, rateAt(slots)), of(small+bareIn, rateAt(slots)), perSecond, none)
			}
		}
		beside := small
		if len(c.others) > 0 {
			beside = c.name + without
		}
		l.table.ratio(c.name+", p50 of single jobs", single[c.name][p50], single[beside][p50], milliseconds, atMost(1/0.9))
	}
	return nil
}

func (l *lab) growthCases(ctx context.Context) ([]growthCase, error) {
	small, err := l.finishedTemplate(ctx, fewFinished)
	if err != nil {
		return nil, err
	}
	cases := []growthCase{{name: thousands(fewFinished) + " finished jobs", queue: small, bare: true}}
	for _, n := range l.sizes.finished {
		big, err := l.finishedTemplate(ctx, n)
		if err != nil {
			return nil, err
		}
		cases = append(cases, growthCase{name: thousands(n) + " finished jobs", queue: big, bare: true})
	}
	waiting := thousands(l.sizes.crowd) + " waiting jobs"
	crowded, err := l.jobsTemplate(ctx, waiting, l.finished(fewFinished), backlog("crowd", l.sizes.crowd), backlog("noop", l.sizes.growthJobs))
	if err != nil {
		return nil, err
	}
	return append(cases,
		growthCase{name: waiting + " of a switched-off type", queue: crowded, others: []string{switchedOff}, prepare: switchShellOff},
		growthCase{name: waiting + " of a rate-limited service", queue: crowded, others: []string{rateLimited}},
		growthCase{name: "an open snapshot of another session", queue: small, prepare: holdSnapshot}), nil
}

// The service that a crowd of jobs waits for, in its two cases.
const (
	switchedOff = `{ name: crowd, type: bench, category: bench, execution_type: shell,
		runner_config: { working_directory: "/tmp" }, security_policy: { allowed_commands: ["/bin/true"] },
		operations: [{ name: run, input_schema: {}, output_schema: {} }] }`
	rateLimited = `{ name: crowd, type: bench, category: bench, runner_config: { base_url: "http://192.0.2.1" },
		security_policy: { rate_limit_per_minute: 60 }, operations: [{ name: run, input_schema: {}, output_schema: {} }] }`
)

func switchShellOff(ctx context.Context, db *database) (release func(), err error) {
	_, err = jobs.SetSwitches(ctx, db.conn, []jobs.ExecutionType{jobs.Shell}, false, jobs.By{Actor: "bench", Origin: "bench"})
	return func() {}, err
}

// holdSnapshot begins a transaction that might look at any row of now, so that
// no later version of one can be cleaned away.
func holdSnapshot(ctx context.Context, db *database) (release func(), err error) {
	conn, err := pgx.Connect(ctx, db.url)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
	return func() { conn.Close(context.WithoutCancel(ctx)) }, err
}

// drained is the case's table without its backlog, for single jobs.
func (c growthCase) drained(n int) place {
	return place{c.name, agentContender(c.others...), c.queue, func(ctx context.Context, db *database) (release func(), err error) {
		release = func() {}
		if c.prepare != nil {
			if release, err = c.prepare(ctx, db); err != nil {
				return nil, err
			}
		}
		if _, err := c.work(ctx, db, drainSlots[len(drainSlots)-1], n); err != nil {
			release()
			return nil, err
		}
		return release, nil
	}}
}

// grown has an agent drain the case's backlog, at few slots and at many.
func (l *lab) grown(ctx context.Context, c growthCase) (figures, error) {
	found := figures{}
	err := l.drains(ctx, c, func(db *database, slots int) error {
		took, err := c.work(ctx, db, slots, l.sizes.growthJobs)
		if err != nil {
			return err
		}
		found[rateAt(slots)] = float64(l.sizes.growthJobs) / took.Seconds()
		return nil
	})
	return found, err
}

// bareGrown has the bare loop drain the case's backlog.
func (l *lab) bareGrown(ctx context.Context, c growthCase) (figures, error) {
	found := figures{}
	err := l.drains(ctx, c, func(db *database, slots int) error {
		took, err := drainBare(ctx, db.url, slots)
		found[rateAt(slots)] = float64(l.sizes.growthJobs) / took.Seconds()
		return err
	})
	return found, err
}

// drains has the case's backlog drained at few slots and at many, each on a copy
// of its own.
func (l *lab) drains(ctx context.Context, c growthCase, drain func(db *database, slots int) error) error {
	for _, slots := range drainSlots {
		_, err := l.onCopy(ctx, c.queue, func(db *database) (figures, error) {
			if c.prepare != nil {
				release, err := c.prepare(ctx, db)
				if err != nil {
					return nil, err
				}
				defer release()
			}
			if err := drain(db, slots); err != nil {
				return nil, err
			}
			return nil, db.allCompleted(ctx, jobsLeft)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// work has an agent run the n no-op jobs, and returns how long it took.
func (c growthCase) work(ctx context.Context, db *database, slots, n int) (time.Duration, error) {
	begun := newTally(n)
	count := func(job *jobs.Job) {
		if job.Service == "noop" {
			begun.add()
		}
	}
	return agentRuns(ctx, db.url, slots, begun, append([]string{noopService}, c.others...), noop{jobs.HTTP, count}, noop{jobs.Shell, count})
}
