package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The switches stay as they are, so that lifting the stop restores them.
const stopSQL = `
UPDATE jobs.tb_execution_type SET stopped_at = now(), stopped_by = $1, stop_reason = $2 WHERE stopped_at IS NULL
RETURNING execution_type, enabled, reason, changed_by, changed_at, stopped_at, stopped_by, stop_reason`

const liftSQL = `
UPDATE jobs.tb_execution_type SET stopped_at = NULL, stopped_by = '', stop_reason = '' WHERE stopped_at IS NOT NULL
RETURNING execution_type, enabled, reason, changed_by, changed_at, stopped_at, stopped_by, stop_reason`

// Stop ends all claiming of every agent, also of those that start later, until
// Lift. Running jobs go on. It returns the types that were not stopped already.
func Stop(ctx context.Context, db Beginner, by By) ([]Switch, error) {
	return stop(ctx, db, by, "emergency-stop", stopSQL, by.Actor, by.Reason)
}

// Lift ends the emergency stop: what was enabled before is claimed again.
func Lift(ctx context.Context, db Beginner, by By) ([]Switch, error) {
	return stop(ctx, db, by, "resume", liftSQL)
}

func stop(ctx context.Context, db Beginner, by By, action, sql string, args ...any) (changed []Switch, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if changed, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Switch]); err != nil || len(changed) == 0 {
			return err
		}
		stopped := action == "emergency-stop"
		return Audit(ctx, tx, by, action, "all types", map[string]bool{"stopped": !stopped}, map[string]bool{"stopped": stopped})
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	return changed, nil
}
