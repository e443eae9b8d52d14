package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	jobsTable   = "jobs.tb_job_run"
	recordTable = "jobs.tb_schema_version"
)

// Plan says what Apply or Down would do.
type Plan struct {
	Server     string    `json:"server"` // version, as the server words it
	Database   string    `json:"database"`
	Role       string    `json:"role"`
	Fresh      bool      `json:"fresh"` // there is no jobs table yet
	Down       bool      `json:"down"`
	Rows       int64     `json:"rows"`  // of the jobs table, as the server last estimated
	Bytes      int64     `json:"bytes"` // of the jobs table, without its indexes
	Migrations []Planned `json:"migrations"`

	// Of a way down.
	Agents []string    `json:"agents,omitempty"`     // at work: they keep it from being run
	Typed  []TypedJobs `json:"typed_jobs,omitempty"` // jobs that are not http
	Losses []Loss      `json:"losses,omitempty"`
}

// Planned is one migration of a Plan.
type Planned struct {
	Migration
	Recorded   bool          `json:"recorded"`             // jobs.tb_schema_version has it
	AppliedAt  *time.Time    `json:"applied_at,omitempty"` // nil unless recorded
	AppliedBy  string        `json:"applied_by,omitempty"`
	Run        bool          `json:"run"` // it is going to run
	Unfinished []Finding     `json:"unfinished,omitempty"`
	Todo       []PlannedStep `json:"todo"` // its steps in this direction
}

// PlannedStep is a step with what is to be expected of it.
type PlannedStep struct {
	Step
	Estimate time.Duration `json:"estimate_ns"` // on a machine at rest; 0: an instant
	Rewrites bool          `json:"rewrites"`    // the jobs table; no step does
}

// Pending are the migrations that are going to run, in order.
func (p Plan) Pending() []Migration {
	var all []Migration
	for _, m := range p.Migrations {
		if m.Run {
			all = append(all, m.Migration)
		}
	}
	return all
}

// Steps are the steps that are going to run, in order.
func (p Plan) Steps() []PlannedStep {
	var versions []int
	for _, m := range p.Pending() {
		versions = append(versions, m.Version)
	}
	var all []PlannedStep
	for _, s := range sequence(versions, p.Down) {
		all = append(all, p.expect(s.step))
	}
	return all
}

// What a core does in a second, measured on a table in memory; reading from
// disk and a busy machine make it slower.
const (
	scanned = 400 << 20 // bytes of one scan
	indexed = 300 << 20 // bytes of one of an index build's two
	filled  = 40_000    // rows of the back-fill, which rests half of the time
)

func (p Plan) expect(s Step) PlannedStep {
	seconds := 0.0
	switch s.Work {
	case OneScan:
		seconds = float64(p.Bytes) / scanned
	case TwoScans:
		seconds = 2 * float64(p.Bytes) / indexed
	case Fill:
		seconds = float64(p.Rows) / filled
	}
	return PlannedStep{Step: s, Estimate: time.Duration(seconds * float64(time.Second)).Round(10 * time.Millisecond)}
}

func (p Plan) todo(steps []Step) []PlannedStep {
	var all []PlannedStep
	for _, s := range steps {
		all = append(all, p.expect(s))
	}
	return all
}

// MakePlan says what Apply would do and changes nothing. A migration runs
// unless it is recorded as applied and its objects are all there.
//
// It answers *VersionError, *PartitionedError, *ForeignTableError and, where
// the role may not even look, *PrivilegeError.
func MakePlan(ctx context.Context, conn *pgx.Conn) (Plan, error) {
	p, found, recorded, err := survey(ctx, conn)
	if err != nil {
		return p, err
	}
	due, err := fillDue(ctx, conn, found)
	if err != nil {
		return p, err
	}
	for _, m := range list() {
		planned := Planned{Migration: m, Unfinished: unfinished(m.Version, found), Todo: p.todo(m.Steps)}
		if due && slices.ContainsFunc(m.Steps, func(s Step) bool { return s.Work == Fill }) {
			planned.Unfinished = append(planned.Unfinished,
				Finding{Kind: "back-fill", Name: jobsTable + ".duration_seconds", State: Missing, Migration: m.Version})
		}
		if m.Version == 1 && has(found, "check", jobsTable+".tb_job_run_http_only_check") {
			planned.Unfinished = append(planned.Unfinished, Finding{Kind: "check", Name: jobsTable + ".tb_job_run_http_only_check",
				State: Extra, Have: "a way down that was given up keeps other types out", Migration: 1})
		}
		if r, ok := recorded[m.Version]; ok {
			planned.Recorded, planned.AppliedAt, planned.AppliedBy = true, &r.at, r.by
		}
		planned.Run = !planned.Recorded || len(planned.Unfinished) > 0
		p.Migrations = append(p.Migrations, planned)
	}
	return p, nil
}

// survey is what both directions need to know.
func survey(ctx context.Context, conn *pgx.Conn) (p Plan, found []object, recorded map[int]record, err error) {
	var number int
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('server_version_num')::int,
		current_database()::text, current_user::text`).Scan(&p.Server, &number, &p.Database, &p.Role)
	if err != nil {
		return p, nil, nil, fmt.Errorf("ask the server for its version: %w", err)
	}
	if number/10000 < MinServer {
		return p, nil, nil, &VersionError{Server: p.Server}
	}
	if found, err = catalog(ctx, conn); err != nil {
		return p, nil, nil, err
	}
	if p.Fresh, err = checkTable(ctx, conn, found); err != nil {
		return p, nil, nil, err
	}
	// A size asks for no lock, and so waits for nobody.
	err = conn.QueryRow(ctx, `SELECT coalesce(max(greatest(c.reltuples, 0)), 0)::bigint, coalesce(max(c.relpages), 0)::bigint * current_setting('block_size')::bigint
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'jobs' AND c.relname = 'tb_job_run'`).Scan(&p.Rows, &p.Bytes)
	if err != nil {
		return p, nil, nil, fmt.Errorf("ask for the size of %s: %w", jobsTable, err)
	}
	recorded, err = records(ctx, conn, found)
	if denied(err) {
		err = &PrivilegeError{Role: p.Role, Missing: []Privilege{{
			Lacks: "SELECT on " + recordTable,
			Grant: fmt.Sprintf("GRANT USAGE ON SCHEMA jobs TO %[1]s; GRANT SELECT ON %[2]s TO %[1]s;", quote(p.Role), recordTable),
		}}}
	}
	return p, found, recorded, err
}

// fillDue tells whether old rows may still lack their duration_seconds.
func fillDue(ctx context.Context, conn *pgx.Conn, found []object) (due bool, err error) {
	if !has(found, "table", "jobs.tb_schema_fill") {
		return false, nil // and the migration runs for that
	}
	err = conn.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM jobs.tb_schema_fill WHERE name = 'duration_seconds' AND done_at IS NOT NULL)").Scan(&due)
	if denied(err) {
		return false, nil // validate-schema's affair, not of those who may only look
	}
	if err != nil {
		return false, fmt.Errorf("read jobs.tb_schema_fill: %w", err)
	}
	return due, nil
}

type record struct {
	at time.Time
	by string
}

func records(ctx context.Context, conn *pgx.Conn, found []object) (map[int]record, error) {
	if !has(found, "table", recordTable) {
		return nil, nil
	}
	rows, err := conn.Query(ctx, "SELECT version, applied_at, applied_by FROM jobs.tb_schema_version")
	if err != nil {
		return nil, err
	}
	all := map[int]record{}
	var version int
	var r record
	_, err = pgx.ForEachRow(rows, []any{&version, &r.at, &r.by}, func() error {
		all[version] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", recordTable, err)
	}
	return all, nil
}

// checkTable refuses what is not an application's jobs table. It looks in the
// catalog alone: names would not resolve for a role without USAGE.
func checkTable(ctx context.Context, conn *pgx.Conn, found []object) (fresh bool, err error) {
	var kind string
	err = conn.QueryRow(ctx, `SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'jobs' AND c.relname = 'tb_job_run'`).Scan(&kind)
	if errors.Is(err, pgx.ErrNoRows) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", jobsTable, err)
	}
	switch kind {
	case "r":
	case "p":
		return false, &PartitionedError{}
	case "v":
		return false, &ForeignTableError{Kind: "view"}
	case "m":
		return false, &ForeignTableError{Kind: "materialized view"}
	case "f":
		return false, &ForeignTableError{Kind: "foreign table"}
	default:
		return false, &ForeignTableError{Kind: "relation of kind " + kind}
	}
	if missing := lackingColumns(found); len(missing) > 0 {
		return false, &ForeignTableError{Missing: missing}
	}
	return false, nil
}

// laterColumns came with newer compilers; the first migration adds them.
var laterColumns = []string{jobsTable + ".idempotency_key", jobsTable + ".timeout_seconds"}

func lackingColumns(found []object) []string {
	var missing []string
	for _, w := range expected() {
		if w.Kind != "column" || !w.Application || slices.Contains(laterColumns, w.Name) {
			continue
		}
		short := strings.TrimPrefix(w.Name, jobsTable+".")
		i := slices.IndexFunc(found, func(o object) bool { return o.key() == w.key() })
		switch {
		case i < 0:
			missing = append(missing, "column "+short)
		case short == "id" && !strings.HasPrefix(found[i].Definition, "uuid"):
			missing = append(missing, "type uuid for column id (it is "+found[i].Definition+")")
		}
	}
	return missing
}

// checkPrivileges finds out before the first step what a later one would
// stumble over.
func checkPrivileges(ctx context.Context, conn *pgx.Conn) error {
	var role, database string
	var schema, createSchema, temporary, use, create bool
	err := conn.QueryRow(ctx, `
		SELECT current_user::text, current_database()::text, n.oid IS NOT NULL,
		       has_database_privilege(current_database(), 'CREATE'),
		       has_database_privilege(current_database(), 'TEMPORARY'),
		       coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
		       coalesce(has_schema_privilege(n.oid, 'CREATE'), false)
		  FROM (SELECT 1) one LEFT JOIN pg_namespace n ON n.nspname = 'jobs'`).
		Scan(&role, &database, &schema, &createSchema, &temporary, &use, &create)
	if err != nil {
		return fmt.Errorf("ask for the role's privileges: %w", err)
	}
	e := &PrivilegeError{Role: role}
	lacks := func(right, on string) {
		e.Missing = append(e.Missing, Privilege{Lacks: right + " on " + strings.ReplaceAll(on, `"`, ""),
			Grant: fmt.Sprintf("GRANT %s ON %s TO %s;", right, on, quote(role))})
	}
	if !schema && !createSchema {
		lacks("CREATE", "DATABASE "+quote(database))
	}
	if !temporary {
		lacks("TEMPORARY", "DATABASE "+quote(database))
	}
	if schema && !use {
		lacks("USAGE", "SCHEMA jobs")
	}
	if schema && !create {
		lacks("CREATE", "SCHEMA jobs")
	}
	owners, err := otherOwners(ctx, conn)
	if err != nil {
		return err
	}
	e.Missing = append(e.Missing, owners...)
	if len(e.Missing) > 0 {
		return e
	}
	return nil
}

// otherOwners lists what only its owner may change and the role does not own.
func otherOwners(ctx context.Context, conn *pgx.Conn) ([]Privilege, error) {
	var tables, functions []string
	for _, w := range expected() {
		name := strings.TrimPrefix(w.Name, "jobs.")
		switch {
		case w.Kind == "table":
			tables = append(tables, name)
		case w.Kind == "function" && !w.Application:
			name, _, _ = strings.Cut(name, "(")
			functions = append(functions, name)
		}
	}
	rows, err := conn.Query(ctx, `
		SELECT 'table jobs.' || c.relname, pg_get_userbyid(c.relowner)::text, current_user::text
		  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = 'jobs' AND c.relname = ANY ($1) AND NOT pg_has_role(c.relowner, 'USAGE')
		UNION ALL
		SELECT 'function jobs.' || p.proname, pg_get_userbyid(p.proowner)::text, current_user::text
		  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		 WHERE n.nspname = 'jobs' AND p.proname = ANY ($2) AND NOT pg_has_role(p.proowner, 'USAGE')
		 ORDER BY 1`, tables, functions)
	if err != nil {
		return nil, fmt.Errorf("ask for the owners of schema jobs: %w", err)
	}
	var all []Privilege
	var what, owner, role string
	_, err = pgx.ForEachRow(rows, []any{&what, &owner, &role}, func() error {
		all = append(all, Privilege{Lacks: "ownership of " + what,
			Grant: fmt.Sprintf("GRANT %s TO %s;", quote(owner), quote(role))})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the owners of schema jobs: %w", err)
	}
	return all, nil
}

func has(found []object, kind, name string) bool {
	return slices.ContainsFunc(found, func(o object) bool { return o.Kind == kind && o.Name == name })
}

func denied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
