package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// fewFinished is how many finished rows a small table has.
const fewFinished = 10_000

// The rates of a case: at few slots and at many.
const rateOfFew, rateOfMany = rate + " at 100 slots", rate + " at 2000 slots"

// growthCase is a table, and what goes on beside the jobs that are measured.
type growthCase struct {
	name   string
	queue  template
	others []string // services in the registry beside the measured one
	// prepare, where there is one, runs on the case's copy; release ends what
	// it began.
	prepare func(ctx context.Context, db *database) (release func(), err error)
}

// bareIn names the bare loop's side of a case.
const bareIn = ", bare loop"

// growth measures what a table that has grown, many jobs that may not run, or
// another session's old snapshot leave of the throughput and the latency of an
// agent: each case against the same on a small table. What they leave of the
// bare loop's throughput stands beside it: that much is PostgreSQL's own.
func growth(ctx context.Context, l *lab) error {
	cases, err := l.growthCases(ctx)
	if err != nil {
		return err
	}
	var sides []side
	for _, c := range cases {
		sides = append(sides, side{c.name, func(ctx context.Context) (figures, error) {
			return l.onCopy(ctx, c.queue, func(db *database) (figures, error) { return l.grown(ctx, c, db) })
		}}, side{c.name + bareIn, func(ctx context.Context) (figures, error) { return l.bareGrown(ctx, c) }})
	}
	found, err := l.interleave(ctx, "growth", l.sizes.rounds, sides)
	if err != nil {
		return err
	}
	l.table.heading("Growth: the agent, against itself on a table with " + cases[0].name)
	small, bareSmall := found[cases[0].name], found[cases[0].name+bareIn]
	for _, c := range cases[1:] {
		grown, bare := found[c.name], found[c.name+bareIn]
		l.table.ratio(c.name+", 100 slots", grown[rateOfFew], small[rateOfFew], perSecond, atLeast(0.9))
		l.table.ratio("  the bare loop's", bare[rateOfFew], bareSmall[rateOfFew], perSecond, none)
		l.table.ratio(c.name+", 2000 slots", grown[rateOfMany], small[rateOfMany], perSecond, atLeast(0.9))
		l.table.ratio("  the bare loop's", bare[rateOfMany], bareSmall[rateOfMany], perSecond, none)
		l.table.ratio(c.name+", p50 of single jobs", grown[p50], small[p50], milliseconds, atMost(1/0.9))
	}
	return nil
}

func (l *lab) growthCases(ctx context.Context) ([]growthCase, error) {
	small, err := l.finishedTemplate(ctx, fewFinished)
	if err != nil {
		return nil, err
	}
	cases := []growthCase{{name: thousands(fewFinished) + " finished jobs", queue: small}}
	for _, n := range l.sizes.finished {
		big, err := l.finishedTemplate(ctx, n)
		if err != nil {
			return nil, err
		}
		cases = append(cases, growthCase{name: thousands(n) + " finished jobs", queue: big})
	}
	waiting := thousands(l.sizes.crowd) + " waiting jobs"
	crowded, err := l.jobsTemplate(ctx, waiting, l.finished(fewFinished), backlog("crowd", l.sizes.crowd), backlog("noop", l.sizes.growthJobs))
	if err != nil {
		return nil, err
	}
	return append(cases,
		growthCase{waiting + " of a switched-off type", crowded, []string{switchedOff}, switchShellOff},
		growthCase{waiting + " of a rate-limited service", crowded, []string{rateLimited}, nil},
		growthCase{"an open snapshot of another session", small, nil, holdSnapshot}), nil
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

// grown measures one case, all on its copy: a fifth of the backlog at 100
// slots, the rest at 2000, then single jobs.
func (l *lab) grown(ctx context.Context, c growthCase, db *database) (figures, error) {
	if c.prepare != nil {
		release, err := c.prepare(ctx, db)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	few, rateFew, err := c.work(ctx, db, 100, l.sizes.growthJobs/5)
	if err != nil {
		return nil, err
	}
	_, rateMany, err := c.work(ctx, db, 2000, l.sizes.growthJobs-few)
	if err != nil {
		return nil, err
	}
	if err := db.allCompleted(ctx, jobsLeft); err != nil {
		return nil, err
	}
	found, err := singles(ctx, db, agentContender(c.others...), l.sizes.singles/3)
	if err != nil {
		return nil, err
	}
	return figures{rateOfFew: rateFew, rateOfMany: rateMany, p50: found[p50], p99: found[p99]}, nil
}

// bareGrown has the bare loop drain the case's backlog, at few slots and at many,
// each on a copy of its own.
func (l *lab) bareGrown(ctx context.Context, c growthCase) (figures, error) {
	found := figures{}
	for figure, slots := range map[string]int{rateOfFew: 100, rateOfMany: 2000} {
		_, err := l.onCopy(ctx, c.queue, func(db *database) (figures, error) {
			if c.prepare != nil {
				release, err := c.prepare(ctx, db)
				if err != nil {
					return nil, err
				}
				defer release()
			}
			took, err := drainBare(ctx, db.url, slots)
			if err != nil {
				return nil, err
			}
			found[figure] = float64(l.sizes.growthJobs) / took.Seconds()
			return nil, db.allCompleted(ctx, jobsLeft)
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// work has an agent begin at least n no-op jobs. It returns how many it ran
// before it left, and at what rate.
func (c growthCase) work(ctx context.Context, db *database, slots, n int) (ran int, rate float64, err error) {
	begun := newTally(n)
	count := func(job *jobs.Job) {
		if job.Service == "noop" {
			begun.add()
		}
	}
	took, err := agentRuns(ctx, db.url, slots, begun, append([]string{noopService}, c.others...), noop{jobs.HTTP, count}, noop{jobs.Shell, count})
	ran = int(begun.count.Load())
	return ran, float64(ran) / took.Seconds(), err
}
