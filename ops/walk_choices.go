package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
)

// WalkRun is how a schema migration advances that is at work.
type WalkRun struct {
	Actor    string        `json:"actor"`
	Step     string        `json:"step"`
	Position int           `json:"position"` // among Of steps, from 1
	Of       int           `json:"of"`
	Waiting  string        `json:"waiting,omitempty"` // who blocks it
	Done     int64         `json:"done,omitempty"`    // of a long step
	Total    int64         `json:"total,omitempty"`
	Unit     string        `json:"unit,omitempty"`
	Left     time.Duration `json:"left_ns,omitempty"`
}

// Canary is a job that a roll-out may begin with.
type Canary struct {
	Service   string `json:"service_name"`
	Operation string `json:"operation"`
	Input     string `json:"input"` // an example made from the operation's schema
}

// choices fills in what a step's action may be done to.
func (f *walkFacts) choices(step *WalkStep) {
	switch step.Action {
	case ActMigrate:
		if f.run.State == migrations.AtWork {
			p := f.run.Progress
			step.Run = &WalkRun{Actor: f.run.Actor, Step: p.Step, Position: p.Position, Of: p.Of, Waiting: p.Waiting, Done: p.Done, Total: p.Total, Unit: p.Unit, Left: p.Left}
		}
	case ActRollout:
		if r := f.rolloutOf(step.Type); r != nil && r.State == "running" {
			step.Rollout = r
		}
		for _, s := range f.servicesOf(step.Type) {
			for _, op := range s.Operations {
				step.Canaries = append(step.Canaries, Canary{s.Name, op.Name, example(op.InputSchema)})
			}
		}
	case ActFallback:
		for _, l := range f.lanes {
			if l.Fallback {
				step.Back = true
			}
		}
		for _, l := range f.lanes {
			if l.Fallback || !step.Back && l.CanFall {
				step.Services = append(step.Services, l.Service)
			}
		}
		slices.Sort(step.Services)
	case ActRehearse:
		if len(f.rollbacks) > 0 {
			step.Back = f.rollbacks[0].State == "done" || f.rollbacks[0].State == "undoing"
		}
	}
}

// example is an object that a schema of field: word allows; for a JSON Schema,
// its required fields.
func example(schema map[string]any) string {
	out := map[string]any{}
	fields := schema
	if properties, ok := schema["properties"].(map[string]any); ok {
		fields = properties
	}
	for name, kind := range fields {
		if m, ok := kind.(map[string]any); ok {
			kind = m["type"]
		}
		switch kind {
		case "string":
			out[name] = "canary"
		case "integer", "number":
			out[name] = 1
		case "boolean":
			out[name] = false
		case "object":
			out[name] = map[string]any{}
		case "array":
			out[name] = []any{}
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return "{}"
	}
	return string(raw)
}

// PlanMigrationWords says in sentences what the schema migration will do.
func PlanMigrationWords(ctx context.Context, db *pgxpool.Pool) ([]string, error) {
	plan, err := PlanMigration(ctx, db, MigrationOptions{})
	if err != nil {
		return nil, err
	}
	steps, long := 0, 0
	for _, m := range plan.Pending() {
		steps += len(m.Steps)
		for _, s := range m.Steps {
			if s.Work != migrations.Instant {
				long++
			}
		}
	}
	if steps == 0 {
		return []string{"There is nothing to do: the schema is as it should be."}, nil
	}
	return []string{
		fmt.Sprintf("%s with %s run on %s.", plural(len(plan.Pending()), "migration"), plural(steps, "step"), plan.Database),
		fmt.Sprintf("%s may take long on a big table; the application goes on working meanwhile.", plural(long, "step")),
		"It runs by itself: this console may be left and come back to.",
		"No job is lost or changed; migrate-schema --down takes it back.",
	}, nil
}

// PlanRollbackWords says in sentences what a rehearsed rollback will do.
func PlanRollbackWords(ctx context.Context, db *pgxpool.Pool) ([]string, error) {
	p, err := PlanRollback(ctx, db, RollbackOptions{})
	if err != nil {
		return nil, err
	}
	words := []string{fmt.Sprintf("Switched off for every agent: %s.", typeWords(p.SwitchOff)),
		fmt.Sprintf("Held, not changed: %s of %s.", plural(int(p.Waiting()), "waiting job"), plural(len(p.Services), "service"))}
	words = append(words, fmt.Sprintf("Waited for: %s, at most %s.", plural(int(p.Running), "running job"), RehearsalGrace))
	return append(words, "The registry stays as it is. Undo takes it back exactly."), nil
}

// RehearsalGrace is how long a rollback from the console waits for running jobs.
const RehearsalGrace = 10 * time.Second

func typeWords(types []jobs.ExecutionType) string {
	text := ""
	for i, t := range types {
		if i > 0 {
			text += ", "
		}
		text += string(t)
	}
	if text == "" {
		return "nothing, all are off"
	}
	return text
}
