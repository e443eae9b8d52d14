package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// RegistryVersion is a registry that agents applied, as
// jobs.tb_registry_version keeps it.
type RegistryVersion struct {
	Hash        string
	Environment string
	File        string
	Document    string // the file's text, without secrets
	Services    int
	Agent, Host string // of the agent that was the first to apply it
}

// The same registry may be applied under several environments; each has its
// own history.
const newestVersionSQL = `
SELECT hash, document FROM jobs.tb_registry_version WHERE environment = $1 ORDER BY id DESC LIMIT 1`

// NewestVersion returns the hash and the text of an environment's newest
// version; both are empty when there is none.
func NewestVersion(ctx context.Context, db Querier, environment string) (hash, document string, err error) {
	err = db.QueryRow(ctx, newestVersionSQL, environment).Scan(&hash, &document)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return hash, document, err
}

const keepVersionSQL = `
INSERT INTO jobs.tb_registry_version (hash, environment, file, document, services, agent_name, host)
VALUES ($1, $2, $3, $4, $5, $6, $7)`

// KeepVersion adds v to the history and to the audit log, unless the newest
// version of its environment has the same hash. Agents that apply a version at
// the same time add it once. changes says what v changes, given the version
// before it; both of its parameters are empty for the first one.
func KeepVersion(ctx context.Context, db Beginner, v RegistryVersion, by By, changes func(hash, document string) string) (added bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Whoever waits here sees what the one before it has written: each
		// statement of this transaction looks anew.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('jobs.tb_registry_version ' || $1, 0))`, v.Environment); err != nil {
			return err
		}
		hash, document, err := NewestVersion(ctx, tx, v.Environment)
		if err != nil || hash == v.Hash {
			return err
		}
		if _, err := tx.Exec(ctx, keepVersionSQL, v.Hash, v.Environment, v.File, v.Document, v.Services, v.Agent, v.Host); err != nil {
			return err
		}
		added = true
		before := map[string]any{"hash": hash}
		after := map[string]any{"hash": v.Hash, "environment": v.Environment, "services": v.Services, "changes": changes(hash, document)}
		return Audit(ctx, tx, by, "registry-applied", v.File, before, after)
	})
	if err != nil {
		return false, fmt.Errorf("keep the registry version %.12s: %w", v.Hash, err)
	}
	return added, nil
}

// RejectVersion writes to the audit log that a registry file is not applied.
func RejectVersion(ctx context.Context, db Beginner, file, fault string, by By) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		return Audit(ctx, tx, by, "registry-rejected", file, nil, map[string]string{"fault": fault})
	})
	if err != nil {
		return fmt.Errorf("write down the rejected registry: %w", err)
	}
	return nil
}

const waitingAmongSQL = `
SELECT service FROM unnest($1::text[]) AS s(service)
 WHERE EXISTS (SELECT FROM jobs.tb_job_run WHERE service_name = s.service AND status = 'pending')`

// WaitingAmong returns those of the services that have waiting jobs.
func WaitingAmong(ctx context.Context, db Querier, services []string) ([]string, error) {
	rows, err := db.Query(ctx, waitingAmongSQL, services)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// One step of aligning looks through so many waiting jobs, and changes so many.
const (
	alignLook = 5_000
	alignPage = 2_000
)

// The first job of a stretch of the lane that has another type, or its last one:
// where all have the right type, reading them in order is all that it costs.
const otherTypeSQL = `
SELECT other, since, id
  FROM (SELECT execution_type <> $2 AS other, since, id, row_number() OVER () AS n
          FROM (SELECT coalesce(requeued_at, created_at, '-infinity'::timestamptz) AS since, id, execution_type
                  FROM jobs.tb_job_run
                 WHERE service_name = $1 AND status = 'pending'
                   AND (coalesce(requeued_at, created_at, '-infinity'::timestamptz), id) > ($3, $4)
                 ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id
                 LIMIT $5) stretch) job
 WHERE other OR n = $5
 LIMIT 1`

// A page is read along the lane; of it the rows with another type are locked,
// without waiting for anybody, and rewritten. A claim that meets them locked
// passes them over, so agents are told to look there again.
const alignSQL = `
WITH page AS MATERIALIZED (
    SELECT ctid AS place, coalesce(requeued_at, created_at, '-infinity'::timestamptz) AS since, id, execution_type
      FROM jobs.tb_job_run
     WHERE service_name = $1 AND status = 'pending'
       AND (coalesce(requeued_at, created_at, '-infinity'::timestamptz), id) >= ($3, $4)
     ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id
     LIMIT $5
), held AS MATERIALIZED (
    SELECT r.ctid AS place FROM page JOIN jobs.tb_job_run r ON r.ctid = page.place
     WHERE page.execution_type <> $2 AND r.status = 'pending'
       FOR UPDATE OF r SKIP LOCKED
), changed AS (
    UPDATE jobs.tb_job_run r SET execution_type = $2, updated_at = now()
      FROM held WHERE r.ctid = held.place
    RETURNING r.id
), told AS MATERIALIZED (
    SELECT pg_notify('specql_jobs', CASE WHEN isfinite(min(since))
               THEN ((extract(epoch FROM min(since)) * 1000000)::bigint - 1)::text ELSE '' END)
      FROM page WHERE EXISTS (SELECT FROM changed)
    HAVING count(*) > 0
)
SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM page), (SELECT count(*) FROM told), last.since, last.id
  FROM (SELECT since, id FROM page ORDER BY since DESC, id DESC LIMIT 1) last`

// AlignTypes gives the jobs of a service that wait behind a place the type
// that the registry has for it. One call looks at some of them, or changes those
// of one page in one transaction. It returns where to go on; Last is the lane's
// end. Claims write the type anyway: this is for those who look at what waits.
func AlignTypes(ctx context.Context, conn *pgx.Conn, service string, t ExecutionType, from Place) (changed int, next Place, err error) {
	fail := func(err error) (int, Place, error) {
		return 0, from, fmt.Errorf("align the types of waiting jobs of %s: %w", service, err)
	}
	var other bool
	var since pgtype.Timestamptz
	var id ID
	err = conn.QueryRow(ctx, otherTypeSQL, service, t, from.timestamp(), from.ID, alignLook).Scan(&other, &since, &id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, Last, nil
	case err != nil:
		return fail(err)
	case !other:
		return 0, placeAt(since, id), nil
	}
	var looked, told int
	err = conn.QueryRow(ctx, alignSQL, service, t, since, id, alignPage).Scan(&changed, &looked, &told, &since, &id)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && looked < alignPage:
		return changed, Last, nil
	case err != nil:
		return fail(err)
	}
	return changed, placeAt(since, id), nil
}
