package tui

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
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
	// Of all claiming: how it stands, and stopping or resuming it.
	PlanStop func(ctx context.Context) (ops.StopPlan, error)
	Stop     func(ctx context.Context, stop bool, reason string) (changed bool, err error)
	// Of jobs: what an action will do, and doing it.
	PlanJobs      func(ctx context.Context, action ops.JobAction, f ops.Filter) (ops.JobPlan, error)
	ChangeJobs    func(ctx context.Context, action ops.JobAction, f ops.Filter, reason string, progress func(int64)) (ops.JobResult, error)
	Operations    func(ctx context.Context) ([]ops.Operation, error)
	Enqueue       func(ctx context.Context, o ops.Operation, typed map[string]string, reason string) (jobs.ID, error)
	Follow        func(ctx context.Context, id jobs.ID, tell func(ops.LogChunk) error) error
	Services      func(ctx context.Context) ([]ops.ServiceRow, error)
	Service       func(ctx context.Context, name string) (ops.ServiceDetail, error)
	PlanService   func(ctx context.Context, name string, change jobs.LaneChange) (ops.ServicePlan, error)
	SwitchService func(ctx context.Context, name string, change jobs.LaneChange, reason string) ([]jobs.LaneSwitch, error)
	Versions      func(ctx context.Context) ([]ops.VersionRow, error)
	Diff          func(ctx context.Context, from, to string) (ops.VersionDiff, error)
	Order         func(ctx context.Context, agents []ops.AgentRow, order ops.Order, reason string) (ops.Ordered, error)
	Audit         func(ctx context.Context, before int64, text string, limit int) ([]ops.AuditRow, error)

	Keymap actions.Keymap

	Migrate migrate.Source

	News  <-chan struct{}  // something happened; nil: nobody says so
	Clock func() time.Time // time.Now but in tests
	// After is a command that draws the screen again after d; a source without
	// one waits for the next second.
	After func(d time.Duration) tea.Cmd
}

// Database is the Source of a real console until ctx ends; what is changed is
// changed in the name of by, with the operator's reason.
func Database(ctx context.Context, pool *pgxpool.Pool, by jobs.By, keymap actions.Keymap) Source {
	because := func(reason string) jobs.By {
		by := by
		by.Reason = reason
		return by
	}
	return Source{
		Keymap:   keymap,
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
			return ops.Switch(ctx, pool, types, enable, force, because(reason))
		},
		PlanStop: func(ctx context.Context) (ops.StopPlan, error) { return ops.PlanStop(ctx, pool) },
		Stop: func(ctx context.Context, stop bool, reason string) (bool, error) {
			if stop {
				return ops.EmergencyStop(ctx, pool, because(reason))
			}
			return ops.ResumeClaims(ctx, pool, because(reason))
		},
		PlanJobs: func(ctx context.Context, action ops.JobAction, f ops.Filter) (ops.JobPlan, error) {
			return ops.PlanJobs(ctx, pool, action, f)
		},
		ChangeJobs: func(ctx context.Context, action ops.JobAction, f ops.Filter, reason string, progress func(int64)) (ops.JobResult, error) {
			return ops.ChangeJobs(ctx, pool, action, f, ops.JobChange{By: because(reason), Progress: progress})
		},
		Operations: func(ctx context.Context) ([]ops.Operation, error) { return ops.ListOperations(ctx, pool) },
		Enqueue: func(ctx context.Context, o ops.Operation, typed map[string]string, reason string) (jobs.ID, error) {
			input, err := o.Input(typed)
			if err != nil {
				return jobs.ID{}, err
			}
			return ops.Enqueue(ctx, pool, o, input, because(reason))
		},
		Follow: func(ctx context.Context, id jobs.ID, tell func(ops.LogChunk) error) error {
			return ops.FollowLog(ctx, pool, id, tell)
		},
		Services: func(ctx context.Context) ([]ops.ServiceRow, error) { return ops.GetServices(ctx, pool) },
		Service: func(ctx context.Context, name string) (ops.ServiceDetail, error) {
			return ops.GetService(ctx, pool, name)
		},
		PlanService: func(ctx context.Context, name string, change jobs.LaneChange) (ops.ServicePlan, error) {
			plan, err := ops.PlanServices(ctx, pool, []string{name}, change)
			if err != nil {
				return ops.ServicePlan{}, err
			}
			return plan[0], nil
		},
		SwitchService: func(ctx context.Context, name string, change jobs.LaneChange, reason string) ([]jobs.LaneSwitch, error) {
			return ops.SwitchServices(ctx, pool, []string{name}, change, because(reason))
		},
		Versions: func(ctx context.Context) ([]ops.VersionRow, error) { return ops.ListVersions(ctx, pool, nil, 50) },
		Diff: func(ctx context.Context, from, to string) (ops.VersionDiff, error) {
			a, err := ops.GetVersion(ctx, pool, nil, from)
			if err != nil {
				return ops.VersionDiff{}, err
			}
			b, err := ops.GetVersion(ctx, pool, nil, to)
			return ops.DiffVersions(a, b), err
		},
		Order: func(ctx context.Context, agents []ops.AgentRow, order ops.Order, reason string) (ops.Ordered, error) {
			return ops.OrderAgents(ctx, pool, agents, order, because(reason))
		},
		Audit: func(ctx context.Context, before int64, text string, limit int) ([]ops.AuditRow, error) {
			return ops.ListAudit(ctx, pool, before, text, limit)
		},
		Migrate: migration(pool, by),
		Clock:   time.Now,
		After:   func(d time.Duration) tea.Cmd { return tea.Tick(d, func(time.Time) tea.Msg { return wakeMsg{} }) },
	}
}
