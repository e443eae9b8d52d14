package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// fewFinished is how many finished rows a small table has.
const fewFinished = 10_000

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
	l.table.heading("Growth: the agent, against itself on a table with " + cases[0].name)
	small := cases[0].name
	for _, slots := range drainSlots {
		var single map[string]figures
		then := func(ctx context.Context, seats []*seat) (err error) {
			seats = slices.DeleteFunc(slices.Clone(seats), func(s *seat) bool { return strings.HasSuffix(s.name, bareIn) })
			single, err = l.singlesInTurn(ctx, l.sizes.rounds*l.sizes.singles/3, seats)
			return err
		}
		if slots != drainSlots[0] {
			then = nil
		}
		found, err := l.drains(ctx, "growth", slots, l.sizes.growthJobs, places(cases, slots), then)
		if err != nil {
			return err
		}
		for _, c := range cases[1:] {
			l.table.compare(fmt.Sprintf("%s, %d slots", c.name, slots), found, of(c.name, rate), of(small, rate), perSecond, atLeast(0.9))
			if c.bare {
				l.table.compare("  the bare loop's", found, of(c.name+bareIn, rate), of(small+bareIn, rate), perSecond, none)
			}
			if single == nil {
				continue
			}
			beside := small
			if len(c.others) > 0 {
				beside = c.name + without
			}
			l.table.ratio(c.name+", p50 of single jobs", single[c.name][p50], single[beside][p50], milliseconds, atMost(1/0.9))
		}
	}
	return nil
}

// places are where the cases are measured.
func places(cases []growthCase, slots int) (all []place) {
	for _, c := range cases {
		all = append(all, place{c.name, agentContender(slots, c.others...), c.queue, c.prepare})
		if c.bare {
			all = append(all, place{c.name + bareIn, bareDrains(slots), c.queue, nil})
		}
		if len(c.others) > 0 {
			all = append(all, place{c.name + without, agentContender(slots, c.others...), cases[0].queue, c.prepare})
		}
	}
	return all
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
	crowded, err := l.jobsTemplate(ctx, waiting, l.finished(fewFinished), backlog("crowd", l.sizes.crowd))
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
