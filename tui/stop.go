package tui

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// stopping is the dialog that ends all claiming, or lets it go on. A reason may
// be given and need not: this is for the moment when there is no time.
func (a *app) stopping(stop bool) parts.Ask {
	plan, do := a.source.PlanStop, a.source.Stop
	title := "Resume all claiming"
	if stop {
		title = "Emergency stop"
	}
	return parts.Ask{Title: title,
		Plan: func(ctx context.Context) (parts.Plan, error) {
			counting, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			p, err := plan(counting)
			if err != nil { // what cannot be counted must not keep anybody from stopping
				return parts.Plan{Effects: []string{"What it will hold could not be counted: " + parts.Clean(err.Error())}}, nil
			}
			return stopPlan(p, stop), nil
		},
		Do: func(ctx context.Context, said parts.Said, _ func(int64)) parts.Outcome {
			changed, err := do(ctx, stop, said.Reason)
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				return parts.Outcome{Bad: true, Lines: []string{"▲ The database did not answer in time.",
					"The top line says whether all claiming is stopped; look there before you try again."}}
			case err != nil && stop:
				return parts.Failed("Claiming was not stopped.", err)
			case err != nil:
				return parts.Failed("Claiming was not resumed.", err)
			}
			lines := []string{"● Claiming goes on. The types' and services' own switches are as they were."}
			if stop {
				lines[0] = "● All claiming is stopped. What runs goes on to its end."
			}
			if !changed {
				lines[0] = "● It was so already; nothing changed."
			}
			back := a.stopping(!stop)
			return parts.Outcome{Lines: append(lines, "The change is in the audit log."), Undo: &parts.Undo{Title: back.Title, Plan: back.Plan, Do: back.Do}}
		}}
}

// stopPlan says in sentences what will happen.
func stopPlan(p ops.StopPlan, stop bool) parts.Plan {
	agents, pending := fmt.Sprintf("%d live agents", p.Agents), parts.Count(p.Pending, p.Capped)
	if p.Agents == 1 {
		agents = "1 live agent"
	}
	switch {
	case stop && p.Stopped != "":
		return parts.Plan{Nothing: "All claiming is stopped already: " + parts.Clean(p.Stopped)}
	case stop:
		return parts.Plan{Action: "Stop all claiming", Warning: "Nothing new starts, of any type, until somebody resumes.", Effects: []string{
			fmt.Sprintf("%s will claim nothing more, nor will agents that come later.", agents),
			fmt.Sprintf("Pending: %s jobs are held, not changed.", pending),
			fmt.Sprintf("Running: %s to their end; nothing is cancelled.", parts.Count(p.Running, false)),
		}}
	case p.Stopped == "":
		return parts.Plan{Nothing: "Claiming is not stopped."}
	}
	return parts.Plan{Action: "Resume all claiming", Effects: []string{
		"It was stopped by: " + parts.Clean(p.Stopped) + ".",
		fmt.Sprintf("Pending: %s jobs go on, claimed by %s.", pending, agents),
		"Types and services that are switched off stay so.",
	}}
}
