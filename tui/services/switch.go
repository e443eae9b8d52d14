package services

import (
	"context"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// changes of a service's switches, as people call them, and what each does;
// each is taken back by its opposite.
var changes = map[jobs.LaneChange]struct {
	before, after, done string
	effects             []string
	opposite            jobs.LaneChange
}{
	jobs.DisableService: {"Switch ", " off", "is off", []string{"What waits is held, not changed; what runs goes on to its end.", "New jobs of it wait until it is switched on again."}, jobs.EnableService},
	jobs.EnableService:  {"Switch ", " on", "is on", []string{"What waits goes on as soon as an agent has room."}, jobs.DisableService},
	jobs.FallBack:       {"Run ", " over http", "runs over http", []string{"Its jobs go to the service's base_url in place of its own type.", "What runs now goes on to its end."}, jobs.NoFallback},
	jobs.NoFallback:     {"Run ", " as its own type again", "runs as its own type", []string{"Its jobs run by its own type again."}, jobs.FallBack},
}

// switching is the dialog that changes one switch of a service.
func (p *Page) switching(row ops.ServiceRow, change jobs.LaneChange) parts.Ask {
	name, words, plan, do := row.Service, changes[change], p.source.Plan, p.source.Switch
	return parts.Ask{Title: words.before + parts.Clean(name) + words.after,
		Plan: func(ctx context.Context) (parts.Plan, error) {
			v, err := plan(ctx, name, change)
			if err != nil {
				return parts.Plan{}, err
			}
			switch {
			case v.Already:
				return parts.Plan{Nothing: "Nothing to do: " + parts.Clean(name) + " " + words.done + " already."}, nil
			case v.Cannot:
				return parts.Plan{Nothing: parts.Clean(name) + " has no http fallback: its registry entry gives no base_url."}, nil
			}
			return parts.Plan{Reason: change == jobs.DisableService || change == jobs.FallBack, Effects: append([]string{
				"Waiting: " + parts.Count(v.Pending, v.Capped) + ", running: " + parts.Count(v.Running, false) + "."}, words.effects...)}, nil
		},
		Do: func(ctx context.Context, said parts.Said, _ func(int64)) parts.Outcome {
			changed, err := do(ctx, name, change, said.Reason)
			switch {
			case err != nil:
				return parts.Failed(parts.Clean(name)+" was not changed.", err)
			case len(changed) == 0:
				return parts.Outcome{Lines: []string{"○ " + parts.Clean(name) + " " + words.done + " already; nothing changed."}}
			}
			back := p.switching(row, words.opposite)
			return parts.Outcome{Lines: []string{"● " + parts.Clean(name) + " " + words.done + ". Agents obey with their next claim.", "The change is in the audit log."},
				Undo: &parts.Undo{Title: back.Title, Plan: back.Plan, Do: back.Do}}
		}}
}
