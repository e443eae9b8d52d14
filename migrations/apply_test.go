package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

const file001 = "001_multi_execution.sql"

func TestPsqlAndApplyGiveTheSameCatalogInAnyOrderAndAgain(t *testing.T) {
	byPsql := func(t *testing.T, url string) {
		for _, m := range List() {
			psql(t, url, m.String()+".sql")
		}
	}
	byApply := func(t *testing.T, url string) { apply(t, url, Options{}) }
	half := func(t *testing.T, url string) { psql(t, url, file001) }
	var want []object
	for _, start := range starts {
		for _, order := range []struct {
			name string
			runs []func(*testing.T, string)
		}{
			{"psql, apply, psql", []func(*testing.T, string){byPsql, byApply, byPsql}},
			{"apply, psql, apply", []func(*testing.T, string){byApply, byPsql, byApply}},
			{"psql 001, apply, apply", []func(*testing.T, string){half, byApply, byApply}},
			{"psql three times", []func(*testing.T, string){byPsql, byPsql, byPsql}},
		} {
			t.Run(start.name+", "+order.name, func(t *testing.T) {
				url := devdbtest.New(t, template(start.name, start.schema))
				for i, one := range order.runs {
					one(t, url)
					if i == 0 && order.name == "psql 001, apply, apply" {
						continue
					}
					got := asItWas(t, url)
					for i := range got { // an application's functions keep its own layout
						if slices.ContainsFunc(expected(), func(w expectation) bool { return w.Application && w.key() == got[i].key() }) {
							got[i].Body = ""
						}
					}
					if want == nil {
						want = got
					}
					same(t, fmt.Sprintf("after run %d", i+1), got, want)
				}
				migrated(t, url)
			})
		}
	}
}

func TestApplyAgainHasNothingToDo(t *testing.T) {
	url := httpOnly(t)
	if got := apply(t, url, Options{}); len(got.Applied) != len(List()) || got.Steps == 0 {
		t.Errorf("first run %+v", got)
	}
	var last Progress
	got := apply(t, url, Options{Progress: func(p Progress) { last = p }})
	if len(got.Applied) != 0 || got.Steps != 0 || last.State != Idle {
		t.Errorf("second run %+v, last progress %+v", got, last)
	}
}

func TestRecordedMigrationWhoseObjectIsGoneRunsAgain(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	run1(t, conn, "DROP INDEX jobs.idx_tb_job_run_retry_due")
	plan, err := MakePlan(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if p := plan.Pending(); len(p) != 1 || p[0].Version != 2 || !plan.Migrations[1].Recorded || plan.Migrations[1].AppliedAt == nil {
		t.Errorf("plan %+v", plan)
	}
	if got := apply(t, url, Options{}); len(got.Applied) != 1 {
		t.Errorf("applied %v", got.Applied)
	}
	migrated(t, url)
}

func TestApplyToAVersionStopsThere(t *testing.T) {
	url := httpOnly(t)
	if got := apply(t, url, Options{To: 1}); strings.Join(got.Applied, " ") != "001_multi_execution" {
		t.Errorf("applied %v", got.Applied)
	}
}

func TestDownReturnsToTheApplicationsCatalogExactly(t *testing.T) {
	url := httpOnly(t)
	before := asItWas(t, url)
	rows := value[int](t, connect(t, url), "SELECT count(*)::int FROM jobs.tb_job_run")
	for range 2 { // down, and up again, and down
		apply(t, url, Options{})
		if _, err := Down(t.Context(), connect(t, url), Options{}); err != nil {
			t.Fatal(err)
		}
		same(t, "after Down", asItWas(t, url), before)
	}
	if n := value[int](t, connect(t, url), "SELECT count(*)::int FROM jobs.tb_job_run"); n != rows {
		t.Errorf("%d rows, want the %d from before", n, rows)
	}
	got, err := Down(t.Context(), connect(t, url), Options{})
	if err != nil || len(got.Applied) != 0 {
		t.Errorf("Down again: %+v, %v", got, err)
	}
	apply(t, url, Options{To: 1})
	one := asItWas(t, url)
	apply(t, url, Options{})
	if _, err := Down(t.Context(), connect(t, url), Options{To: 1}); err != nil {
		t.Fatal(err)
	}
	same(t, "after Down to 1", asItWas(t, url), one)
}

func TestDownRefusesWhileJobsOfOtherTypesExistUnlessToldWhatToDo(t *testing.T) {
	for _, c := range []struct {
		typed      Typed
		rows, open int // of the four that are not http
	}{{KeepTyped, 4, 3}, {CancelTyped, 4, 0}, {DeleteTyped, 0, 0}} {
		t.Run(string(c.typed), func(t *testing.T) {
			url := httpOnly(t)
			before := asItWas(t, url)
			apply(t, url, Options{})
			conn := connect(t, url)
			run1(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type, status, attempts) VALUES
				('s1', 'x', 'y', 'shell', 'pending', 0), ('s2', 'x', 'y', 'shell', 'running', 1), ('s3', 'x', 'y', 'docker', 'failed', 1),
				('s4', 'x', 'y', 'docker', 'completed', 1)`)
			_, err := Down(t.Context(), conn, Options{})
			var refused *TypedJobsError
			if !errors.As(err, &refused) || len(refused.Jobs) != 4 || !strings.Contains(err.Error(), "1 shell (pending)") {
				t.Fatalf("error %v", err)
			}
			migrated(t, url)
			if _, err := Down(t.Context(), conn, Options{Typed: c.typed}); err != nil {
				t.Fatal(err)
			}
			same(t, "after Down", asItWas(t, url), before)
			rows := value[int](t, conn, "SELECT count(*)::int FROM jobs.tb_job_run WHERE identifier LIKE 's_'")
			open := value[int](t, conn, `SELECT count(*)::int FROM jobs.tb_job_run WHERE identifier LIKE 's_'
				AND (status IN ('pending', 'running') OR status = 'failed' AND attempts < max_attempts)`)
			if rows != c.rows || open != c.open {
				t.Errorf("%d rows, %d of them could still run, want %d and %d", rows, open, c.rows, c.open)
			}
		})
	}
}

func TestDownLeavesNoBarBehindWhenItIsUndone(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Down(ctx, connect(t, url), Options{Progress: func(p Progress) {
		if p.Step == "make sure that none is left" && p.State == Done {
			cancel()
		}
	}})
	if err == nil {
		t.Fatal("it was not interrupted")
	}
	conn := connect(t, url)
	const insert = "INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type) VALUES ('s', 'x', 'y', 'shell')"
	if _, err := conn.Exec(t.Context(), insert); err == nil {
		t.Error("a job of another type came in while the way down was going on")
	}
	apply(t, url, Options{})
	run1(t, conn, insert)
}

func TestDownRefusesUnderAgentsAtWork(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	run1(t, conn, `INSERT INTO jobs.tb_agent (id, name, host, pid, version, execution_types, slots, lease_expires_at)
		VALUES (gen_random_uuid(), 'alpha', 'web1', 1, 'v', '{http}', 1, now() + interval '1 minute')`)
	_, err := Down(t.Context(), conn, Options{})
	var refused *AgentsError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "alpha@web1") {
		t.Fatalf("error %v", err)
	}
	migrated(t, url)
	run1(t, conn, "UPDATE jobs.tb_agent SET state = 'stopped'")
	if _, err := Down(t.Context(), conn, Options{}); err != nil {
		t.Error(err)
	}
}

func TestInterruptedDownIsFinishedByDownAndUndoneByApply(t *testing.T) {
	url := httpOnly(t)
	before := asItWas(t, url)
	apply(t, url, Options{})
	for k := 1; ; k++ { // each time it comes one step further
		ctx, cancel := context.WithCancel(t.Context())
		done := 0
		conn := connect(t, url)
		_, err := Down(ctx, conn, Options{Progress: func(p Progress) {
			if p.State == Done && p.Position > 0 {
				if done++; done == k {
					cancel()
				}
			}
		}})
		cancel()
		conn.Close(t.Context())
		if err == nil {
			break
		}
		if k%8 == 0 {
			apply(t, url, Options{})
			migrated(t, url)
		}
	}
	same(t, "after Down", asItWas(t, url), before)
}

func TestFailedStepIsNamedWithItsCause(t *testing.T) {
	url := httpOnly(t)
	conn := connect(t, url)
	// A half-done migration by hand, with a type that nobody knows.
	run1(t, conn, "ALTER TABLE jobs.tb_job_run ADD COLUMN execution_type text NOT NULL DEFAULT 'magic'")
	_, err := Apply(t.Context(), conn, Options{})
	var partial *PartialError
	if !errors.As(err, &partial) || !strings.Contains(partial.Failed.Name, "validate the constraint") ||
		!strings.Contains(partial.Failed.SQL, "VALIDATE CONSTRAINT") || partial.Migration != "001_multi_execution" {
		t.Fatalf("error %v", err)
	}
	if n := value[int](t, conn, "SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); n != 0 {
		t.Error("the lock is still held")
	}
	if s := value[string](t, conn, "SHOW lock_timeout"); s != "0" {
		t.Errorf("the session was left with lock_timeout %s", s)
	}
	run1(t, conn, "UPDATE jobs.tb_job_run SET execution_type = 'http'")
	apply(t, url, Options{})
}

func TestInvalidIndexIsBuiltAgain(t *testing.T) {
	url := httpOnly(t)
	conn := connect(t, url)
	run1(t, conn, "DROP INDEX jobs.idx_tb_job_run_correlation")
	run1(t, conn, `CREATE INDEX CONCURRENTLY idx_tb_job_run_correlation ON jobs.tb_job_run (correlation_id) WHERE correlation_id IS NOT NULL`)
	run1(t, conn, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs.idx_tb_job_run_correlation'::regclass")
	apply(t, url, Options{})
	migrated(t, url)
}

func TestTheApplicationsInsertWorksBeforeAndAfter(t *testing.T) {
	for _, start := range starts[1:] {
		url := devdbtest.New(t, template(start.name, start.schema))
		conn := connect(t, url)
		insert := func(identifier string) {
			run1(t, conn, appschema.Insert, identifier, "stripe", "charge", `{"amount": 1}`, nil, nil, "c", "order", "1")
		}
		insert("before")
		if _, err := Apply(t.Context(), conn, Options{}); err != nil {
			t.Fatal(err)
		}
		insert("after")
		rows, err := conn.Query(t.Context(), "SELECT execution_type || ' ' || status FROM jobs.tb_job_run WHERE identifier IN ('before', 'after')")
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || strings.Join(got, ", ") != "http pending, http pending" {
			t.Errorf("%v, %v", got, err)
		}
	}
}
