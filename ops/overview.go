package ops

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

const whoSQL = `
SELECT current_database(), current_user, now(),
       pg_is_in_recovery() OR current_setting('transaction_read_only')::bool`

// The operators' role has UPDATE on the columns of a switch alone.
const privilegeSQL = `
SELECT has_any_column_privilege('jobs.tb_execution_type', 'UPDATE'), has_table_privilege('jobs.tb_audit', 'INSERT')`

const agentsAliveSQL = `
SELECT count(*), coalesce(sum(running), 0),
       coalesce(array_agg(DISTINCT registry_hash) FILTER (WHERE registry_hash <> ''), '{}'),
       coalesce(array_agg(DISTINCT environment) FILTER (WHERE environment <> ''), '{}')
  FROM jobs.tb_agent WHERE lease_expires_at > now() AND state <> 'stopped'`

// GetOverview reads the console's top line. On a database that is not migrated
// it tells so and leaves out what only the migrated schema knows.
func GetOverview(ctx context.Context, db *pgxpool.Pool) (Overview, error) {
	o, err := getOverview(ctx, db)
	return o, explainFor(describe(db.Config().ConnConfig), err)
}

func getOverview(ctx context.Context, pool *pgxpool.Pool) (Overview, error) {
	o := Overview{Server: address(pool.Config().ConnConfig)}
	db, err := pool.Begin(ctx) // one moment, and one question of many
	if err != nil {
		return o, err
	}
	defer db.Rollback(context.WithoutCancel(ctx))
	var standby bool
	if err := db.QueryRow(ctx, whoSQL).Scan(&o.Database, &o.Role, &o.At, &standby); err != nil {
		return o, err
	}
	if _, o.Migrated, err = schemaState(ctx, db); err != nil {
		return o, err
	}
	if !o.Migrated {
		o.ReadOnly, o.ReadOnlyReason = true, "the schema is not migrated: run specql-tui migrate-schema"
		return o, nil
	}
	var update, audit bool
	if err := db.QueryRow(ctx, privilegeSQL).Scan(&update, &audit); err != nil {
		return o, err
	}
	switch {
	case standby:
		o.ReadOnly, o.ReadOnlyReason = true, "the server or the session is read-only"
	case !update:
		o.ReadOnly, o.ReadOnlyReason = true, o.Role+" lacks UPDATE on jobs.tb_execution_type"
	case !audit:
		o.ReadOnly, o.ReadOnlyReason = true, o.Role+" lacks INSERT on jobs.tb_audit"
	}
	err = db.QueryRow(ctx, agentsAliveSQL).Scan(&o.AgentsAlive, &o.AgentsRunning, &o.RegistryHashes, &o.Environments)
	if err != nil {
		return o, err
	}
	switches, err := jobs.Switches(ctx, db)
	for _, s := range switches {
		o.MultiExecution = o.MultiExecution || s.Enabled && s.Type != jobs.HTTP
		if s.StoppedAt != nil {
			o.Stopped = stopped(s, o.At)
		}
	}
	return o, err
}

// An agent that is gone for longer than a day is history, not a fact of now.
const agentsSQL = `
SELECT id, name, host, pid, version, environment, execution_types, slots, running, isolation, registry_hash,
       registry_error, CASE WHEN state <> 'stopped' AND lease_expires_at <= now() THEN 'lost' ELSE state END AS shown,
       wanted, reload_asked_at, started_at, heartbeat_at, abilities, cannot
  FROM jobs.tb_agent
 WHERE lease_expires_at > now() - interval '1 day'
 ORDER BY lease_expires_at <= now(), name, started_at DESC
 LIMIT 1000`

// ListAgents lists the agents that live, then those that stopped or were lost
// within the last day; at most 1000.
func ListAgents(ctx context.Context, db jobs.Querier) ([]AgentRow, error) {
	rows, err := db.Query(ctx, agentsSQL)
	if err != nil {
		return nil, Explain(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AgentRow])
	return list, Explain(err)
}
