package migrations

import (
	"context"
	"os/exec"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

// starts are the databases that a migration may begin from.
var starts = []struct{ name, schema string }{
	{"nothing", ""},
	{"http only", appschema.HTTPOnly},
	{"early http only", appschema.HTTPOnlyEarly},
}

// oldRows are what an application left: finished with and without
// completed_at, retried, waiting.
const oldRows = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, attempts, created_at, started_at, completed_at, updated_at)
SELECT 'old-' || n, 'stripe', 'charge',
       (ARRAY['completed', 'failed', 'cancelled', 'pending', 'running'])[1 + n % 5], 1,
       now() - interval '30 minutes', CASE WHEN n % 5 <> 3 THEN now() - interval '20 minutes' END,
       CASE n % 5 WHEN 0 THEN now() - interval '20 minutes' + interval '2 seconds' END,
       now() - interval '20 minutes' + interval '3 seconds'
  FROM generate_series(1, 50) n`

func template(name, schema string) devdbtest.Template {
	if schema == "" {
		return devdbtest.Template{}
	}
	return devdbtest.Template{Name: name, Content: schema + oldRows, Build: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.PgConn().Exec(ctx, schema+";"+oldRows).ReadAll()
		return err
	}}
}

// httpOnly is a database of an application with rows.
func httpOnly(t *testing.T) string {
	return devdbtest.New(t, template("http only", appschema.HTTPOnly))
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v in %s", err, sql)
	}
}

func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v in %s", err, sql)
	}
	return v
}

func apply(t *testing.T, url string, opts Options) Result {
	t.Helper()
	conn := connect(t, url)
	result, err := Apply(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context())
	return result
}

// psql runs a migration's file as the guide tells people to.
func psql(t *testing.T, url, file string) {
	t.Helper()
	out, err := exec.Command("psql", "-X", "-q", "-d", url, "-f", file).CombinedOutput()
	if err != nil {
		t.Fatalf("psql -f %s: %v\n%s", file, err, out)
	}
	if len(out) > 0 {
		t.Errorf("psql -f %s was not silent:\n%s", file, out)
	}
}

func objects(t *testing.T, url string) []object {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	found, err := catalog(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// asItWas is the catalog with what validate-schema leaves to the application.
func asItWas(t *testing.T, url string) []object {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	var options string
	err := conn.QueryRow(t.Context(), "SELECT coalesce((SELECT reloptions::text FROM pg_class WHERE oid = to_regclass('jobs.tb_job_run')), '')").Scan(&options)
	if err != nil {
		t.Fatal(err)
	}
	return append(objects(t, url), object{Kind: "storage", Name: "jobs.tb_job_run", Definition: options})
}

// same compares whole catalogs by name.
func same(t *testing.T, what string, got, want []object) {
	t.Helper()
	for _, o := range want {
		if !slices.Contains(got, o) {
			t.Errorf("%s: no such %s %s: %s %s", what, o.Kind, o.Name, o.Definition, o.Fault)
		}
	}
	for _, o := range got {
		if !slices.Contains(want, o) {
			t.Errorf("%s: unwanted %s %s: %s %s", what, o.Kind, o.Name, o.Definition, o.Fault)
		}
	}
}

func migrated(t *testing.T, url string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	report, err := Validate(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Faults() {
		t.Errorf("%s %s is %s: want %q, have %q", f.Kind, f.Name, f.State, f.Want, f.Have)
	}
}
