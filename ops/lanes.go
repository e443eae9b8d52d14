package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// lane is one service with waiting jobs.
type lane struct {
	Service string
	Waiting int64         // at most WaitingCap
	Capped  bool          // there are more
	Oldest  time.Duration // since its first job waits
	laneState
}

// laneState is what the agents' registry and the gates say of a service.
type laneState struct {
	Type        jobs.ExecutionType // by the registry, else by what a row says
	Known       bool               // agents have written it down
	Live        bool               // a live agent's registry has it
	Held        string             // by a rate, a budget or its circuit, and until when; empty: by none
	Concurrency int                // jobs at once on one agent; 0: no bound
}

// lanesSQL finds the services with waiting jobs by a loose scan over
// idx_tb_job_run_lane, one probe a service, counts each up to a cap, and looks
// its lane up.
const lanesSQL = `
WITH RECURSIVE lane (service) AS (
    (SELECT service_name FROM jobs.tb_job_run WHERE status = 'pending' ORDER BY service_name LIMIT 1)
    UNION ALL
    SELECT (SELECT service_name FROM jobs.tb_job_run
             WHERE status = 'pending' AND service_name > lane.service ORDER BY service_name LIMIT 1)
      FROM lane WHERE lane.service IS NOT NULL
)
SELECT lane.service, least(w.n, $1), w.n > $1, greatest(0, extract(epoch FROM now() - first.since))::float8,
       coalesce(l.runs_as, l.execution_type, first.execution_type), l.service_name IS NOT NULL,
       coalesce(l.registry_hash = ANY (ARRAY(SELECT registry_hash FROM jobs.tb_agent WHERE lease_expires_at > now())), false),
       coalesce((SELECT held FROM jobs.v_lane v WHERE v.service_name = lane.service), ''), coalesce(l.concurrency, 0)
  FROM lane
 CROSS JOIN LATERAL (
       SELECT execution_type, coalesce(requeued_at, created_at) AS since FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending'
        ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id LIMIT 1) first
 CROSS JOIN LATERAL (
       SELECT count(*) AS n FROM (SELECT FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending' LIMIT $1::bigint + 1) few) w
  LEFT JOIN jobs.tb_lane l ON l.service_name = lane.service
 WHERE lane.service IS NOT NULL
 ORDER BY lane.service`

// laneSQL looks the lanes of some services up.
const laneSQL = `
SELECT l.service_name, coalesce(l.runs_as, l.execution_type), true,
       l.registry_hash = ANY (ARRAY(SELECT registry_hash FROM jobs.tb_agent WHERE lease_expires_at > now())),
       coalesce((SELECT held FROM jobs.v_lane v WHERE v.service_name = l.service_name), ''), l.concurrency
  FROM jobs.tb_lane l WHERE l.service_name = ANY ($1)`

// boundedSQL keeps the planner to walks along an index: a bitmap would read a
// service's whole backlog before the cap can stop it, and compiling the query
// takes longer than running it.
const boundedSQL = `
SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true), set_config('jit', 'off', true)`

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
	defer tx.Rollback(context.WithoutCancel(ctx))
	b := &pgx.Batch{}
	q.ask(b)
	return q, tx.SendBatch(ctx, b).Close()
}

// ask adds the questions to a batch, as the last ones of their transaction: the
// settings for them stay until its end.
func (q *queue) ask(b *pgx.Batch) {
	b.Queue(boundedSQL)
	b.Queue(lanesSQL, WaitingCap).Query(func(rows pgx.Rows) (err error) {
		q.lanes, err = pgx.CollectRows(rows, scanLane)
		return err
	})
	b.Queue(runningSQL).Query(func(rows pgx.Rows) error {
		q.running = map[jobs.ExecutionType]int64{}
		var t jobs.ExecutionType
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&t, &n}, func() error { q.running[t] = n; return nil })
		return err
	})
}

func scanLane(row pgx.CollectableRow) (l lane, err error) {
	var oldest *float64
	err = row.Scan(&l.Service, &l.Waiting, &l.Capped, &oldest, &l.Type, &l.Known, &l.Live, &l.Held, &l.Concurrency)
	if oldest != nil {
		l.Oldest = time.Duration(*oldest * float64(time.Second))
	}
	return l, err
}

// runningSQL reads the running rows alone, through idx_tb_job_run_retry: at
// most as many as the agents have slots.
const runningSQL = `
SELECT execution_type, count(*) FROM jobs.tb_job_run WHERE status = 'running' GROUP BY execution_type`

// idleWait is how long a service's first job must have waited before it counts
// as held for a reason that also the queue at work can look like.
const idleWait = 30 * time.Second

// holders is what the database knows of why jobs wait.
type holders struct {
	now      time.Time
	switches map[jobs.ExecutionType]jobs.Switch
	alive    int                        // agents
	agents   int                        // of those, that claim
	free     map[jobs.ExecutionType]int // slots of agents that run the type
	runs     map[jobs.ExecutionType]bool
}

const claimersSQL = `
SELECT state = 'running', execution_types, greatest(slots - running, 0) FROM jobs.tb_agent
 WHERE lease_expires_at > now() AND state <> 'stopped'`

func readHolders(ctx context.Context, db jobs.Querier) (h holders, err error) {
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&h.now); err != nil {
		return h, err
	}
	b := &pgx.Batch{}
	h.ask(b)
	return h, db.SendBatch(ctx, b).Close()
}

// ask adds the questions to a batch, but for the time.
func (h *holders) ask(b *pgx.Batch) {
	h.switches = map[jobs.ExecutionType]jobs.Switch{}
	jobs.AskSwitches(b, func(s jobs.Switch) { h.switches[s.Type] = s })
	b.Queue(claimersSQL).Query(func(rows pgx.Rows) error {
		h.free, h.runs = map[jobs.ExecutionType]int{}, map[jobs.ExecutionType]bool{}
		var claims bool
		var types []jobs.ExecutionType
		var free int
		_, err := pgx.ForEachRow(rows, []any{&claims, &types, &free}, func() error {
			h.alive++
			if !claims {
				return nil
			}
			h.agents++
			for _, t := range types {
				h.runs[t] = true
				h.free[t] += free
			}
			return nil
		})
		return err
	})
}

// reason says why jobs of a lane wait, the first of which waits for the time
// given; empty when nothing holds them.
func (h holders) reason(l laneState, waited time.Duration) string {
	s, known := h.switches[l.Type]
	switch {
	case known && s.StoppedAt != nil:
		return stopped(s, h.now)
	case known && !s.Enabled:
		return switchedOff(s, h.now)
	case h.alive == 0:
		return "no agent is running"
	case h.agents == 0:
		return "all agents are paused or draining"
	case !h.runs[l.Type]:
		return fmt.Sprintf("no agent runs %s", l.Type)
	case !l.Known, !l.Live && waited > idleWait: // agents take a moment to write down what they have
		return "no agent's registry has the service"
	case l.Held != "":
		return strings.TrimPrefix(l.Held, "held: ")
	case l.Concurrency > 0 && waited > idleWait && h.free[l.Type] > 0:
		return fmt.Sprintf("its concurrency allows %d at once on each agent", l.Concurrency)
	}
	return ""
}

// laneStates looks the lanes of services up; a service that no agent has
// written down is missing.
func laneStates(ctx context.Context, db jobs.Querier, services []string) (map[string]laneState, error) {
	rows, err := db.Query(ctx, laneSQL, services)
	if err != nil {
		return nil, err
	}
	states := map[string]laneState{}
	var name string
	var l laneState
	_, err = pgx.ForEachRow(rows, []any{&name, &l.Type, &l.Known, &l.Live, &l.Held, &l.Concurrency}, func() error {
		states[name] = l
		return nil
	})
	return states, err
}

// explainWaits fills in why the pending ones of the rows wait. It costs a few
// short queries however many rows there are, and none when nothing waits.
func explainWaits(ctx context.Context, db jobs.Querier, rows []*JobRow) error {
	var services []string
	for _, r := range rows {
		if r.Status == jobs.Pending {
			services = append(services, r.Service)
		}
	}
	if services == nil {
		return nil
	}
	slices.Sort(services)
	states, err := laneStates(ctx, db, slices.Compact(services))
	if err != nil {
		return err
	}
	h, err := readHolders(ctx, db)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Status != jobs.Pending {
			continue
		}
		l, known := states[r.Service]
		if !known {
			l.Type = r.Type
		}
		r.HeldReason = h.reason(l, h.now.Sub(r.CreatedAt))
	}
	return nil
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

func stopped(s jobs.Switch, now time.Time) string {
	text := "emergency stop"
	if s.StopReason != "" {
		text += ": " + s.StopReason
	}
	return text + fmt.Sprintf(" (%s, %s)", s.StoppedBy, ago(now.Sub(*s.StoppedAt)))
}

// held lists what is held back, most jobs first.
func (h holders) held(list []lane) []Held {
	var out []Held
	for _, l := range list {
		if reason := h.reason(l.laneState, l.Oldest); reason != "" {
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
