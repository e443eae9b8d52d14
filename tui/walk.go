package tui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/migrate"
)

// migration is what the page Migrate asks and does on a database.
func migration(pool *pgxpool.Pool, by jobs.By) migrate.Source {
	as := func(reason string) jobs.By {
		by := by
		by.Reason = reason
		return by
	}
	return migrate.Source{
		Clock: time.Now,
		Walk: func(ctx context.Context, guard bool) (ops.Walk, error) {
			w, err := ops.GetWalk(ctx, pool, version.Short())
			if err != nil || !guard {
				return w, err
			}
			changed, err := ops.AdvanceRollouts(ctx, pool, as(""))
			if err != nil || len(changed) == 0 {
				return w, err
			}
			return ops.GetWalk(ctx, pool, version.Short())
		},
		Plan: func(ctx context.Context, step ops.WalkStep) ([]string, error) {
			switch {
			case step.Action == ops.ActMigrate:
				return ops.PlanMigrationWords(ctx, pool)
			case step.Action == ops.ActRehearse && !step.Back:
				return ops.PlanRollbackWords(ctx, pool)
			}
			return nil, nil
		},
		Do: func(ctx context.Context, step ops.WalkStep, values []string) (string, error) {
			switch step.Action {
			case ops.ActMigrate:
				return "The migration runs by itself; its advance is shown here.", ops.StartMigration(pool, "", ops.MigrationOptions{})
			case ops.ActRollout:
				return rollOut(ctx, pool, step, values, as)
			case ops.ActFallback:
				change, did := jobs.FallBack, "runs by http now"
				if step.Back {
					change, did = jobs.NoFallback, "runs by its own type again"
				}
				changed, err := ops.SwitchServices(ctx, pool, []string{values[0]}, change, as(values[1]))
				if err == nil && len(changed) == 0 {
					err = fmt.Errorf("%s is not switched: it stands so already, or has no http fallback", values[0])
				}
				return values[0] + " " + did + ".", err
			case ops.ActRehearse:
				return rehearse(ctx, pool, step, as(values[0]))
			}
			return "", errors.New("there is nothing to do")
		},
		Sign: func(ctx context.Context, w ops.Walk, id string, waive bool, name, note string) error {
			return ops.SignStep(ctx, pool, w, id, waive, name, note, by)
		},
		Unsign: func(ctx context.Context, id string) error {
			_, err := ops.UnsignStep(ctx, pool, id, by)
			return err
		},
		Signer: ops.Signer(),
	}
}

func rollOut(ctx context.Context, pool *pgxpool.Pool, step ops.WalkStep, values []string, as func(string) jobs.By) (string, error) {
	if step.Rollout != nil {
		_, err := ops.EndRollout(ctx, pool, step.Type, as(values[0]))
		return "The roll-out is ended; " + string(step.Type) + " stays on.", err
	}
	service, operation, _ := strings.Cut(values[0], ".")
	_, err := ops.StartRollout(ctx, pool, ops.RolloutOptions{Type: step.Type, Service: service, Operation: operation, Input: json.RawMessage(values[1]), By: as(values[2])})
	return "The canary is on its way; the roll-out is watched from here.", err
}

func rehearse(ctx context.Context, pool *pgxpool.Pool, step ops.WalkStep, by jobs.By) (string, error) {
	if step.Back {
		r, err := ops.UndoRollback(ctx, pool, by, nil)
		return fmt.Sprintf("The rollback is undone: %d types on again, %d jobs wait again.", len(r.SwitchedOff), r.Restored), err
	}
	r, err := ops.RollBack(ctx, pool, ops.RollbackOptions{Grace: ops.RehearsalGrace, By: by})
	return fmt.Sprintf("http-only: %d waiting jobs held, %d of %d running ones finished.", r.Held, r.Finished, r.Running), err
}
