package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Jobs whose agent is gone: back to pending while attempts are left, else to
// the dead letters. Rows without an agent belong to an application's own
// worker and are left alone.
// The agent's row is locked too: a heartbeat that was in time is committed a
// moment later, and must not find its jobs given away meanwhile.
const takeOverSQL = `
WITH orphan AS (
    SELECT r.id, r.attempts, r.agent_id, r.started_at, a.name
      FROM jobs.tb_job_run r
      JOIN jobs.tb_agent a ON a.id = r.agent_id
     WHERE r.status = 'running' AND NOT a.reaped AND a.lease_expires_at <= now()
     LIMIT 1000
       FOR UPDATE OF r, a SKIP LOCKED
), taken AS (
    UPDATE jobs.tb_job_run r
       SET status = CASE WHEN r.attempts < r.max_attempts THEN 'pending' ELSE 'failed' END,
           error_message = format('agent %s lost its lease during attempt %s', o.name, o.attempts),
           requeued_at = CASE WHEN r.attempts < r.max_attempts THEN now() ELSE r.requeued_at END,
           updated_at = now()
      FROM orphan o WHERE r.id = o.id
    RETURNING r.id, r.attempts, r.agent_id, r.started_at, r.error_message
)
INSERT INTO jobs.tb_job_attempt (job_id, attempt, agent_id, started_at, error_message)
SELECT id, attempts, agent_id, started_at, error_message FROM taken`

// A claim may be committed a moment after its agent was given up, so an agent
// is looked after for a while longer.
const reapedSQL = `
UPDATE jobs.tb_agent SET reaped = true
 WHERE NOT reaped AND lease_expires_at < now() - interval '5 minutes'`

// TakeOver puts the jobs of agents whose lease has run out back to pending, or
// to the dead letters when their attempts are spent. Any number of agents may
// do so at once; each job is taken over once.
func TakeOver(ctx context.Context, conn *pgx.Conn) (int, error) {
	total := 0
	for {
		tag, err := conn.Exec(ctx, takeOverSQL)
		if err != nil {
			return total, fmt.Errorf("take over the jobs of lost agents: %w", err)
		}
		total += int(tag.RowsAffected())
		if tag.RowsAffected() < 1000 {
			break
		}
	}
	if _, err := conn.Exec(ctx, reapedSQL); err != nil {
		return total, fmt.Errorf("take over the jobs of lost agents: %w", err)
	}
	return total, nil
}

// A retry that is due waits again, behind the jobs that wait already.
const promoteSQL = `
UPDATE jobs.tb_job_run SET status = 'pending', retry_at = NULL, requeued_at = now(), updated_at = now()
 WHERE id IN (SELECT id FROM jobs.tb_job_run
               WHERE status = 'failed' AND retry_at <= now()
               ORDER BY retry_at LIMIT 1000 FOR UPDATE SKIP LOCKED)`

const nextRetrySQL = `
SELECT extract(epoch FROM min(retry_at) - now())::float8 FROM jobs.tb_job_run WHERE status = 'failed' AND retry_at IS NOT NULL`

// Promote puts retries that are due back to pending, at most a thousand, and
// tells when the next one is due.
func Promote(ctx context.Context, conn *pgx.Conn) (promoted int, next Due, err error) {
	batch := &pgx.Batch{}
	batch.Queue(promoteSQL).Exec(func(tag pgconn.CommandTag) error { promoted = int(tag.RowsAffected()); return nil })
	batch.Queue(nextRetrySQL).QueryRow(func(row pgx.Row) error {
		var seconds *float64
		err := row.Scan(&seconds)
		next = due(seconds)
		return err
	})
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return 0, Due{}, fmt.Errorf("promote retries: %w", err)
	}
	return promoted, next, nil
}
