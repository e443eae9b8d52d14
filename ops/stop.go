package ops

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// StopPlan says what an emergency stop, or its end, will do.
type StopPlan struct {
	Stopped string `json:"stopped,omitempty"` // why, by whom and since when it is stopped already; empty: it is not
	Agents  int    `json:"agents"`            // live ones, that will obey
	Pending int64  `json:"pending"`           // jobs that are held meanwhile; capped for each service
	Capped  bool   `json:"pending_capped"`
	Running int64  `json:"running"` // jobs that go on
}

// PlanStop says what an emergency stop would do; nothing is changed.
func PlanStop(ctx context.Context, db jobs.Beginner) (p StopPlan, err error) {
	h, err := readHolders(ctx, db)
	if err != nil {
		return p, Explain(err)
	}
	for _, s := range h.switches {
		if s.StoppedAt != nil {
			p.Stopped = stopped(s, h.now)
		}
	}
	p.Agents = h.alive
	q, err := readQueue(ctx, db)
	for _, l := range q.lanes {
		p.Pending += l.Waiting
		p.Capped = p.Capped || l.Capped
	}
	for _, n := range q.running {
		p.Running += n
	}
	return p, Explain(err)
}

// EmergencyStop ends all claiming of every agent until ResumeClaims, and writes
// the audit log. Running jobs go on; the types' own switches stay as they are.
// It tells whether anything changed.
func EmergencyStop(ctx context.Context, db jobs.Beginner, by jobs.By) (changed bool, err error) {
	switches, err := jobs.Stop(ctx, db, by)
	return len(switches) > 0, Explain(err)
}

// ResumeClaims ends an emergency stop.
func ResumeClaims(ctx context.Context, db jobs.Beginner, by jobs.By) (changed bool, err error) {
	switches, err := jobs.Lift(ctx, db, by)
	return len(switches) > 0, Explain(err)
}

// ServicePlan is one service of a plan to switch services.
type ServicePlan struct {
	jobs.LaneSwitch
	Already bool  `json:"already"` // it stands so
	Cannot  bool  `json:"cannot"`  // it has no http fallback
	Pending int64 `json:"pending"`
	Capped  bool  `json:"pending_capped"`
	Running int64 `json:"running"`
}

// ListServices lists the services that agents have published, and how their
// switches stand.
func ListServices(ctx context.Context, db jobs.Querier) ([]jobs.LaneSwitch, error) {
	list, err := jobs.LaneSwitches(ctx, db)
	return list, Explain(err)
}

const waitingOfSQL = `
SELECT (SELECT count(*) FROM (SELECT FROM jobs.tb_job_run WHERE service_name = $1 AND status = 'pending' LIMIT $2) few),
       (SELECT count(*) FROM jobs.tb_job_run WHERE service_name = $1 AND status = 'running')`

// PlanServices says what a change of services' switches will do. A *NameError
// says which name no agent has published.
func PlanServices(ctx context.Context, db jobs.Querier, names []string, change jobs.LaneChange) ([]ServicePlan, error) {
	list, err := ListServices(ctx, db)
	if err != nil {
		return nil, err
	}
	var plan []ServicePlan
	for _, name := range names {
		found := false
		for _, s := range list {
			if s.Service != name {
				continue
			}
			found = true
			p := ServicePlan{LaneSwitch: s}
			switch change {
			case jobs.DisableService:
				p.Already = !s.Enabled
			case jobs.EnableService:
				p.Already = s.Enabled
			case jobs.FallBack:
				p.Already, p.Cannot = s.Fallback, !s.Fallback && (!s.CanFall || s.Type == jobs.HTTP)
			case jobs.NoFallback:
				p.Already = !s.Fallback
			}
			if err := db.QueryRow(ctx, waitingOfSQL, name, WaitingCap+1).Scan(&p.Pending, &p.Running); err != nil {
				return nil, Explain(err)
			}
			if p.Capped = p.Pending > WaitingCap; p.Capped {
				p.Pending = WaitingCap
			}
			plan = append(plan, p)
		}
		if !found {
			fault := &NameError{What: "service", Name: name}
			for _, s := range list {
				fault.Known = append(fault.Known, s.Service)
			}
			return nil, fault
		}
	}
	return plan, nil
}

// SwitchServices changes services' switches for every agent and writes the
// audit log. It returns those that changed.
func SwitchServices(ctx context.Context, db jobs.Beginner, names []string, change jobs.LaneChange, by jobs.By) (changed []jobs.LaneSwitch, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) (err error) {
		changed, err = jobs.SwitchLanes(ctx, tx, names, change, by)
		return err
	})
	return changed, Explain(err)
}

// CancelRunning cancels what runs of the types; agents stop it within a second.
func CancelRunning(ctx context.Context, db jobs.Beginner, types []jobs.ExecutionType, by jobs.By) (JobResult, error) {
	return ChangeJobs(ctx, db, CancelJobs, Filter{Types: types, Statuses: []jobs.Status{jobs.Running}}, JobChange{By: by})
}
