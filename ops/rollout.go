package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specql/specql-ops/jobs"
)

// Rollout is the guarded roll-out of one execution type: a canary job, then its
// service alone for the first jobs, then all services of the type. When jobs
// fail more often than allowed, the type is switched off and it ends.
type Rollout struct {
	ID           int64              `json:"id"`
	Type         jobs.ExecutionType `json:"execution_type"`
	State        string             `json:"state"` // running, passed, stopped, ended
	Stage        string             `json:"stage"` // canary, hundred, all
	Service      string             `json:"service_name"`
	Canary       *jobs.ID           `json:"canary_job,omitempty"`
	Held         []string           `json:"held_services"` // switched off until their turn
	LeastSuccess float64            `json:"least_success"` // from 0 to 1
	MostP95      *float64           `json:"most_p95_seconds,omitempty"`
	Jobs         int                `json:"jobs"` // of each stage after the canary
	Actor        string             `json:"actor"`
	Origin       string             `json:"origin"`
	Reason       string             `json:"reason,omitempty"`
	BeganAt      time.Time          `json:"began_at"`
	StageAt      time.Time          `json:"stage_at"`
	BaseDone     int64              `json:"-"`
	BaseFailed   int64              `json:"-"`
	EndedAt      *time.Time         `json:"ended_at,omitempty"`
	Outcome      string             `json:"outcome,omitempty"`
}

const rolloutColumns = `id, execution_type, state, stage, service_name, canary_job, held_services, least_success, most_p95, wanted_jobs,
       actor, origin, reason, began_at, stage_at, base_completed, base_failed, ended_at, outcome`

func listRollouts(ctx context.Context, db jobs.Querier) ([]Rollout, error) {
	rows, err := db.Query(ctx, `SELECT `+rolloutColumns+` FROM jobs.tb_rollout ORDER BY id DESC LIMIT 20`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Rollout])
}

// LastRollout is the newest roll-out of a type; nil when there was none.
func LastRollout(ctx context.Context, db jobs.Querier, t jobs.ExecutionType) (*Rollout, error) {
	list, err := listRollouts(ctx, db)
	for _, r := range list {
		if r.Type == t {
			return &r, nil
		}
	}
	return nil, Explain(err)
}

// RolloutOptions say how a type is rolled out.
type RolloutOptions struct {
	Type         jobs.ExecutionType
	Service      string // whose job is the canary
	Operation    string
	Input        json.RawMessage // of the canary; an object
	LeastSuccess float64         // from 0 to 1; 0.95 when 0
	MostP95      time.Duration   // 0: no bound
	Jobs         int             // of each stage; 100 when 0
	By           jobs.By
}

// The bounds below which too little has happened to judge.
const (
	judgeSuccessFrom = 10
	judgeP95From     = 20
)

const beginRolloutSQL = `
INSERT INTO jobs.tb_rollout (execution_type, state, stage, service_name, canary_job, held_services, least_success, most_p95,
       wanted_jobs, actor, origin, reason)
VALUES ($1, 'running', 'canary', $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING ` + rolloutColumns

const canarySQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, execution_type, max_attempts, correlation_id, idempotency_key)
VALUES ($1, $2, $3, $4, $5, 1, 'specql-canary', $1) RETURNING id`

// StartRollout switches the type on with one service alone and enqueues its
// canary job, in one transaction. AdvanceRollouts carries it on. A type has one
// roll-out at a time.
func StartRollout(ctx context.Context, db jobs.Beginner, o RolloutOptions) (r Rollout, err error) {
	if o.LeastSuccess == 0 {
		o.LeastSuccess = 0.95
	}
	if o.Jobs == 0 {
		o.Jobs = 100
	}
	if len(o.Input) == 0 {
		o.Input = json.RawMessage("{}")
	}
	var object map[string]any
	if err := json.Unmarshal(o.Input, &object); err != nil {
		return r, fmt.Errorf("the canary's input is not a JSON object: %w", err)
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		lanes, err := jobs.LaneSwitches(ctx, tx)
		if err != nil {
			return err
		}
		held, found := []string{}, false
		fault := &NameError{What: string(o.Type) + " service", Name: o.Service}
		for _, l := range lanes {
			if l.Type != o.Type {
				continue
			}
			fault.Known = append(fault.Known, l.Service)
			found = found || l.Service == o.Service
			if l.Service != o.Service && l.Enabled && !l.Fallback {
				held = append(held, l.Service)
			}
		}
		if !found {
			return fault
		}
		by := o.By
		by.Reason = fmt.Sprintf("roll-out of %s: waits for its turn", o.Type)
		if _, err := jobs.SwitchLanes(ctx, tx, held, jobs.DisableService, by); err != nil {
			return err
		}
		by.Reason = fmt.Sprintf("roll-out of %s", o.Type)
		for _, change := range []jobs.LaneChange{jobs.EnableService, jobs.NoFallback} {
			if _, err := jobs.SwitchLanes(ctx, tx, []string{o.Service}, change, by); err != nil {
				return err
			}
		}
		if _, err := jobs.SetSwitches(ctx, tx, []jobs.ExecutionType{o.Type}, true, by); err != nil {
			return err
		}
		var canary jobs.ID
		if err := tx.QueryRow(ctx, canarySQL, "canary-"+jobs.NewID().String(), o.Service, o.Operation, string(o.Input), o.Type).Scan(&canary); err != nil {
			return fmt.Errorf("enqueue the canary: %w", err)
		}
		var most *float64
		if o.MostP95 > 0 {
			most = new(o.MostP95.Seconds())
		}
		rows, err := tx.Query(ctx, beginRolloutSQL, o.Type, o.Service, canary, held, o.LeastSuccess, most, o.Jobs, o.By.Actor, o.By.Origin, o.By.Reason)
		if err != nil {
			return err
		}
		if r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Rollout]); err != nil {
			return err
		}
		return jobs.Audit(ctx, tx, o.By, "rollout", string(o.Type), nil, map[string]any{"service": o.Service, "canary": canary.String(), "held": held})
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.ConstraintName == "idx_tb_rollout_running" {
		return r, fmt.Errorf("%s is being rolled out already: see specql-tui migrate", o.Type)
	}
	return r, Explain(err)
}

// AdvanceRollouts looks at every roll-out that is under way and takes it to its
// next stage, or stops it. Any number of consoles and commands may call it: one
// at a time looks at a roll-out. It returns those that changed.
func AdvanceRollouts(ctx context.Context, db jobs.Beginner, by jobs.By) (changed []Rollout, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+rolloutColumns+` FROM jobs.tb_rollout WHERE state = 'running' ORDER BY id FOR UPDATE SKIP LOCKED`)
		if err != nil {
			return err
		}
		running, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Rollout])
		if err != nil {
			return err
		}
		for _, r := range running {
			next, err := r.advance(ctx, tx, by)
			if err != nil {
				return fmt.Errorf("roll-out of %s: %w", r.Type, err)
			}
			if next.State != r.State || next.Stage != r.Stage {
				changed = append(changed, next)
			}
		}
		return nil
	})
	return changed, Explain(err)
}

func (r Rollout) advance(ctx context.Context, tx pgx.Tx, by jobs.By) (Rollout, error) {
	var on bool
	if err := tx.QueryRow(ctx, `SELECT enabled FROM jobs.tb_execution_type WHERE execution_type = $1`, r.Type).Scan(&on); err != nil {
		return r, err
	}
	if !on {
		return r.end(ctx, tx, by, "ended", string(r.Type)+" was switched off")
	}
	if r.Stage == "canary" {
		return r.canary(ctx, tx, by)
	}
	done, p95, err := r.figures(ctx, tx)
	if err != nil {
		return r, err
	}
	success := 1.0
	if done.all() > 0 {
		success = float64(done.completed) / float64(done.all())
	}
	switch {
	case done.all() >= judgeSuccessFrom && success < r.LeastSuccess:
		return r.end(ctx, tx, by, "stopped", fmt.Sprintf("success %.1f %% of %d attempts is below %.1f %%", 100*success, done.all(), 100*r.LeastSuccess))
	case r.MostP95 != nil && done.all() >= judgeP95From && p95.Seconds() > *r.MostP95:
		return r.end(ctx, tx, by, "stopped", fmt.Sprintf("p95 %s of %d attempts is above %s", p95.Round(time.Millisecond), done.all(),
			time.Duration(*r.MostP95*float64(time.Second))))
	case done.all() < int64(r.Jobs):
		return r, nil
	case r.Stage == "hundred" && len(r.Held) > 0:
		return r.stage(ctx, tx, by, "all")
	}
	return r.end(ctx, tx, by, "passed", fmt.Sprintf("success %.1f %% of %d attempts, p95 %s", 100*success, done.all(), p95.Round(time.Millisecond)))
}

func (r Rollout) canary(ctx context.Context, tx pgx.Tx, by jobs.By) (Rollout, error) {
	var status jobs.Status
	var message string
	err := tx.QueryRow(ctx, `SELECT status, coalesce(error_message, '') FROM jobs.tb_job_run WHERE id = $1`, r.Canary).Scan(&status, &message)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return r.end(ctx, tx, by, "stopped", "the canary job is gone")
	case err != nil:
		return r, err
	case status == jobs.Completed:
		return r.stage(ctx, tx, by, "hundred")
	case status == jobs.Failed, status == jobs.Cancelled:
		return r.end(ctx, tx, by, "stopped", fmt.Sprintf("the canary job %s: %s", status, message))
	}
	return r, nil
}

// figures are what ended since the stage began.
func (r Rollout) figures(ctx context.Context, db jobs.Querier) (n totals, p95 time.Duration, err error) {
	rows, err := db.Query(ctx, `SELECT completed, failed, duration_hist FROM jobs.tb_job_metric
		WHERE execution_type = $1 AND minute >= date_trunc('minute', $2::timestamptz)`, r.Type, r.StageAt)
	if err != nil {
		return n, 0, err
	}
	var all jobs.Histogram
	var one totals
	var hist []int64
	_, err = pgx.ForEachRow(rows, []any{&one.completed, &one.failed, &hist}, func() error {
		n.completed += one.completed
		n.failed += one.failed
		all.Merge(hist)
		return nil
	})
	n.completed, n.failed = max(n.completed-r.BaseDone, 0), max(n.failed-r.BaseFailed, 0)
	return n, all.Quantile(0.95), err
}

// stage begins the next stage: what ended before in this minute is left out.
func (r Rollout) stage(ctx context.Context, tx pgx.Tx, by jobs.By, name string) (Rollout, error) {
	if name == "all" {
		if err := r.release(ctx, tx, by); err != nil {
			return r, err
		}
		r.Held = nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE jobs.tb_rollout r SET stage = $2, stage_at = now(), held_services = $3, base_completed = b.completed, base_failed = b.failed
		  FROM (SELECT coalesce(sum(completed), 0)::bigint AS completed, coalesce(sum(failed), 0)::bigint AS failed FROM jobs.tb_job_metric
		         WHERE execution_type = $4 AND minute >= date_trunc('minute', now())) b
		 WHERE r.id = $1 RETURNING `+rolloutColumns, r.ID, name, append([]string{}, r.Held...), r.Type)
	if err != nil {
		return r, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Rollout])
}

// release lets the services go on that waited for their turn.
func (r Rollout) release(ctx context.Context, tx pgx.Tx, by jobs.By) error {
	by.Reason = fmt.Sprintf("roll-out of %s", r.Type)
	_, err := jobs.SwitchLanes(ctx, tx, r.Held, jobs.EnableService, by)
	return err
}

func (r Rollout) end(ctx context.Context, tx pgx.Tx, by jobs.By, state, outcome string) (Rollout, error) {
	if state == "stopped" {
		off := by
		off.Reason = fmt.Sprintf("roll-out stopped: %s", outcome)
		if _, err := jobs.SetSwitches(ctx, tx, []jobs.ExecutionType{r.Type}, false, off); err != nil {
			return r, err
		}
	}
	if err := r.release(ctx, tx, by); err != nil {
		return r, err
	}
	rows, err := tx.Query(ctx, `UPDATE jobs.tb_rollout SET state = $2, outcome = $3, ended_at = now(), held_services = '{}' WHERE id = $1
		RETURNING `+rolloutColumns, r.ID, state, outcome)
	if err != nil {
		return r, err
	}
	ended, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Rollout])
	if err != nil {
		return r, err
	}
	by.Reason = outcome
	return ended, jobs.Audit(ctx, tx, by, "rollout-"+state, string(r.Type), map[string]string{"stage": r.Stage}, map[string]string{"outcome": outcome})
}

// EndRollout ends a type's roll-out where it stands: the type stays on and the
// services that waited go on. It tells whether there was one.
func EndRollout(ctx context.Context, db jobs.Beginner, t jobs.ExecutionType, by jobs.By) (ended bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+rolloutColumns+` FROM jobs.tb_rollout WHERE state = 'running' AND execution_type = $1 FOR UPDATE`, t)
		if err != nil {
			return err
		}
		running, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Rollout])
		for _, r := range running {
			ended = true
			if _, err := r.end(ctx, tx, by, "ended", "ended by "+by.Actor); err != nil {
				return err
			}
		}
		return err
	})
	return ended, Explain(err)
}
