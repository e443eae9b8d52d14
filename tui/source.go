package tui

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/migrate"
)

// Source is everything that the console asks and does. Each function must
// heed its context; all may be called by several goroutines at once.
type Source struct {
	Overview func(ctx context.Context) (ops.Overview, error)
	Live     func(ctx context.Context, window time.Duration) (ops.Live, error)
	List     func(ctx context.Context, f ops.Filter, p ops.Page) ([]ops.JobRow, error)
	Job      func(ctx context.Context, id jobs.ID) (ops.JobDetail, error)
	Agents   func(ctx context.Context) ([]ops.AgentRow, error)
	Filter   func(words string) (ops.Filter, error)
	Plan     func(ctx context.Context, types []jobs.ExecutionType, enable bool) (ops.SwitchPlan, error)
	Switch   func(ctx context.Context, types []jobs.ExecutionType, enable, force bool, reason string) ([]jobs.Switch, error)
	// Of one job: what an action will do, and doing it.
	PlanJob   func(ctx context.Context, action ops.JobAction, id jobs.ID) (ops.JobPlan, error)
	ChangeJob func(ctx context.Context, action ops.JobAction, id jobs.ID, reason string) (ops.JobResult, error)

	Migrate migrate.Source

	News  <-chan struct{}  // something happened; nil: nobody says so
	Clock func() time.Time // time.Now but in tests
}

// Database is the Source of a real console until ctx ends; what is changed is
// changed in the name of by, with the operator's reason.
func Database(ctx context.Context, pool *pgxpool.Pool, by jobs.By) Source {
	return Source{
		News:     ops.Watch(ctx, pool),
		Overview: func(ctx context.Context) (ops.Overview, error) { return ops.GetOverview(ctx, pool) },
		Live: func(ctx context.Context, window time.Duration) (ops.Live, error) {
			return ops.GetLive(ctx, pool, window)
		},
		List: func(ctx context.Context, f ops.Filter, p ops.Page) ([]ops.JobRow, error) {
			return ops.ListJobs(ctx, pool, f, p)
		},
		Job:    func(ctx context.Context, id jobs.ID) (ops.JobDetail, error) { return ops.GetJob(ctx, pool, id) },
		Agents: func(ctx context.Context) ([]ops.AgentRow, error) { return ops.ListAgents(ctx, pool) },
		Filter: ops.ParseFilter,
		Plan: func(ctx context.Context, types []jobs.ExecutionType, enable bool) (ops.SwitchPlan, error) {
			return ops.PlanSwitch(ctx, pool, types, enable)
		},
		Switch: func(ctx context.Context, types []jobs.ExecutionType, enable, force bool, reason string) ([]jobs.Switch, error) {
			by := by
			by.Reason = reason
			return ops.Switch(ctx, pool, types, enable, force, by)
		},
		PlanJob: func(ctx context.Context, action ops.JobAction, id jobs.ID) (ops.JobPlan, error) {
			return ops.PlanJobs(ctx, pool, action, ops.Filter{IDs: []jobs.ID{id}})
		},
		ChangeJob: func(ctx context.Context, action ops.JobAction, id jobs.ID, reason string) (ops.JobResult, error) {
			by := by
			by.Reason = reason
			return ops.ChangeJobs(ctx, pool, action, ops.Filter{IDs: []jobs.ID{id}}, ops.JobChange{By: by})
		},
		Migrate: migration(pool, by),
		Clock:   time.Now,
	}
}
