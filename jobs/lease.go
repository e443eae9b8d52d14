package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// AgentInfo is what an agent tells of itself in jobs.tb_agent.
type AgentInfo struct {
	ID            ID // of this incarnation; a lease that ran out is never revived
	Before        ID // the incarnation whose lease ran out; its orders hold for this one. Zero: none
	Name          string
	Host          string
	PID           int
	Version       string
	Environment   string
	Types         []ExecutionType
	Slots         int
	Running       int
	Isolation     string
	Abilities     json.RawMessage   // what its host can run, by type; nil: nothing is told
	Cannot        map[string]string // services that its host cannot run, and why
	RegistryHash  string
	RegistryError string     // why the file on disk is not applied; empty when it is
	State         string     // one of the words below; empty: running
	Wanted        string     // what operators want of it: running, paused or drained; empty: running
	Reloaded      *time.Time // the order to reload that was carried out; nil: none
}

// The states of an agent. A paused one claims nothing and lets its jobs run; a
// drained one has let them end, or handed them back, and waits to be resumed.
const (
	AgentRunning  = "running"
	AgentPaused   = "paused"
	AgentDraining = "draining"
	AgentDrained  = "drained"
	AgentStopped  = "stopped"
)

const registerSQL = `
INSERT INTO jobs.tb_agent (id, name, host, pid, version, environment, execution_types, slots, isolation,
       registry_hash, registry_error, state, wanted, reload_asked_at, lease_expires_at, abilities, cannot)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, coalesce(b.wanted, $13), b.reload_asked_at,
       now() + make_interval(secs => $14), coalesce($15::text, '{}')::jsonb, $16::text::jsonb
  FROM (SELECT) one LEFT JOIN jobs.tb_agent b ON b.id = $17
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), lease_expires_at = excluded.lease_expires_at
 WHERE tb_agent.lease_expires_at > clock_timestamp()`

// Register enters the agent; its lease runs from now for the time given. What
// operators wanted of the incarnation before is wanted of this one, also where that
// one did not come to obey: the heartbeat tells. It may be repeated where its
// answer was lost; ErrLeaseLost says that it had been carried out, and that the
// lease has run out since.
func Register(ctx context.Context, conn *pgx.Conn, a AgentInfo, lease time.Duration) error {
	types := make([]string, len(a.Types))
	for i, t := range a.Types {
		types[i] = string(t)
	}
	tag, err := conn.Exec(ctx, registerSQL, a.ID, a.Name, a.Host, a.PID, a.Version, a.Environment, types, a.Slots,
		a.Isolation, a.RegistryHash, a.RegistryError, cmp.Or(a.State, AgentRunning), cmp.Or(a.Wanted, AgentRunning), lease.Seconds(),
		nullable(a.Abilities), reasons(a.Cannot), a.Before)
	if err != nil {
		return fmt.Errorf("register agent %s: %w", a.Name, err)
	}
	if tag.RowsAffected() == 0 {
		return ErrLeaseLost
	}
	return nil
}

// nullable is JSON as a text parameter.
func nullable(raw json.RawMessage) *string {
	if raw == nil {
		return nil
	}
	s := string(raw)
	return &s
}

// reasons are why services cannot be run, as the table keeps them.
func reasons(cannot map[string]string) string {
	if len(cannot) == 0 {
		return "{}"
	}
	raw, _ := json.Marshal(cannot) // strings: it cannot fail
	return string(raw)
}

// TellCannot writes which services the agent's host cannot run under its
// present registry, and why. Lanes that no live agent can run are held with
// that reason.
func TellCannot(ctx context.Context, conn *pgx.Conn, agent ID, cannot map[string]string) error {
	_, err := conn.Exec(ctx, `UPDATE jobs.tb_agent SET cannot = $2::text::jsonb WHERE id = $1 AND cannot <> $2::text::jsonb`,
		agent, reasons(cannot))
	return err
}

// TellVariables writes which environment variables the agent's services name,
// and whether each is set where it runs; never a value.
func TellVariables(ctx context.Context, conn *pgx.Conn, agent ID, set map[string]bool) error {
	raw, err := json.Marshal(set)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `UPDATE jobs.tb_agent SET variables = $2::text::jsonb WHERE id = $1 AND variables <> $2::text::jsonb`, agent, string(raw))
	return err
}

// One lease covers all jobs of an agent, so that renewing costs one row
// however many run. The row is not revived once it has run out, by the clock at
// that moment and not at the statement's arrival: others may have taken its jobs
// meanwhile. What is due for all agents is answered along with it.
const renewSQL = `
UPDATE jobs.tb_agent
   SET heartbeat_at = now(), lease_expires_at = now() + make_interval(secs => $2),
       running = $3, registry_hash = $4, registry_error = $5, state = $6,
       reload_asked_at = CASE WHEN reload_asked_at <= $7 THEN NULL ELSE reload_asked_at END
 WHERE id = $1 AND lease_expires_at > clock_timestamp()
RETURNING wanted, reload_asked_at,
       (SELECT extract(epoch FROM min(retry_at) - now())::float8 FROM jobs.tb_job_run
         WHERE status = 'failed' AND retry_at IS NOT NULL),
       (SELECT extract(epoch FROM min(lease_expires_at) - now())::float8 FROM jobs.tb_agent WHERE NOT reaped AND id <> $1)`

// Pulse is what a heartbeat found.
type Pulse struct {
	Wanted    string     // what operators want of the agent: running, paused or drained
	ReloadAt  *time.Time // when a reload was asked for that is not carried out yet
	NextRetry Due        // of the next retry
	NextLapse Due        // of another agent's lease
}

// Due is a time from now on the database's clock. The zero value is never.
type Due struct {
	In    time.Duration // not positive: it is due
	Known bool
}

func due(seconds *float64) Due {
	if seconds == nil {
		return Due{}
	}
	return Due{In: time.Duration(*seconds * float64(time.Second)), Known: true}
}

// Heartbeat renews the agent's lease. ErrLeaseLost says that it must register
// anew, under a new ID.
func Heartbeat(ctx context.Context, conn *pgx.Conn, a AgentInfo, lease time.Duration) (Pulse, error) {
	var p Pulse
	var retry, lapse *float64
	err := conn.QueryRow(ctx, renewSQL, a.ID, lease.Seconds(), a.Running, a.RegistryHash, a.RegistryError, a.State, a.Reloaded).
		Scan(&p.Wanted, &p.ReloadAt, &retry, &lapse)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return p, ErrLeaseLost
	case err != nil:
		return p, fmt.Errorf("heartbeat of agent %s: %w", a.Name, err)
	}
	p.NextRetry, p.NextLapse = due(retry), due(lapse)
	return p, nil
}

// Leave ends the agent's lease at once; whatever it still held is taken over
// by the next heartbeat of any agent. One whose lease ran out before stays lost.
func Leave(ctx context.Context, conn *pgx.Conn, agent ID) error {
	_, err := conn.Exec(ctx, `UPDATE jobs.tb_agent
		SET state = 'stopped', running = 0, heartbeat_at = now(), lease_expires_at = now()
		WHERE id = $1 AND lease_expires_at > now()`, agent)
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("leave: %w", err)
	}
	return err
}

// HandBackUnknown puts jobs back to pending that the table says the agent
// runs and that are not among those it knows: claims whose answer was lost
// with their connection. No exchange of the agent may be under way. What an
// agent without a lease had is left to those who take it over.
func HandBackUnknown(ctx context.Context, conn *pgx.Conn, agent ID, known []ID) (int, error) {
	var n int
	err := conn.QueryRow(ctx, `WITH back AS (
		UPDATE jobs.tb_job_run
		   SET status = 'pending', attempts = attempts - 1, started_at = NULL, updated_at = now()
		 WHERE status = 'running' AND agent_id = $1 AND NOT id = ANY ($2)
		   AND EXISTS (SELECT FROM jobs.tb_agent WHERE id = $1 AND lease_expires_at > now())
		RETURNING id, service_name
	), released AS (
		DELETE FROM jobs.tb_lane_reserved r USING back
		 WHERE r.service_name = back.service_name AND r.job_id = back.id AND r.agent_id = $1)
	SELECT count(*) FROM back`, agent, known).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("hand back unknown claims: %w", err)
	}
	return n, nil
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
