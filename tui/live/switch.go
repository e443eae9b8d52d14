package live

import (
	"context"
	"errors"
	"fmt"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

var letters = map[jobs.ExecutionType]string{jobs.HTTP: "h", jobs.Shell: "s", jobs.Docker: "d", jobs.Serverless: "v"}

// openSwitch asks about the type under the cursor, or which one.
func (p *Page) openSwitch() tea.Cmd {
	types := p.feed.Value.Types
	if i := p.at[onTypes]; p.zone == onTypes && i < len(types) {
		return p.env.Ask(p.switching(types[i].Type, !types[i].Switch.Enabled))
	}
	ask := parts.Ask{Title: "Switch an execution type"}
	for _, t := range types {
		text := "● " + parts.Fit(string(t.Type), 11) + " on   → switch off"
		if !t.Switch.Enabled {
			text = "○ " + parts.Fit(string(t.Type), 11) + " off  → switch on"
		}
		ask.Choices = append(ask.Choices, parts.Choice{Key: letters[t.Type], Text: text, Ask: p.switching(t.Type, !t.Switch.Enabled)})
	}
	return p.env.Ask(ask)
}

func verb(enable bool) string {
	if enable {
		return "on"
	}
	return "off"
}

// switching is the dialog that switches one type; it can be taken back.
func (p *Page) switching(t jobs.ExecutionType, enable bool) parts.Ask {
	plan, do := p.source.Plan, p.source.Switch
	force := false
	return parts.Ask{Title: "Switch " + string(t) + " " + verb(enable),
		Plan: func(ctx context.Context) (parts.Plan, error) {
			v, err := plan(ctx, []jobs.ExecutionType{t}, enable)
			if err != nil {
				return parts.Plan{}, err
			}
			force = v.NeedsForce
			out := parts.Plan{Reason: !enable}
			if v.NeedsForce {
				out.Name, out.Warning = string(t), string(t)+" runs what the application enqueues by default."
			}
			for _, of := range v.Types {
				out.Effects = append(out.Effects, effects(of, enable)...)
			}
			return out, nil
		},
		Do: func(ctx context.Context, said parts.Said, _ func(int64)) parts.Outcome {
			changed, err := do(ctx, []jobs.ExecutionType{t}, enable, force, said.Reason)
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				return parts.Outcome{Bad: true, Lines: []string{"▲ The database did not answer in time.",
					"Look at the card of " + string(t) + " whether it is " + verb(enable) + " before you try again."}}
			case err != nil:
				return parts.Failed(string(t)+" was not switched "+verb(enable)+".", err)
			case len(changed) == 0:
				return parts.Outcome{Lines: []string{"● " + string(t) + " was " + verb(enable) + " already; nothing changed."}}
			}
			back := p.switching(t, !enable)
			return parts.Outcome{Lines: []string{"● " + string(t) + " is " + verb(enable) + ". Agents obey with their next claim.", "The change is in the audit log."},
				Undo: &parts.Undo{Title: back.Title, Plan: back.Plan, Do: back.Do}}
		}}
}

// effects says in sentences what the switch will do to one type.
func effects(t ops.TypePlan, enable bool) []string {
	pending := parts.Count(t.Pending, t.PendingCapped)
	services := plural(int64(t.Services), "service", "services")
	if t.Already {
		state := "off"
		if enable {
			state = "on"
		}
		return []string{fmt.Sprintf("%s is %s already: nothing will change.", t.Type, state)}
	}
	if enable {
		return []string{
			"Off since " + sinceAndWhy(t.Switch) + ".",
			fmt.Sprintf("Pending: %s jobs of %s go on.", pending, services),
			"Agents that run " + string(t.Type) + " claim them at once.",
			"It can be switched off again at any time.",
		}
	}
	return []string{
		fmt.Sprintf("Pending: %s jobs of %s are held, not changed.", pending, services),
		fmt.Sprintf("Running: %s to the end; nothing is cancelled.", jobsGo(t.Running)),
		"New " + string(t.Type) + " jobs wait until it is switched on again.",
	}
}

// sinceAndWhy tells how a type came to be off: whoever switches it on should know
// what somebody else had in mind.
func sinceAndWhy(s jobs.Switch) string {
	text := s.ChangedAt.UTC().Format("2006-01-02 15:04 UTC")
	if s.ChangedBy != "" {
		text += ", by " + parts.Clean(s.ChangedBy)
	}
	if s.Reason != "" {
		text += ": " + parts.Clean(s.Reason)
	}
	return text
}

func jobsGo(n int64) string {
	if n == 1 {
		return "1 job goes on"
	}
	return parts.Count(n, false) + " jobs go on"
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return parts.Count(n, false) + " " + many
}
