package migrations

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

func TestUpperCaseTypesAreFolded(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	got := value[string](t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type)
		VALUES ('a', 'b', 'c', 'HTTP') RETURNING execution_type`)
	if got != "http" {
		t.Errorf("execution_type %q", got)
	}
	got = value[string](t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type)
		VALUES ('a', 'b', 'c', 'Docker') ON CONFLICT (identifier) DO UPDATE SET execution_type = EXCLUDED.execution_type RETURNING execution_type`)
	if got != "docker" {
		t.Errorf("execution_type %q", got)
	}
	for _, sql := range []string{
		"UPDATE jobs.tb_job_run SET execution_type = 'magic' WHERE identifier = 'a'",
		"UPDATE jobs.tb_job_run SET execution_type = 'HTTP' WHERE identifier = 'a'", // folded on insert alone
		"INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type) VALUES ('m', 'b', 'c', 'Magic')",
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("an unknown type was let in: %s", sql)
		}
	}
}

func TestDurationIsFilledWhoeverFinishesAJob(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	for _, row := range []struct {
		status string
		want   *float64
	}{
		{"completed", new(2.0)}, {"failed", new(3.0)}, {"cancelled", new(3.0)}, {"pending", nil}, {"running", nil},
	} {
		n := value[int](t, conn, "SELECT count(*)::int FROM jobs.tb_job_run WHERE status = $1 AND duration_seconds IS NOT DISTINCT FROM $2", row.status, row.want)
		if n != 10 {
			t.Errorf("%d of 10 old %s rows have the right duration", n, row.status)
		}
	}
	for _, finish := range []string{
		"SELECT jobs.complete_job_successfully($1, '{}')", "SELECT jobs.fail_job($1, 'no')",
		"UPDATE jobs.tb_job_run SET status = 'cancelled' WHERE id = $1",
	} {
		id := value[[16]byte](t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation)
			VALUES (gen_random_uuid()::text, 'b', 'c') RETURNING id`)
		run1(t, conn, "SELECT jobs.mark_job_started($1)", id)
		run1(t, conn, "UPDATE jobs.tb_job_run SET started_at = started_at - interval '5 seconds' WHERE id = $1", id)
		run1(t, conn, finish, id)
		if d := value[float64](t, conn, "SELECT coalesce(duration_seconds, -1) FROM jobs.tb_job_run WHERE id = $1", id); d < 5 || d > 60 {
			t.Errorf("%s: duration %v s, want a little over 5", finish, d)
		}
	}
}

// Whoever may write the columns of an application alone can still end a job.
func TestDurationIsFilledForAWriterOfAFewColumns(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	role := "writer_" + conn.Config().Database[len(conn.Config().Database)-12:]
	run1(t, conn, "CREATE ROLE "+role)
	t.Cleanup(func() { dropRole(t, url, role) })
	run1(t, conn, "GRANT USAGE ON SCHEMA jobs TO "+role)
	run1(t, conn, "GRANT SELECT, UPDATE (status, completed_at) ON jobs.tb_job_run TO "+role)
	run1(t, conn, "SET ROLE "+role)
	run1(t, conn, `UPDATE jobs.tb_job_run SET status = 'completed', completed_at = started_at + interval '7 s' WHERE status = 'running'`)
	if n := value[int](t, conn, "SELECT count(*)::int FROM jobs.tb_job_run WHERE duration_seconds = 7"); n != 10 {
		t.Errorf("%d of 10 rows have their duration", n)
	}
}

// A trigger before updates would have every claim and completion lock its row
// and log that, whatever the trigger's condition.
func TestNoTriggerFiresBeforeUpdates(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	names := value[[]string](t, connect(t, url), `SELECT coalesce(array_agg(tgname::text), '{}') FROM pg_trigger
		WHERE tgrelid = 'jobs.tb_job_run'::regclass AND tgtype & 1 = 1 AND tgtype & 2 = 2 AND tgtype & 16 = 16`) // per row, before, update
	if len(names) > 0 {
		t.Errorf("%s fire before updates", names)
	}
}

func TestTheGuidesMonitoringQueriesRun(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	run1(t, conn, `UPDATE jobs.tb_job_run SET resource_usage = '{"cpu_usage_percent": 12.5, "memory_mb": 64}' WHERE status = 'completed'`)
	for _, sql := range []string{`
SELECT
    execution_type,
    avg(duration_seconds) as avg_duration,
    count(*) as total_jobs,
    count(*) filter (where status = 'completed')::float / count(*) as success_rate
FROM jobs.tb_job_run
WHERE created_at > now() - interval '1 hour'
GROUP BY execution_type;`, `
SELECT
    execution_type,
    avg((resource_usage->>'cpu_usage_percent')::numeric) as avg_cpu,
    avg((resource_usage->>'memory_mb')::numeric) as avg_memory
FROM jobs.tb_job_run
WHERE resource_usage IS NOT NULL
GROUP BY execution_type;`,
		"SELECT * FROM jobs.v_execution_performance_by_type", "SELECT * FROM jobs.v_resource_usage_by_runner",
	} {
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil || len(got) != 1 || got[0]["execution_type"] != "http" {
			t.Errorf("%v, %v from %s", got, err, sql)
		}
	}
}

func TestBlockerIsReportedAndOnceGoneTheMigrationEnds(t *testing.T) {
	for _, mode := range []string{"ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"} {
		t.Run(mode, func(t *testing.T) {
			url := httpOnly(t)
			blocker := connect(t, url)
			run1(t, blocker, "BEGIN; LOCK TABLE jobs.tb_job_run IN "+mode+" MODE")
			pid := fmt.Sprintf("pid %d (", blocker.PgConn().PID())
			reported := false
			got := apply(t, url, Options{Progress: func(p Progress) {
				if strings.Contains(p.Waiting, pid) && !reported {
					reported = true
					run1(t, blocker, "ROLLBACK")
				}
			}})
			if !reported || len(got.Applied) != len(List()) {
				t.Errorf("reported %v, result %+v", reported, got)
			}
			migrated(t, url)
		})
	}
}

func TestBlockerThatStaysIsNamedInTheError(t *testing.T) {
	url := httpOnly(t)
	blocker := connect(t, url)
	run1(t, blocker, "BEGIN; LOCK TABLE jobs.tb_job_run IN ROW EXCLUSIVE MODE")
	_, err := Apply(t.Context(), connect(t, url), Options{tries: 2})
	var partial *PartialError
	if !errors.As(err, &partial) || !contended(err) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d (", blocker.PgConn().PID())) {
		t.Fatalf("error %v", err)
	}
	run1(t, blocker, "ROLLBACK")
	apply(t, url, Options{})
	migrated(t, url)
}

func TestOpenTransactionElsewhereOnlyDelaysIndexBuilds(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	run1(t, conn, "DROP INDEX jobs.idx_tb_job_run_created")
	reader := connect(t, url)
	run1(t, reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobs.tb_job_run")
	waited := ""
	apply(t, url, Options{Progress: func(p Progress) {
		if p.State == Waiting && waited == "" {
			waited = p.Step
			run1(t, conn, appschema.Insert, "meanwhile", "stripe", "charge", `{}`, nil, nil, nil, nil, nil)
			run1(t, reader, "ROLLBACK")
		}
	}})
	if !strings.HasPrefix(waited, "build index idx_tb_job_run_created") {
		t.Errorf("waited in step %q", waited)
	}
	migrated(t, url)
}

func TestOfTwoAtOnceTheSecondWaitsAndFindsNothingToDo(t *testing.T) {
	url := httpOnly(t)
	waits := make(chan struct{})
	var once, begin sync.Once
	var second Result
	var secondErr error
	var states []StepState
	var both sync.WaitGroup
	other := connect(t, url)
	first := apply(t, url, Options{Progress: func(Progress) {
		begin.Do(func() {
			both.Go(func() {
				second, secondErr = Apply(t.Context(), other, Options{Progress: func(p Progress) {
					states = append(states, p.State)
					if p.State == Watching {
						once.Do(func() { close(waits) })
					}
				}})
			})
			<-waits
		})
	}})
	both.Wait()
	if secondErr != nil || len(first.Applied) != len(List()) || len(second.Applied) != 0 {
		t.Errorf("first %+v, second %+v, %v", first, second, secondErr)
	}
	if n := len(states); n < 2 || states[0] != Watching || states[n-1] != Idle {
		t.Errorf("the second told %v", states)
	}
}

func TestUnsuitableTablesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, sql, want string
	}{
		{"partitioned", "CREATE SCHEMA jobs; CREATE TABLE jobs.tb_job_run (id uuid, created_at timestamptz) PARTITION BY RANGE (created_at)", "is partitioned"},
		{"another product's", "CREATE SCHEMA jobs; CREATE TABLE jobs.tb_job_run (id bigint, status text)", "column service_name"},
		{"a view", "CREATE SCHEMA jobs; CREATE VIEW jobs.tb_job_run AS SELECT 1", "is a view"},
	} {
		url := devdbtest.New(t, devdbtest.Template{})
		conn := connect(t, url)
		run1(t, conn, c.sql)
		before := asItWas(t, url)
		_, err := Apply(t.Context(), conn, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", c.name, err)
		}
		same(t, c.name, asItWas(t, url), before)
	}
}

func TestMissingPrivilegesAreNamedWithTheirGrant(t *testing.T) {
	url := httpOnly(t)
	admin := connect(t, url)
	role := "migrator_" + strings.ToLower(admin.Config().Database[len(admin.Config().Database)-12:])
	run1(t, admin, "CREATE ROLE "+role)
	defer func() {
		run1(t, admin, "REASSIGN OWNED BY "+role+" TO CURRENT_USER; DROP OWNED BY "+role+"; DROP ROLE "+role)
	}()
	conn := connect(t, url)
	run1(t, conn, "SET ROLE "+role)
	_, err := Apply(t.Context(), conn, Options{})
	var missing *PrivilegeError
	if !errors.As(err, &missing) || missing.Role != role {
		t.Fatalf("error %v", err)
	}
	grants := 0
	for _, p := range missing.Missing {
		run1(t, admin, p.Grant) // each grant is one that PostgreSQL takes
		grants++
	}
	if grants != 3 { // schema USAGE and CREATE, the table's owner
		t.Errorf("%+v", missing.Missing)
	}
	if _, err := Apply(t.Context(), conn, Options{}); err != nil {
		t.Errorf("with the grants: %v", err)
	}
	migrated(t, url)
}
