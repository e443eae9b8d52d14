//go:build unix

package ops

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
)

// migrated is an application's schema with all migrations, step by step as
// psql would run them.
func migrated(t *testing.T) devdbtest.Template {
	t.Helper()
	content := appschema.HTTPOnly
	steps := []string{content}
	for _, m := range migrations.List() {
		for _, step := range m.Steps {
			content += step.SQL
			steps = append(steps, step.SQL)
		}
	}
	return devdbtest.Template{Name: "ops", Content: content, Build: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		for _, s := range steps {
			if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
				return err
			}
		}
		return nil
	}}
}

func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return connect(t, devdbtest.New(t, migrated(t)))
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	db, err := Connect(t.Context(), url, "ops-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func exec(t *testing.T, db *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// addAgent enters an agent that runs the types and lives for the time given.
func addAgent(t *testing.T, db *pgxpool.Pool, name string, slots int, lease time.Duration, types ...jobs.ExecutionType) jobs.ID {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	id := jobs.NewID()
	err = jobs.Register(t.Context(), conn.Conn(), jobs.AgentInfo{ID: id, Name: name, Host: "host", PID: 7, Version: "1",
		Environment: "staging", Types: types, Slots: slots, RegistryHash: "abc"}, lease)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// addLanes writes down the lanes of the registry that addAgent's agents have.
func addLanes(t *testing.T, db *pgxpool.Pool, lanes ...jobs.LaneSettings) {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if err := jobs.PublishLanes(t.Context(), conn.Conn(), "abc", lanes); err != nil {
		t.Fatal(err)
	}
}

// addMetric enters one minute's figures, as an agent does.
func addMetric(t *testing.T, db *pgxpool.Pool, m jobs.Metric) {
	t.Helper()
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	e := jobs.Exchange{Metrics: []jobs.Metric{m}}
	if _, err := e.Do(t.Context(), conn.Conn(), jobs.NewID()); err != nil {
		t.Fatal(err)
	}
}

const enqueueSQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type, created_at)
SELECT $1 || '-' || i, $1, 'op', $2, now() - make_interval(secs => $4) FROM generate_series(1, $3::int) i`

func enqueue(t *testing.T, db *pgxpool.Pool, service string, typ jobs.ExecutionType, n int, age time.Duration) {
	t.Helper()
	exec(t, db, enqueueSQL, service, typ, n, age.Seconds())
}
