package ops

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// rollbackLock is the advisory lock of whoever rolls back ("sqlrbk"). It goes
// with its session: whoever is killed in the middle keeps nobody out.
const rollbackLock = 0x73716c72626b

// RollbackResult is what a rollback did.
type RollbackResult struct {
	Rollback
	Waiting  int64    `json:"waiting"`            // jobs that waited when the types were off: held or cancelled
	Running  int64    `json:"running"`            // that ran then
	Finished int64    `json:"finished"`           // of those, that ended within the grace
	Stopped  int64    `json:"stopped"`            // that were cancelled after it
	Behind   []string `json:"behind,omitempty"`   // agents that do not run the restored registry, and why
	Already  bool     `json:"already,omitempty"`  // everything stood so; nothing was done
	Resumed  bool     `json:"resumed,omitempty"`  // an interrupted one was brought to its end
	Restored int64    `json:"restored,omitempty"` // of an undoing: cancelled jobs that wait again
}

// alone runs f with the lock of whoever rolls back, on a connection of its own.
func alone(ctx context.Context, db *pgxpool.Pool, f func(conn *pgx.Conn) error) error {
	pooled, err := db.Acquire(ctx)
	if err != nil {
		return err
	}
	conn := pooled.Hijack()
	defer conn.Close(context.WithoutCancel(ctx))
	// A session that has just ended may hold it for a moment longer.
	if _, err := conn.Exec(ctx, `SET lock_timeout = '1s'`); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(rollbackLock))
	if err != nil && !jobs.Locked(err) {
		return err
	}
	busy := err != nil
	if _, err := conn.Exec(ctx, `RESET lock_timeout`); err != nil {
		return err
	}
	if busy {
		last, err := LastRollback(ctx, conn)
		if err != nil {
			return err
		}
		if last == nil {
			last = &Rollback{Actor: "somebody", BeganAt: time.Now()}
		}
		return &RollbackBusyError{*last}
	}
	return f(conn)
}

// RollBack goes back to http-only: it switches shell, docker and serverless
// off, deals with what waits, waits for what runs and restores the registry. It
// may be run again at any time: an interrupted one is brought to its end with
// its own options, and one that is done is left alone. A *RollbackBusyError
// tells who else is at it. What it did can be undone by UndoRollback.
func RollBack(ctx context.Context, db *pgxpool.Pool, o RollbackOptions) (r RollbackResult, err error) {
	err = alone(ctx, db, func(conn *pgx.Conn) error {
		r, err = rollBack(ctx, db, conn, o)
		return err
	})
	return r, Explain(err)
}

func rollBack(ctx context.Context, db *pgxpool.Pool, conn *pgx.Conn, o RollbackOptions) (r RollbackResult, err error) {
	last, err := LastRollback(ctx, conn)
	if err != nil {
		return r, err
	}
	if last != nil && last.State == "undoing" {
		return r, fmt.Errorf("the undoing of the last rollback was interrupted: run rollback --undo first")
	}
	resumed := last != nil && last.State == "running"
	if resumed {
		by := o.By
		by.Reason = last.Reason
		o = RollbackOptions{Cancel: last.Cancel, Grace: time.Duration(last.GraceSeconds * float64(time.Second)),
			StopRunning: last.StopRunning, By: by, Progress: o.Progress, RegistryFile: last.RegistryFile}
		if last.RegistryAfter != "" {
			o.Registry = last.RegistryAfter
		}
	}
	plan, err := planRollback(ctx, conn, RollbackOptions{})
	if err != nil {
		return r, err
	}
	var restore *RegistryRestore
	if o.Registry != "" {
		if restore, err = planRestore(ctx, conn, o.Registry, o.RegistryFile); err != nil {
			return r, err
		}
	}
	nothing := len(plan.SwitchOff) == 0 && (restore == nil || restore.Already) && plan.Running == 0 && (!o.Cancel || plan.Waiting() == 0)
	if !resumed && nothing {
		if last != nil {
			r.Rollback = *last
		}
		r.Already, r.Waiting = true, plan.Waiting()
		return r, nil
	}
	run := &rollbackRun{db: db, conn: conn, o: o, restore: restore, result: &r}
	r.Resumed = resumed
	// While http-only stands, what is done more belongs to the rollback that
	// brought it about: one undoing takes all of it back.
	run.goesOn = last != nil && last.State == "done" && len(plan.SwitchOff) == 0
	if resumed || run.goesOn {
		r.Rollback = *last
	}
	return r, run.all(ctx, plan)
}

type rollbackRun struct {
	db      *pgxpool.Pool
	conn    *pgx.Conn
	o       RollbackOptions
	restore *RegistryRestore
	result  *RollbackResult
	goesOn  bool // with one that is done, and stands
}

func (x *rollbackRun) tell(step string, done, of int64) {
	if x.o.Progress != nil {
		x.o.Progress(RollbackStep{step, done, of})
	}
}

func (x *rollbackRun) all(ctx context.Context, plan RollbackPlan) error {
	if err := x.switchOff(ctx, plan); err != nil {
		return err
	}
	// Nobody claims any more: from here on the numbers can only be what they are.
	if err := plan.count(ctx, x.conn); err != nil {
		return err
	}
	x.result.Waiting, x.result.Running = plan.Waiting(), plan.Running
	if err := x.waiting(ctx, plan.Waiting()); err != nil {
		return err
	}
	if err := x.running(ctx); err != nil {
		return err
	}
	if x.restore != nil {
		x.tell("restore the registry", 0, 0)
		if err := x.restore.write(ctx, x.conn, &x.result.Rollback); err != nil {
			return err
		}
		x.result.Behind = awaitRegistry(ctx, x.conn, x.restore.To)
	}
	return x.finish(ctx)
}

const beginRollbackSQL = `
INSERT INTO jobs.tb_rollback (state, actor, origin, reason, types, pending_mode, grace_seconds, stop_running, switched_off,
       registry_before, registry_after, registry_file)
VALUES ('running', $1, $2, $3, $4, CASE WHEN $5 THEN 'cancel' ELSE 'hold' END, $6, $7, $8, $9, $10, $11)
RETURNING ` + rollbackColumns

const goOnRollbackSQL = `
UPDATE jobs.tb_rollback SET state = 'running', pending_mode = CASE WHEN $2 THEN 'cancel' ELSE 'hold' END, grace_seconds = $3,
       stop_running = $4, registry_before = coalesce(nullif(registry_before, ''), $5), registry_after = coalesce(nullif($6, ''), registry_after),
       registry_file = coalesce(nullif($7, ''), registry_file)
 WHERE id = $1
RETURNING ` + rollbackColumns

// switchOff is one transaction: either the types are off and it is written down
// what was on before, or nothing has happened.
func (x *rollbackRun) switchOff(ctx context.Context, plan RollbackPlan) error {
	x.tell("switch shell, docker and serverless off", 0, 0)
	r := &x.result.Rollback
	return pgx.BeginFunc(ctx, x.conn, func(tx pgx.Tx) error {
		if _, err := jobs.SetSwitches(ctx, tx, rolledBack(), false, x.by()); err != nil {
			return err
		}
		if x.result.Resumed {
			return nil
		}
		var before, after, file string
		if x.restore != nil {
			before, after, file = x.restore.From, x.restore.To, x.restore.File
		}
		sql, args := beginRollbackSQL, []any{x.o.By.Actor, x.o.By.Origin, x.o.By.Reason, rolledBack(), x.o.Cancel, x.o.Grace.Seconds(),
			x.o.StopRunning, append([]jobs.ExecutionType{}, plan.SwitchOff...), before, after, file}
		if x.goesOn {
			sql, args = goOnRollbackSQL, []any{r.ID, x.o.Cancel, x.o.Grace.Seconds(), x.o.StopRunning, before, after, file}
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if *r, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Rollback]); err != nil {
			return fmt.Errorf("write the rollback down: %w", err)
		}
		return jobs.Audit(ctx, tx, x.o.By, "rollback", "http-only",
			map[string]any{"enabled": append([]jobs.ExecutionType{jobs.HTTP}, plan.SwitchOff...), "registry": before},
			map[string]any{"pending": plan.Pending, "retrying": plan.Retrying, "running": plan.Running, "cancel": x.o.Cancel, "registry": after})
	})
}

func (x *rollbackRun) by() jobs.By {
	by := x.o.By
	by.Reason = "rollback to http-only"
	if x.o.By.Reason != "" {
		by.Reason += ": " + x.o.By.Reason
	}
	return by
}

// What came after the rollback's beginning is not the rollback's: it is held
// like all that comes later. What was cancelled is written down in the same
// statement.
const cancelWaitingSQL = `
WITH picked AS MATERIALIZED (
    SELECT r.id FROM jobs.tb_job_run r LEFT JOIN jobs.tb_lane l USING (service_name)
     WHERE (r.status = 'pending' OR r.status = 'failed' AND r.retry_at IS NOT NULL)
       AND coalesce(l.runs_as, l.execution_type, r.execution_type) = ANY ($2)
       AND coalesce(r.created_at, '-infinity') <= $3
     LIMIT $4 FOR UPDATE OF r SKIP LOCKED
), cancelled AS (
    UPDATE jobs.tb_job_run r
       SET status = 'cancelled', retry_at = NULL, updated_at = now(),
           completed_at = CASE WHEN r.status = 'failed' THEN coalesce(r.completed_at, now()) ELSE now() END
     WHERE r.id = ANY (ARRAY(SELECT id FROM picked))
    RETURNING r.id
)
INSERT INTO jobs.tb_rollback_job (rollback_id, job_id) SELECT $1, id FROM cancelled ON CONFLICT DO NOTHING`

// waiting holds or cancels what waits.
func (x *rollbackRun) waiting(ctx context.Context, count int64) error {
	r := &x.result.Rollback
	if !x.o.Cancel {
		r.Held = count
		return nil
	}
	for {
		x.tell("cancel waiting jobs", r.Cancelled, count)
		tag, err := x.conn.Exec(ctx, cancelWaitingSQL, r.ID, rolledBack(), r.BeganAt, changePage)
		if err != nil {
			return fmt.Errorf("cancel waiting jobs: %w", err)
		}
		if tag.RowsAffected() == 0 {
			break
		}
		r.Cancelled += tag.RowsAffected()
	}
	// An earlier, interrupted run has cancelled some too.
	return x.conn.QueryRow(ctx, `SELECT count(*) FROM jobs.tb_rollback_job WHERE rollback_id = $1`, r.ID).Scan(&r.Cancelled)
}

const runningOfSQL = `SELECT count(*) FROM jobs.tb_job_run WHERE status = 'running' AND execution_type = ANY ($1)`

// running waits for what runs, and cancels the rest where that is wanted.
func (x *rollbackRun) running(ctx context.Context) error {
	count := func() (n int64, err error) {
		err = x.conn.QueryRow(ctx, runningOfSQL, rolledBack()).Scan(&n)
		return n, err
	}
	first := x.result.Running
	until := time.Now().Add(x.o.Grace)
	left, err := count()
	for err == nil && left > 0 && time.Now().Before(until) && ctx.Err() == nil {
		x.tell("wait for running jobs", first-left, first)
		pause(ctx, askEvery)
		left, err = count()
	}
	if err != nil || ctx.Err() != nil {
		return fmt.Errorf("wait for running jobs: %w", orCause(ctx, err))
	}
	x.result.Finished = max(first-left, 0)
	if left > 0 && x.o.StopRunning {
		x.tell("stop running jobs", 0, left)
		done, err := CancelRunning(ctx, x.db, rolledBack(), x.by())
		if err != nil {
			return err
		}
		x.result.Stopped = done.Changed
		if left, err = count(); err != nil {
			return err
		}
	}
	x.result.Left = left
	return nil
}

func orCause(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	return context.Cause(ctx)
}

const endRollbackSQL = `
UPDATE jobs.tb_rollback SET state = $2, ended_at = now(), jobs_held = $3, jobs_cancelled = $4, jobs_left = $5
 WHERE id = $1 RETURNING state, ended_at`

func (x *rollbackRun) finish(ctx context.Context) error {
	r := x.result
	return pgx.BeginFunc(ctx, x.conn, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, endRollbackSQL, r.ID, "done", r.Held, r.Cancelled, r.Left).Scan(&r.State, &r.EndedAt)
		if err != nil {
			return fmt.Errorf("write the rollback's end down: %w", err)
		}
		return jobs.Audit(ctx, tx, x.o.By, "rollback-done", "http-only", nil, map[string]any{"held": r.Held, "cancelled": r.Cancelled,
			"finished": r.Finished, "stopped": r.Stopped, "left_running": r.Left, "registry": r.RegistryAfter})
	})
}
