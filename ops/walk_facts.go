package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/registry"
)

// walkFacts is what the steps are judged by, read at one moment.
type walkFacts struct {
	now     time.Time
	version string // of this program
	role    string
	lacks   []string // privileges that migrating and operating need
	server  string

	schema    migrations.Report
	migrated  bool       // the guide's part is there, and what operating needs
	since     *time.Time // when the guide's migration was applied
	run       migrations.Status
	newInsert error // of an application's INSERT as before the migration; nil: it works

	agents    []AgentRow
	hosts     map[jobs.ID]hostFacts
	versions  []VersionRow
	document  string
	config    *registry.Config // the newest version's; nil: none can be read
	faults    registry.Diagnostics
	patterns  []registry.Finding // deprecated and risky ones
	lanes     map[string]jobs.LaneSwitch
	switches  map[jobs.ExecutionType]jobs.Switch
	day       *figures // of the last 24 hours
	hour      *figures
	ever      map[jobs.ExecutionType]totals // jobs that ended for good since the migration
	dead      map[jobs.ExecutionType]dead
	before    *baseline
	rollbacks []Rollback
	rollouts  []Rollout
	fellBack  *time.Time // when a service was last sent to its fallback and then came back
	fallJobs  int64      // http jobs of services that are not http's, of the last day
	signed    map[string]SignOff

	states map[string]StepState // of the steps that were judged already
}

type hostFacts struct {
	Abilities map[jobs.ExecutionType][]hostCheck
	Cannot    map[string]string
	Variables map[string]bool
}

// hostCheck is a finding of an agent's host, as the agent publishes it.
type hostCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Found  string `json:"found"`
	Advice string `json:"advice"`
}

// totals are jobs, each by what came of it in the end.
type totals struct{ completed, failed int64 }

func (t totals) all() int64 { return t.completed + t.failed }

// dead are jobs without a try left, by when the last one failed.
type dead struct{ hour, day, sinceMigration int64 }

// baseline is how jobs did before the migration.
type baseline struct {
	Jobs      int64   `json:"jobs"`
	Completed int64   `json:"completed"`
	P95       float64 `json:"p95_seconds"`
	Window    string  `json:"window"`
}

func readFacts(ctx context.Context, db *pgxpool.Pool, version string) (*walkFacts, error) {
	f := &walkFacts{version: version, signed: map[string]SignOff{}, hosts: map[jobs.ID]hostFacts{}, ever: map[jobs.ExecutionType]totals{}, dead: map[jobs.ExecutionType]dead{},
		lanes: map[string]jobs.LaneSwitch{}, switches: map[jobs.ExecutionType]jobs.Switch{}}
	pooled, err := db.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer pooled.Release()
	conn := pooled.Conn()
	f.server = address(db.Config().ConnConfig)
	for _, read := range []func(context.Context, *pgx.Conn) error{f.readSchema, f.readPrivileges} {
		if err := read(ctx, conn); err != nil {
			return nil, err
		}
	}
	if f.migrated {
		for _, read := range []func(context.Context, *pgx.Conn) error{f.tryInsert, f.readAgents, f.readRegistry, f.readFigures, f.readDeeds, f.readSigned, f.readBaseline} {
			if err := read(ctx, conn); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func (f *walkFacts) readSchema(ctx context.Context, conn *pgx.Conn) (err error) {
	if err := conn.QueryRow(ctx, `SELECT now(), current_user::text`).Scan(&f.now, &f.role); err != nil {
		return err
	}
	if f.schema, err = migrations.Validate(ctx, conn); err != nil {
		return err
	}
	if _, f.migrated, err = schemaState(ctx, conn); err != nil {
		return err
	}
	if f.run, err = migrations.Look(ctx, conn); err != nil {
		return err
	}
	if !f.migrated {
		return nil
	}
	err = conn.QueryRow(ctx, `SELECT applied_at FROM jobs.tb_schema_version WHERE version = 1`).Scan(&f.since)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return err
}

// Before the migration its own needs count, afterwards those of an operator.
const migrateNeedsSQL = `
SELECT array_remove(ARRAY[
       CASE WHEN n.oid IS NULL AND NOT has_database_privilege(current_database(), 'CREATE') THEN 'CREATE on the database' END,
       CASE WHEN NOT has_database_privilege(current_database(), 'TEMPORARY') THEN 'TEMPORARY on the database' END,
       CASE WHEN n.oid IS NOT NULL AND NOT has_schema_privilege(n.oid, 'CREATE') THEN 'CREATE on schema jobs' END,
       CASE WHEN c.oid IS NOT NULL AND NOT pg_has_role(c.relowner, 'USAGE') THEN 'ownership of jobs.tb_job_run' END], NULL)
  FROM (SELECT 1) one LEFT JOIN pg_namespace n ON n.nspname = 'jobs'
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'tb_job_run'`

const operateNeedsSQL = `
SELECT coalesce(array_agg(p.privilege || ' on jobs.' || p.name ORDER BY p.name, p.privilege), '{}')
  FROM (VALUES ('tb_job_run', 'SELECT'), ('tb_job_run', 'UPDATE'), ('tb_execution_type', 'UPDATE'), ('tb_lane', 'UPDATE'),
               ('tb_agent', 'SELECT'), ('tb_agent', 'UPDATE'), ('tb_audit', 'INSERT'), ('tb_job_metric', 'SELECT'),
               ('tb_rollback', 'INSERT'), ('tb_rollout', 'INSERT'), ('tb_migration_step', 'INSERT')) AS p(name, privilege)
 WHERE NOT has_any_column_privilege('jobs.' || p.name, p.privilege)`

func (f *walkFacts) readPrivileges(ctx context.Context, conn *pgx.Conn) error {
	sql := migrateNeedsSQL
	if f.migrated {
		sql = operateNeedsSQL
	}
	return conn.QueryRow(ctx, sql).Scan(&f.lacks)
}

// The application's words from before the migration, in a transaction that is
// rolled back: nobody sees the row, and no agent is woken.
const oldInsertSQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, tenant_id, triggered_by, correlation_id, entity_type, entity_pk)
VALUES ($1, 'specql-migration-check', 'check', '{}', NULL, NULL, 'specql-migration-check', NULL, NULL)
RETURNING execution_type, status`

var errInsertOther = errors.New("the row is not a pending http job")

// tryInsert leaves f.newInsert; a role that may not insert leaves it to what
// the application itself inserted.
func (f *walkFacts) tryInsert(ctx context.Context, conn *pgx.Conn) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var t, status string
	f.newInsert = tx.QueryRow(ctx, oldInsertSQL, "specql-migration-check-"+jobs.NewID().String()).Scan(&t, &status)
	if f.newInsert == nil && (t != "http" || status != "pending") {
		f.newInsert = errInsertOther
	}
	if conn.IsClosed() {
		return f.newInsert
	}
	return nil
}

const hostsSQL = `SELECT id, abilities, cannot, variables FROM jobs.tb_agent WHERE lease_expires_at > now() AND state <> 'stopped'`

func (f *walkFacts) readAgents(ctx context.Context, conn *pgx.Conn) error {
	all, err := ListAgents(ctx, conn)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.Alive() {
			f.agents = append(f.agents, a)
		}
	}
	rows, err := conn.Query(ctx, hostsSQL)
	if err != nil {
		return err
	}
	var id jobs.ID
	var abilities, cannot, variables []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &abilities, &cannot, &variables}, func() error {
		var h hostFacts
		err := errors.Join(json.Unmarshal(abilities, &h.Abilities), json.Unmarshal(cannot, &h.Cannot), json.Unmarshal(variables, &h.Variables))
		f.hosts[id] = h
		return err
	})
	return err
}

func (f *walkFacts) readRegistry(ctx context.Context, conn *pgx.Conn) (err error) {
	if f.versions, err = ListVersions(ctx, conn, nil, 10); err != nil {
		return err
	}
	if len(f.versions) > 0 {
		v := f.versions[0]
		if err := conn.QueryRow(ctx, `SELECT document FROM jobs.tb_registry_version WHERE id = $1`, v.ID).Scan(&f.document); err != nil {
			return err
		}
		f.patterns, _ = registry.FindPatterns(v.File, []byte(f.document)) // what cannot be read is among the faults
		f.config = registry.Sketch(v.File, []byte(f.document), v.Environment)
		f.faults = storedFaults(v.File, []byte(f.document), v.Environment)
	}
	lanes, err := jobs.LaneSwitches(ctx, conn)
	if err != nil {
		return err
	}
	for _, l := range lanes {
		f.lanes[l.Service] = l
	}
	switches, err := jobs.Switches(ctx, conn)
	for _, s := range switches {
		f.switches[s.Type] = s
	}
	return err
}

// storedFaults are those of a registry that agents applied, without what depends
// on their variables and secrets: these values are nobody's here.
func storedFaults(file string, document []byte, env string) registry.Diagnostics {
	_, faults := registry.Parse(file, document, registry.Options{Env: env,
		LookupEnv:  func(string) (string, bool) { return "", false },
		ReadSecret: func(path string) ([]byte, error) { return nil, errors.New("a secret of the agents") }})
	return slices.DeleteFunc(faults, func(d registry.Diagnostic) bool { return d.Code == registry.CodeUnsetVariable })
}

const (
	everSQL = `SELECT execution_type, sum(completed)::bigint FROM jobs.tb_job_metric GROUP BY 1`

	// The metrics count attempts. A job that did well at its second one did well.
	deadSQL = `
SELECT execution_type, count(*) FILTER (WHERE updated_at > $2::timestamptz - interval '1 hour'),
       count(*) FILTER (WHERE updated_at > $2::timestamptz - interval '1 day'), count(*)
  FROM jobs.tb_job_run
 WHERE status = 'failed' AND retry_at IS NULL AND execution_type = ANY (SELECT execution_type FROM jobs.tb_execution_type)
   AND updated_at >= $1
 GROUP BY 1`
)

func (f *walkFacts) readFigures(ctx context.Context, conn *pgx.Conn) error {
	f.day, f.hour = newFigures(f.now, MaxWindow), newFigures(f.now, time.Hour)
	b := &pgx.Batch{}
	f.day.ask(b)
	f.hour.ask(b)
	b.Queue(everSQL).Query(func(rows pgx.Rows) error {
		var t jobs.ExecutionType
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&t, &n}, func() error { f.ever[t] = totals{completed: n}; return nil })
		return err
	})
	if f.since != nil {
		b.Queue(deadSQL, *f.since, f.now).Query(func(rows pgx.Rows) error {
			var t jobs.ExecutionType
			var d dead
			_, err := pgx.ForEachRow(rows, []any{&t, &d.hour, &d.day, &d.sinceMigration}, func() error {
				f.dead[t] = d
				f.ever[t] = totals{f.ever[t].completed, d.sinceMigration}
				return nil
			})
			return err
		})
	}
	return conn.SendBatch(ctx, b).Close()
}

const fellBackSQL = `
SELECT max(b.at) FROM jobs.tb_audit a JOIN jobs.tb_audit b
    ON a.action = 'fallback-service' AND b.action = 'no-fallback-service' AND a.target = b.target AND b.at > a.at`

func (f *walkFacts) readDeeds(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT `+rollbackColumns+` FROM jobs.tb_rollback ORDER BY id DESC LIMIT 20`)
	if err != nil {
		return err
	}
	if f.rollbacks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Rollback]); err != nil {
		return err
	}
	if f.rollouts, err = listRollouts(ctx, conn); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, fellBackSQL).Scan(&f.fellBack); err != nil {
		return err
	}
	for key, s := range f.day.services {
		if l, ok := f.lanes[key.service]; ok && key.t == jobs.HTTP && l.Type != jobs.HTTP {
			f.fallJobs += s.completed
		}
	}
	return nil
}

func (f *walkFacts) readSigned(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `SELECT step, name, note, at, state = 'waived' FROM jobs.tb_migration_step WHERE state <> 'measured'`)
	if err != nil {
		return err
	}
	var id string
	var s SignOff
	_, err = pgx.ForEachRow(rows, []any{&id, &s.Name, &s.Note, &s.At, &s.Waived}, func() error { f.signed[id] = s; return nil })
	return err
}

// baselineSQL looks at the hour before the migration, else the day, else all of
// the time before. Nothing helps to find it: it reads the table, once.
const baselineSQL = `
WITH j AS (
    SELECT status = 'completed' AS completed, extract(epoch FROM completed_at - started_at)::float8 AS seconds,
           CASE WHEN coalesce(completed_at, updated_at) > $1::timestamptz - interval '1 hour' THEN 1
                WHEN coalesce(completed_at, updated_at) > $1::timestamptz - interval '1 day' THEN 2 ELSE 3 END AS far
      FROM jobs.tb_job_run WHERE status IN ('completed', 'failed') AND coalesce(completed_at, updated_at) <= $1::timestamptz
), first AS (SELECT min(far) AS far FROM j)
SELECT count(*), count(*) FILTER (WHERE completed), coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE completed), 0),
       coalesce(min(CASE j.far WHEN 1 THEN 'hour' WHEN 2 THEN 'day' ELSE 'time' END), '')
  FROM j JOIN first USING (far)`

const baselineStep = "baseline"

// readBaseline measures once and keeps what it found, where it may.
func (f *walkFacts) readBaseline(ctx context.Context, conn *pgx.Conn) error {
	var raw []byte
	err := conn.QueryRow(ctx, `SELECT value FROM jobs.tb_migration_step WHERE step = $1`, baselineStep).Scan(&raw)
	switch {
	case err == nil:
		f.before = &baseline{}
		return json.Unmarshal(raw, f.before)
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	case f.since == nil:
		return nil
	}
	b := baseline{}
	if err := conn.QueryRow(ctx, baselineSQL, *f.since).Scan(&b.Jobs, &b.Completed, &b.P95, &b.Window); err != nil {
		return fmt.Errorf("measure how jobs did before the migration: %w", err)
	}
	f.before = &b
	if len(f.lacks) > 0 {
		return nil
	}
	if raw, err = json.Marshal(b); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `INSERT INTO jobs.tb_migration_step (step, state, name, value) VALUES ($1, 'measured', $2, $3::text::jsonb)
		ON CONFLICT DO NOTHING`, baselineStep, f.role, string(raw))
	return err
}
