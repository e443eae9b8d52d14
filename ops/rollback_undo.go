package ops

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// A job that is not cancelled any more is somebody else's affair by now.
const restoreJobsSQL = `
WITH picked AS MATERIALIZED (
    DELETE FROM jobs.tb_rollback_job WHERE rollback_id = $1 AND job_id IN (
        SELECT job_id FROM jobs.tb_rollback_job WHERE rollback_id = $1 LIMIT $2)
    RETURNING job_id
), restored AS (
    UPDATE jobs.tb_job_run SET status = 'pending', completed_at = NULL, updated_at = now()
     WHERE id = ANY (ARRAY(SELECT job_id FROM picked)) AND status = 'cancelled'
    RETURNING id
)
SELECT (SELECT count(*) FROM picked), (SELECT count(*) FROM restored)`

// UndoRollback takes the newest rollback back: the registry's text from before,
// then the jobs that it cancelled, at their old places, then the types that it
// switched off. It may be run again when it was interrupted. ErrNoRollback says
// that there is none.
func UndoRollback(ctx context.Context, db *pgxpool.Pool, by jobs.By, progress func(RollbackStep)) (r RollbackResult, err error) {
	err = alone(ctx, db, func(conn *pgx.Conn) error {
		x := &rollbackRun{db: db, conn: conn, o: RollbackOptions{By: by, Progress: progress}, result: &r}
		return x.undo(ctx)
	})
	return r, Explain(err)
}

func (x *rollbackRun) undo(ctx context.Context) error {
	last, err := LastRollback(ctx, x.conn)
	if err != nil {
		return err
	}
	if last == nil || last.State == "undone" {
		return ErrNoRollback
	}
	r := x.result
	r.Rollback, r.Resumed = *last, last.State == "undoing"
	if _, err := x.conn.Exec(ctx, `UPDATE jobs.tb_rollback SET state = 'undoing' WHERE id = $1`, r.ID); err != nil {
		return fmt.Errorf("write the undoing down: %w", err)
	}
	if r.Backup != "" {
		x.tell("put the registry back", 0, 0)
		if err := putBack(r.RegistryFile, r.Backup); err != nil {
			return err
		}
		r.Behind = awaitRegistry(ctx, x.conn, r.RegistryBefore)
	}
	for {
		x.tell("let cancelled jobs wait again", r.Restored, r.Cancelled)
		var looked, restored int64
		if err := x.conn.QueryRow(ctx, restoreJobsSQL, r.ID, changePage).Scan(&looked, &restored); err != nil {
			return fmt.Errorf("let cancelled jobs wait again: %w", err)
		}
		if r.Restored += restored; looked == 0 {
			break
		}
	}
	x.tell("switch the types on again", 0, 0)
	by := x.o.By
	reason := by.Reason
	if by.Reason = "rollback undone"; reason != "" {
		by.Reason += ": " + reason
	}
	return pgx.BeginFunc(ctx, x.conn, func(tx pgx.Tx) error {
		if _, err := jobs.SetSwitches(ctx, tx, r.SwitchedOff, true, by); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, endRollbackSQL, r.ID, "undone", r.Held, r.Cancelled, r.Left).Scan(&r.State, &r.EndedAt); err != nil {
			return err
		}
		return jobs.Audit(ctx, tx, x.o.By, "undo-rollback", "http-only",
			map[string]any{"cancelled": r.Cancelled, "registry": r.RegistryAfter},
			map[string]any{"enabled": r.SwitchedOff, "restored": r.Restored, "registry": r.RegistryBefore})
	})
}
