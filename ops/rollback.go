package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// RollbackOptions say how to go back to http-only.
type RollbackOptions struct {
	Cancel       bool          // waiting jobs of the other types are cancelled; else held, unchanged
	Grace        time.Duration // how long running ones are waited for; 0: not at all
	StopRunning  bool          // what still runs then is cancelled; else it is left to end
	Registry     string        // the version to return to: previous, the beginning of a hash, git:REF; empty: none
	RegistryFile string        // on this host; the file that the agents name when empty
	By           jobs.By
	Progress     func(RollbackStep) // may be nil
}

// RollbackStep is one report of a rollback's advance.
type RollbackStep struct {
	Step string // what is being done
	Done int64  // jobs
	Of   int64
}

// RollbackService is one service that a rollback concerns.
type RollbackService struct {
	Service  string             `json:"service_name"`
	Type     jobs.ExecutionType `json:"execution_type"`
	Pending  int64              `json:"pending"`
	Retrying int64              `json:"retrying"` // failed, and would be tried again
	Running  int64              `json:"running"`
}

// RollbackPlan says what a rollback will do, with exact numbers.
type RollbackPlan struct {
	SwitchOff []jobs.ExecutionType `json:"switch_off"` // of shell, docker and serverless, those that are on
	Services  []RollbackService    `json:"services"`   // with jobs that it concerns
	Pending   int64                `json:"pending"`
	Retrying  int64                `json:"retrying"`
	Running   int64                `json:"running"`
	Registry  *RegistryRestore     `json:"registry,omitempty"` // nil: none was asked for
	Last      *Rollback            `json:"last,omitempty"`     // the newest one; nil: there was none
}

// Waiting are the jobs that are held or cancelled.
func (p RollbackPlan) Waiting() int64 { return p.Pending + p.Retrying }

// Rollback is one rollback, as jobs.tb_rollback keeps it.
type Rollback struct {
	ID             int64                `json:"id"`
	State          string               `json:"state"` // running, done, undoing, undone
	BeganAt        time.Time            `json:"began_at"`
	EndedAt        *time.Time           `json:"ended_at,omitempty"`
	Actor          string               `json:"actor"`
	Origin         string               `json:"origin"`
	Reason         string               `json:"reason,omitempty"`
	Cancel         bool                 `json:"cancel_pending"`
	GraceSeconds   float64              `json:"grace_seconds"`
	StopRunning    bool                 `json:"cancel_running"`
	SwitchedOff    []jobs.ExecutionType `json:"switched_off"` // that were on before
	RegistryBefore string               `json:"registry_before,omitempty"`
	RegistryAfter  string               `json:"registry_after,omitempty"`
	RegistryFile   string               `json:"registry_file,omitempty"`
	Backup         string               `json:"registry_backup,omitempty"` // the file's text before, beside it
	Held           int64                `json:"jobs_held"`
	Cancelled      int64                `json:"jobs_cancelled"`
	Left           int64                `json:"jobs_left"` // still running at its end
}

// Unfinished tells that it was begun and has not come to its end.
func (r Rollback) Unfinished() bool { return r.State == "running" || r.State == "undoing" }

// RollbackBusyError says that somebody else is rolling back or undoing it now.
type RollbackBusyError struct{ Rollback Rollback }

func (e *RollbackBusyError) Error() string {
	doing := "rolling back"
	if e.Rollback.State == "undoing" {
		doing = "undoing the rollback"
	}
	return fmt.Sprintf("%s is %s since %s (%s, reason: %s): wait until that is done, then look at rollback --dry-run",
		e.Rollback.Actor, doing, e.Rollback.BeganAt.Local().Format("15:04:05"), e.Rollback.Origin, orNone(e.Rollback.Reason))
}

func orNone(s string) string {
	if s == "" {
		return "none given"
	}
	return s
}

// ErrNoRollback says that there is no rollback to undo.
var ErrNoRollback = errors.New("there is no rollback to undo: none was made, or it is undone already")

// rolledBack are the types that http-only does without.
func rolledBack() []jobs.ExecutionType {
	return []jobs.ExecutionType{jobs.Shell, jobs.Docker, jobs.Serverless}
}

// What a waiting job would run by is its lane's, in which the registry and the
// operators' fallbacks are; where no agent has published one, the row's.
const concernedSQL = `
SELECT r.service_name, coalesce(l.runs_as, l.execution_type, r.execution_type) AS type,
       count(*) FILTER (WHERE r.status = 'pending'), count(*) FILTER (WHERE r.status = 'failed'), 0::bigint
  FROM jobs.tb_job_run r LEFT JOIN jobs.tb_lane l USING (service_name)
 WHERE (r.status = 'pending' OR r.status = 'failed' AND r.retry_at IS NOT NULL)
   AND coalesce(l.runs_as, l.execution_type, r.execution_type) = ANY ($1)
 GROUP BY 1, 2
 UNION ALL
SELECT service_name, execution_type, 0, 0, count(*) FROM jobs.tb_job_run
 WHERE status = 'running' AND execution_type = ANY ($1) GROUP BY 1, 2
 ORDER BY 1, 2`

const rollbackColumns = `id, state, began_at, ended_at, actor, origin, reason, pending_mode = 'cancel', grace_seconds, stop_running,
       switched_off, registry_before, registry_after, registry_file, registry_backup, jobs_held, jobs_cancelled, jobs_left`

const lastRollbackSQL = `SELECT ` + rollbackColumns + ` FROM jobs.tb_rollback ORDER BY id DESC LIMIT 1`

// LastRollback is the newest rollback; nil when there was none.
func LastRollback(ctx context.Context, db jobs.Querier) (*Rollback, error) {
	rows, err := db.Query(ctx, lastRollbackSQL)
	if err != nil {
		return nil, Explain(err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Rollback])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, Explain(err)
	}
	return &r, nil
}

// PlanRollback says what a rollback will do; nothing is changed. Its numbers
// are exact, so it reads all that waits: about a third of a second for a
// million jobs.
func PlanRollback(ctx context.Context, db *pgxpool.Pool, o RollbackOptions) (RollbackPlan, error) {
	p, err := planRollback(ctx, db, o)
	return p, Explain(err)
}

func planRollback(ctx context.Context, db jobs.Querier, o RollbackOptions) (p RollbackPlan, err error) {
	switches, err := jobs.Switches(ctx, db)
	if err != nil {
		return p, err
	}
	for _, s := range switches {
		if s.Enabled && slices.Contains(rolledBack(), s.Type) {
			p.SwitchOff = append(p.SwitchOff, s.Type)
		}
	}
	if err := p.count(ctx, db); err != nil {
		return p, err
	}
	if p.Last, err = LastRollback(ctx, db); err != nil {
		return p, err
	}
	if o.Registry != "" {
		p.Registry, err = planRestore(ctx, db, o.Registry, o.RegistryFile)
	}
	return p, err
}

func (p *RollbackPlan) count(ctx context.Context, db jobs.Querier) error {
	p.Services, p.Pending, p.Retrying, p.Running = nil, 0, 0, 0
	rows, err := db.Query(ctx, concernedSQL, rolledBack())
	if err != nil {
		return err
	}
	var s RollbackService
	_, err = pgx.ForEachRow(rows, []any{&s.Service, &s.Type, &s.Pending, &s.Retrying, &s.Running}, func() error {
		p.Pending += s.Pending
		p.Retrying += s.Retrying
		p.Running += s.Running
		if n := len(p.Services); n > 0 && p.Services[n-1].Service == s.Service && p.Services[n-1].Type == s.Type {
			last := &p.Services[n-1]
			last.Pending, last.Retrying, last.Running = last.Pending+s.Pending, last.Retrying+s.Retrying, last.Running+s.Running
			return nil
		}
		p.Services = append(p.Services, s)
		return nil
	})
	return err
}
