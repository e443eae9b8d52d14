package jobs_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

// one reads the only value of a query's only row.
func one[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return v
}

func TestHistoryHasOneRowAChangeHoweverManyAgentsApplyIt(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	conn := connect(t, url)
	const agents = 8
	conns := make([]*pgx.Conn, agents)
	for i := range conns {
		conns[i] = connect(t, url)
	}
	for _, hash := range []string{"a", "b", "a"} {
		var all sync.WaitGroup
		for i, c := range conns {
			all.Go(func() {
				v := jobs.RegistryVersion{Hash: hash, Environment: "production", File: "r.yaml", Document: "text of " + hash, Services: 3, Agent: fmt.Sprint("agent", i), Host: "h"}
				by := jobs.By{Actor: "agent " + v.Agent, Origin: "test"}
				if _, err := jobs.KeepVersion(t.Context(), c, v, by, func(before, document string) string { return before + "→" + hash + " " + document }); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if got := one[string](t, conn, `SELECT string_agg(hash, ' ' ORDER BY id) FROM jobs.tb_registry_version`); got != "a b a" {
		t.Errorf("the history is %q", got)
	}
	got := one[string](t, conn, `SELECT string_agg(concat_ws('/', before_value->>'hash', after_value->>'hash', after_value->>'changes', target), '; ' ORDER BY id)
		FROM jobs.tb_audit WHERE action = 'registry-applied'`)
	if want := "/a/→a /r.yaml; a/b/a→b text of a/r.yaml; b/a/b→a text of b/r.yaml"; got != want {
		t.Errorf("the audit log is %q, want %q", got, want)
	}
	// Another environment has a history of its own.
	if added, err := jobs.KeepVersion(t.Context(), conn, jobs.RegistryVersion{Hash: "a", Environment: ""}, jobs.By{}, func(string, string) string { return "" }); err != nil || !added {
		t.Errorf("another environment: %v, %v", added, err)
	}
	if hash, document, err := jobs.NewestVersion(t.Context(), conn, "production"); hash != "a" || document != "text of a" || err != nil {
		t.Errorf("newest: %q %q %v", hash, document, err)
	}
}

// align walks a service's whole lane.
func align(t *testing.T, conn *pgx.Conn, service string, typ jobs.ExecutionType) (changed, steps int) {
	t.Helper()
	for at := jobs.First; at != jobs.Last; steps++ {
		n, next, err := jobs.AlignTypes(t.Context(), conn, service, typ, at)
		if err != nil {
			t.Fatal(err)
		}
		changed, at = changed+n, next
	}
	return changed, steps
}

func TestWaitingJobsGetTheRegistrysTypeInSmallSteps(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	exec(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type, status, created_at)
		SELECT 'j' || i, 'convert', 'run', 'http', CASE WHEN i % 10 = 0 THEN 'completed' ELSE 'pending' END,
		       CASE WHEN i % 3 = 0 THEN NULL ELSE now() - make_interval(secs => i) END
		  FROM generate_series(1, 5000) i`)
	exec(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation) VALUES ('other', 'other', 'run')`)
	waiting, err := jobs.WaitingAmong(t.Context(), conn, []string{"convert", "nobody", "other"})
	if err != nil || len(waiting) != 2 {
		t.Fatalf("waiting: %v, %v", waiting, err)
	}
	changed, steps := align(t, conn, "convert", jobs.Shell)
	if changed != 4500 || steps != 3 {
		t.Errorf("%d changed in %d steps, want 4500 in 3", changed, steps)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_run WHERE execution_type = 'shell' AND (status, service_name) = ('pending', 'convert')`); n != 4500 {
		t.Errorf("%d of 4500 are shell", n)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_run WHERE execution_type = 'shell'`); n != 4500 {
		t.Errorf("%d jobs are shell: others than those that wait were changed", n)
	}
	if changed, _ := align(t, conn, "convert", jobs.Shell); changed != 0 {
		t.Errorf("%d were changed again", changed)
	}
}

func TestAFewJobsOfAnotherTypeAreFoundInALongLane(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	exec(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type, created_at)
		SELECT 'j' || i, 'convert', 'run', CASE WHEN i IN (1, 5000, 5001, 40000, 41000) THEN 'http' ELSE 'shell' END,
		       CASE WHEN i > 1 THEN now() - make_interval(secs => 50000 - i) END
		  FROM generate_series(1, 41000) i`)
	if changed, _ := align(t, conn, "convert", jobs.Shell); changed != 5 {
		t.Errorf("%d changed, want 5", changed)
	}
	if changed, steps := align(t, conn, "convert", jobs.Shell); changed != 0 || steps != 9 {
		t.Errorf("%d changed again in %d steps, want none in 9", changed, steps)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_run WHERE execution_type <> 'shell'`); n != 0 {
		t.Errorf("%d jobs have another type still", n)
	}
}

func TestAligningWaitsForNobodyAndTellsAgentsToLookAgain(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	conn, other, listener := connect(t, url), connect(t, url), connect(t, url)
	exec(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation) SELECT 'j' || i, 's', 'run' FROM generate_series(1, 10) i`)
	exec(t, other, `BEGIN`)
	exec(t, other, `SELECT FROM jobs.tb_job_run WHERE identifier IN ('j1', 'j2') FOR UPDATE`)
	exec(t, listener, `LISTEN specql_jobs`)
	if changed, _ := align(t, conn, "s", jobs.Docker); changed != 8 {
		t.Errorf("%d of the 8 free jobs were changed", changed)
	}
	n, err := listener.WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first := one[int64](t, conn, `SELECT (extract(epoch FROM min(created_at)) * 1000000)::bigint FROM jobs.tb_job_run`); n.Payload != fmt.Sprint(first-1) {
		t.Errorf("told to look from %s on, want %d", n.Payload, first-1)
	}
	exec(t, other, `ROLLBACK`)
	if changed, _ := align(t, conn, "s", jobs.Docker); changed != 2 {
		t.Errorf("%d of 2 were left for later", changed)
	}
}
