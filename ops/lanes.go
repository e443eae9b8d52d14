package ops

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// lane is one service with waiting jobs.
type lane struct {
	Service string
	Type    jobs.ExecutionType
	Waiting int64         // at most WaitingCap
	Capped  bool          // there are more
	Oldest  time.Duration // since its first job waits
}

// lanesSQL finds the services with waiting jobs by a loose scan over
// idx_tb_job_run_lane, one probe a service, and counts each up to a cap. The
// registry decides a service's type and the claim writes it to the row, so what
// agents lately ran is believed before what a waiting row says.
const lanesSQL = `
WITH RECURSIVE lane (service) AS (
    (SELECT service_name FROM jobs.tb_job_run WHERE status = 'pending' ORDER BY service_name LIMIT 1)
    UNION ALL
    SELECT (SELECT service_name FROM jobs.tb_job_run
             WHERE status = 'pending' AND service_name > lane.service ORDER BY service_name LIMIT 1)
      FROM lane WHERE lane.service IS NOT NULL
), ran AS (
    SELECT DISTINCT ON (service_name) service_name, execution_type
      FROM jobs.tb_job_metric WHERE minute > now() - interval '1 hour'
     ORDER BY service_name, minute DESC
)
SELECT lane.service, coalesce(ran.execution_type, first.execution_type), least(w.n, $1), w.n > $1,
       greatest(0, extract(epoch FROM now() - first.since))::float8
  FROM lane
 CROSS JOIN LATERAL (
       SELECT execution_type, coalesce(requeued_at, created_at) AS since FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending'
        ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id LIMIT 1) first
 CROSS JOIN LATERAL (
       SELECT count(*) AS n FROM (SELECT FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending' LIMIT $1::bigint + 1) few) w
  LEFT JOIN ran ON ran.service_name = lane.service
 WHERE lane.service IS NOT NULL
 ORDER BY lane.service`

// boundedSQL keeps the planner to walks along an index: a bitmap would read a
// service's whole backlog before the cap can stop it, and compiling the query
// takes longer than running it.
const boundedSQL = `
SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

// queue is what waits and runs at one moment.
type queue struct {
	lanes   []lane
	running map[jobs.ExecutionType]int64
}

func readQueue(ctx context.Context, db jobs.Beginner) (q queue, err error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return q, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // takes the settings back
	if _, err := tx.Exec(ctx, boundedSQL); err != nil {
		return q, err
	}
	if q.lanes, err = lanes(ctx, tx); err != nil {
		return q, err
	}
	q.running, err = runningByType(ctx, tx)
	return q, err
}

func lanes(ctx context.Context, db jobs.Querier) ([]lane, error) {
	rows, err := db.Query(ctx, lanesSQL, WaitingCap)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (l lane, err error) {
		var oldest *float64
		err = row.Scan(&l.Service, &l.Type, &l.Waiting, &l.Capped, &oldest)
		if oldest != nil {
			l.Oldest = time.Duration(*oldest * float64(time.Second))
		}
		return l, err
	})
}

// runningSQL reads the running rows alone, through idx_tb_job_run_retry: at
// most as many as the agents have slots.
const runningSQL = `
SELECT execution_type, count(*) FROM jobs.tb_job_run WHERE status = 'running' GROUP BY execution_type`

func runningByType(ctx context.Context, db jobs.Querier) (map[jobs.ExecutionType]int64, error) {
	rows, err := db.Query(ctx, runningSQL)
	if err != nil {
		return nil, err
	}
	running := map[jobs.ExecutionType]int64{}
	var t jobs.ExecutionType
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&t, &n}, func() error { running[t] = n; return nil })
	return running, err
}

// idleWait is how long a service's first job must have waited, with free
// slots about, before it counts as held: shorter waits are the queue at work.
const idleWait = 30 * time.Second

// holders is what the database knows of why jobs wait.
type holders struct {
	now      time.Time
	switches map[jobs.ExecutionType]jobs.Switch
	agents   int                        // that claim
	free     map[jobs.ExecutionType]int // slots of agents that run the type
	runs     map[jobs.ExecutionType]bool
}

const claimersSQL = `
SELECT execution_types, greatest(slots - running, 0) FROM jobs.tb_agent
 WHERE lease_expires_at > now() AND state = 'running'`

func readHolders(ctx context.Context, db jobs.Querier) (holders, error) {
	h := holders{switches: map[jobs.ExecutionType]jobs.Switch{},
		free: map[jobs.ExecutionType]int{}, runs: map[jobs.ExecutionType]bool{}}
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&h.now); err != nil {
		return h, err
	}
	switches, err := jobs.Switches(ctx, db)
	if err != nil {
		return h, err
	}
	for _, s := range switches {
		h.switches[s.Type] = s
	}
	rows, err := db.Query(ctx, claimersSQL)
	if err != nil {
		return h, err
	}
	var types []jobs.ExecutionType
	var free int
	_, err = pgx.ForEachRow(rows, []any{&types, &free}, func() error {
		h.agents++
		for _, t := range types {
			h.runs[t] = true
			h.free[t] += free
		}
		return nil
	})
	return h, err
}

// reason says why jobs of a service wait; empty when nothing holds them. Rates,
// budgets and circuits are known to agents alone.
func (h holders) reason(t jobs.ExecutionType, waited time.Duration) string {
	s, known := h.switches[t]
	switch {
	case known && !s.Enabled:
		return switchedOff(s, h.now)
	case h.agents == 0:
		return "no agent is running"
	case !h.runs[t]:
		return fmt.Sprintf("no agent runs %s", t)
	case waited > idleWait && h.free[t] > 0:
		return "agents are free but leave it: their registry does not have the service, or it is throttled, out of budget or circuit-broken"
	}
	return ""
}

func switchedOff(s jobs.Switch, now time.Time) string {
	text := fmt.Sprintf("%s is switched off", s.Type)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	if s.ChangedBy != "" {
		text += fmt.Sprintf(" (%s, %s)", s.ChangedBy, ago(now.Sub(s.ChangedAt)))
	}
	return text
}

// held lists what is held back, most jobs first.
func (h holders) held(list []lane) []Held {
	var out []Held
	for _, l := range list {
		if reason := h.reason(l.Type, l.Oldest); reason != "" {
			out = append(out, Held{Service: l.Service, Type: l.Type, Waiting: l.Waiting, Capped: l.Capped, Reason: reason})
		}
	}
	slices.SortStableFunc(out, func(a, b Held) int { return int(b.Waiting - a.Waiting) })
	return out
}

// ago words an age coarsely, as people do.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}
