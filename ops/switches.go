package ops

import (
	"context"
	"errors"
	"slices"

	"github.com/specql/specql-ops/jobs"
)

// ErrNeedsForce refuses to disable http unasked: most applications stand still
// without it.
var ErrNeedsForce = errors.New("disabling http holds every HTTP job of the application: add --force if that is meant")

// ErrNoTypes says that a switch names no type.
var ErrNoTypes = errors.New("no execution type is given: name http, shell, docker or serverless")

// PlanSwitch says what switching the types will do; nothing is changed.
func PlanSwitch(ctx context.Context, db jobs.Beginner, types []jobs.ExecutionType, enable bool) (SwitchPlan, error) {
	p, err := planSwitch(ctx, db, types, enable)
	return p, Explain(err)
}

func planSwitch(ctx context.Context, db jobs.Beginner, types []jobs.ExecutionType, enable bool) (SwitchPlan, error) {
	if len(types) == 0 {
		return SwitchPlan{}, ErrNoTypes
	}
	switches, err := jobs.Switches(ctx, db)
	if err != nil {
		return SwitchPlan{}, err
	}
	q, err := readQueue(ctx, db)
	if err != nil {
		return SwitchPlan{}, err
	}
	p := SwitchPlan{Enable: enable, NeedsForce: !enable && slices.Contains(types, jobs.HTTP)}
	for _, s := range switches {
		if !slices.Contains(types, s.Type) {
			continue
		}
		t := TypePlan{Type: s.Type, Switch: s, Already: s.Enabled == enable, Running: q.running[s.Type]}
		for _, l := range q.lanes {
			if l.Type == s.Type {
				t.Pending += l.Waiting
				t.PendingCapped = t.PendingCapped || l.Capped
				t.Services++
			}
		}
		p.Types = append(p.Types, t)
	}
	return p, nil
}

// Switch enables or disables execution types for every agent, those that start
// later included, and writes the audit log. Pending jobs of a disabled type are
// held, running ones finish. It returns the switches that changed: types that
// stood so already are left alone. ErrNeedsForce refuses http without force.
func Switch(ctx context.Context, db jobs.Beginner, types []jobs.ExecutionType, enable, force bool, by jobs.By) ([]jobs.Switch, error) {
	if len(types) == 0 {
		return nil, ErrNoTypes
	}
	if !enable && !force && slices.Contains(types, jobs.HTTP) {
		return nil, ErrNeedsForce
	}
	changed, err := jobs.SetSwitches(ctx, db, types, enable, by)
	return changed, Explain(err)
}
