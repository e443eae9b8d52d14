package jobs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AgentInfo is what an agent tells of itself in jobs.tb_agent.
type AgentInfo struct {
	ID            ID // of this incarnation; a lease that ran out is never revived
	Name          string
	Host          string
	PID           int
	Version       string
	Environment   string
	Types         []ExecutionType
	Slots         int
	Running       int
	Isolation     string
	RegistryHash  string
	RegistryError string // why the file on disk is not applied; empty when it is
	State         string // running, draining or stopped
}

// NewID returns a time-ordered uuid (version 7), which keeps indexes dense.
func NewID() ID {
	var id ID
	rand.Read(id[:])
	ms := time.Now().UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

const registerSQL = `
INSERT INTO jobs.tb_agent (id, name, host, pid, version, environment, execution_types, slots, isolation,
       registry_hash, registry_error, state, lease_expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'running', now() + make_interval(secs => $12))`

// Register enters the agent; its lease runs from now for the time given.
func Register(ctx context.Context, conn *pgx.Conn, a AgentInfo, lease time.Duration) error {
	types := make([]string, len(a.Types))
	for i, t := range a.Types {
		types[i] = string(t)
	}
	_, err := conn.Exec(ctx, registerSQL, a.ID, a.Name, a.Host, a.PID, a.Version, a.Environment, types, a.Slots,
		a.Isolation, a.RegistryHash, a.RegistryError, lease.Seconds())
	if err != nil {
		return fmt.Errorf("register agent %s: %w", a.Name, err)
	}
	return nil
}

// One lease covers all jobs of an agent, so that renewing costs one row
// however many run. The row is not revived once it has run out: others may
// have taken its jobs.
const renewSQL = `
UPDATE jobs.tb_agent
   SET heartbeat_at = now(), lease_expires_at = now() + make_interval(secs => $2),
       running = $3, registry_hash = $4, registry_error = $5, state = $6
 WHERE id = $1 AND lease_expires_at > now()`

// Jobs whose agent is gone: back to pending while attempts are left, else to
// the dead letters. Rows without an agent belong to an application's own
// worker and are left alone. Looked for every time, not only when an agent
// dies: a claim may have been committed just after its agent was given up.
const reapSQL = `
WITH orphan AS (
    SELECT r.id, r.attempts, r.agent_id, r.started_at, a.name
      FROM jobs.tb_job_run r
      JOIN jobs.tb_agent a ON a.id = r.agent_id
     WHERE r.status = 'running' AND a.lease_expires_at <= now()
     LIMIT 1000
       FOR UPDATE OF r SKIP LOCKED
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

// A retry that is due waits again, behind the jobs that wait already.
const promoteSQL = `
UPDATE jobs.tb_job_run SET status = 'pending', retry_at = NULL, requeued_at = now(), updated_at = now()
 WHERE id IN (SELECT id FROM jobs.tb_job_run
               WHERE status = 'failed' AND retry_at <= now()
               ORDER BY retry_at LIMIT 1000 FOR UPDATE SKIP LOCKED)`

const nextRetrySQL = `
SELECT coalesce(extract(epoch FROM min(retry_at) - now()), -1)::float8
  FROM jobs.tb_job_run WHERE status = 'failed' AND retry_at IS NOT NULL`

// Pulse is what a heartbeat found.
type Pulse struct {
	TakenOver int           // jobs whose agent was gone
	Promoted  int           // retries that were due
	NextRetry time.Duration // until the next retry is due; negative: none waits
}

// Heartbeat renews the agent's lease and does what any agent does for all, in
// one round trip: it takes over the jobs of agents whose lease has run out
// and puts due retries back to pending. ErrLeaseLost says that the agent must
// register anew, under a new ID.
func Heartbeat(ctx context.Context, conn *pgx.Conn, a AgentInfo, lease time.Duration) (Pulse, error) {
	p := Pulse{NextRetry: -1}
	renewed := false
	batch := &pgx.Batch{}
	batch.Queue(renewSQL, a.ID, lease.Seconds(), a.Running, a.RegistryHash, a.RegistryError, a.State).
		Exec(func(t pgconn.CommandTag) error { renewed = t.RowsAffected() == 1; return nil })
	batch.Queue(reapSQL).Exec(func(t pgconn.CommandTag) error { p.TakenOver = int(t.RowsAffected()); return nil })
	batch.Queue(promoteSQL).Exec(func(t pgconn.CommandTag) error { p.Promoted = int(t.RowsAffected()); return nil })
	batch.Queue(nextRetrySQL).QueryRow(func(row pgx.Row) error {
		var seconds float64
		if err := row.Scan(&seconds); err != nil {
			return err
		}
		if seconds >= 0 {
			p.NextRetry = time.Duration(seconds * float64(time.Second))
		} else if seconds != -1 { // overdue: more than one batch was waiting
			p.NextRetry = 0
		}
		return nil
	})
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return Pulse{NextRetry: -1}, fmt.Errorf("heartbeat of agent %s: %w", a.Name, err)
	}
	if !renewed {
		return p, ErrLeaseLost
	}
	return p, nil
}

// Leave ends the agent's lease at once; whatever it still held is taken over
// by the next heartbeat of any agent.
func Leave(ctx context.Context, conn *pgx.Conn, agent ID) error {
	_, err := conn.Exec(ctx, `UPDATE jobs.tb_agent
		SET state = 'stopped', running = 0, heartbeat_at = now(), lease_expires_at = now() WHERE id = $1`, agent)
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("leave: %w", err)
	}
	return err
}

// HandBackUnknown puts jobs back to pending that the table says the agent
// runs and that are not among those it knows: claims whose answer was lost
// with their connection. No exchange of the agent may be under way.
func HandBackUnknown(ctx context.Context, conn *pgx.Conn, agent ID, known []ID) (int, error) {
	tag, err := conn.Exec(ctx, `UPDATE jobs.tb_job_run
		SET status = 'pending', attempts = attempts - 1, started_at = NULL, updated_at = now()
		WHERE status = 'running' AND agent_id = $1 AND NOT id = ANY ($2)`, agent, known)
	if err != nil {
		return 0, fmt.Errorf("hand back unknown claims: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

// CancelledAmong returns those of the running jobs that were cancelled: the net
// below the notifications, for those that came while nobody listened.
func CancelledAmong(ctx context.Context, conn *pgx.Conn, running []ID) ([]ID, error) {
	rows, err := conn.Query(ctx, `SELECT id FROM jobs.tb_job_run WHERE id = ANY ($1) AND status = 'cancelled'`, running)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[ID])
}
