package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// goneFor is how long an agent or a lane must be gone to be forgotten.
const goneFor = 7 * 24 * time.Hour

// A running job names the agent that others take it over from.
const forgetAgentsSQL = `
DELETE FROM jobs.tb_agent WHERE id = ANY (ARRAY(
    SELECT a.id FROM jobs.tb_agent a
     WHERE a.lease_expires_at < now() - make_interval(secs => $1)
       AND NOT EXISTS (SELECT FROM jobs.tb_job_run r WHERE r.status = 'running' AND r.agent_id = a.id)
     LIMIT 1000 FOR UPDATE SKIP LOCKED))`

// updated_at is when a lane was last in a live agent's registry, within a day.
const seeLanesSQL = `
UPDATE jobs.tb_lane SET updated_at = now() WHERE service_name = ANY (ARRAY(
    SELECT l.service_name FROM jobs.tb_lane l
     WHERE l.updated_at < now() - interval '1 day'
       AND EXISTS (SELECT FROM jobs.tb_agent a WHERE a.registry_hash = l.registry_hash AND a.lease_expires_at > now())
     ORDER BY l.service_name FOR UPDATE SKIP LOCKED))`

const forgetLanesSQL = `
DELETE FROM jobs.tb_lane WHERE service_name = ANY (ARRAY(
    SELECT l.service_name FROM jobs.tb_lane l
     WHERE l.updated_at < now() - make_interval(secs => $1) AND l.enabled AND l.runs_as IS NULL
       AND NOT EXISTS (SELECT FROM jobs.tb_agent a WHERE a.registry_hash = l.registry_hash AND a.lease_expires_at > now())
     ORDER BY l.service_name FOR UPDATE SKIP LOCKED))`

// What an idle service spent counts for nobody after its window.
const forgetSpentSQL = `
DELETE FROM jobs.tb_lane_spent
 WHERE slice < floor((extract(epoch FROM now()) - 7200) / CASE gate WHEN 'minute' THEN 0.6 ELSE 36 END)::bigint`

const forgetCostsSQL = `
DELETE FROM jobs.tb_lane_cost WHERE slice < floor((extract(epoch FROM now()) - 7200) / 36)::bigint`

// An attempt may last longer than an hour; its agent lives then.
const forgetReservedSQL = `
DELETE FROM jobs.tb_lane_reserved r
 WHERE reserved_at < now() - interval '2 hours'
   AND NOT EXISTS (SELECT FROM jobs.tb_agent a WHERE a.id = r.agent_id AND a.lease_expires_at > now())`

// Forgotten counts what Forget removed.
type Forgotten struct{ Agents, Lanes, Slices int }

// Forget removes agents that are gone for a week, unless a running job names
// them, the lanes that no live agent's registry has for as long, and what
// lanes spent over two hours ago.
func Forget(ctx context.Context, conn *pgx.Conn) (Forgotten, error) {
	var f Forgotten
	for _, step := range []struct {
		sql  string
		args []any
		n    *int
	}{
		{forgetAgentsSQL, []any{goneFor.Seconds()}, &f.Agents},
		{seeLanesSQL, nil, new(int)},
		{forgetLanesSQL, []any{goneFor.Seconds()}, &f.Lanes},
		{forgetSpentSQL, nil, &f.Slices},
		{forgetCostsSQL, nil, new(int)},
		{forgetReservedSQL, nil, new(int)},
	} {
		tag, err := conn.Exec(ctx, step.sql, step.args...)
		if err != nil {
			return f, fmt.Errorf("forget what is gone: %w", err)
		}
		*step.n = int(tag.RowsAffected())
	}
	return f, nil
}

const lanesStandSQL = `
SELECT NOT EXISTS (
    SELECT FROM unnest($1::text[]) AS s(service) LEFT JOIN jobs.tb_lane l ON l.service_name = s.service
     WHERE l.service_name IS NULL
        OR l.registry_hash <> ALL (ARRAY(SELECT DISTINCT registry_hash FROM jobs.tb_agent WHERE lease_expires_at > now())))`

// LanesStand tells whether all the services' lanes are there, each as the
// registry of some live agent has it. When the agent that wrote them last is
// gone, another one has to.
func LanesStand(ctx context.Context, conn *pgx.Conn, services []string) (bool, error) {
	var stand bool
	err := conn.QueryRow(ctx, lanesStandSQL, services).Scan(&stand)
	if err != nil {
		return false, fmt.Errorf("look at the lanes: %w", err)
	}
	return stand, nil
}
