//go:build unix

package ops

import (
	"context"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// shop has lanes of every type, with jobs that wait, will be retried and run.
func shop(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := open(t)
	addAgent(t, db, "worker", 10, time.Hour, jobs.ExecutionTypes()...)
	addLanes(t, db, jobs.LaneSettings{Service: "pay", Type: jobs.HTTP}, jobs.LaneSettings{Service: "script", Type: jobs.Shell, Fallback: true},
		jobs.LaneSettings{Service: "model", Type: jobs.Docker})
	enqueue(t, db, "pay", jobs.HTTP, 4, 0)
	enqueue(t, db, "script", jobs.HTTP, 2500, 0) // rows that do not know yet that it is shell
	enqueue(t, db, "model", jobs.Docker, 5, 0)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'failed', attempts = 1, retry_at = now() + interval '1 hour' WHERE identifier = 'model-1'`)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'running', attempts = 1, started_at = now() WHERE identifier IN ('model-2', 'pay-1')`)
	return db
}

func enabledTypes(t *testing.T, db *pgxpool.Pool) string {
	t.Helper()
	switches, err := jobs.Switches(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	var on []string
	for _, s := range switches {
		if s.Enabled {
			on = append(on, string(s.Type))
		}
	}
	return strings.Join(on, " ")
}

func one[T any](t *testing.T, db *pgxpool.Pool, sql string) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return v
}

const tableSQL = `SELECT md5(string_agg(concat_ws(' ', identifier, status, attempts, max_attempts, requeued_at, created_at), ',' ORDER BY identifier)) FROM jobs.tb_job_run`

func TestRollbackDoesWhatItsPlanSaysAndIsUndoneExactly(t *testing.T) {
	db := shop(t)
	exec(t, db, `UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'serverless'`) // stays off after the undoing
	exec(t, db, `UPDATE jobs.tb_job_run SET retry_at = NULL, status = 'pending' WHERE identifier = 'model-1'`)
	before := one[string](t, db, tableSQL)
	o := RollbackOptions{Cancel: true, By: jobs.By{Actor: "anna", Origin: "test", Reason: "errors"}}
	plan, err := PlanRollback(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Pending != 2504 || plan.Running != 1 || len(plan.Services) != 2 || len(plan.SwitchOff) != 2 {
		t.Fatalf("plan: %+v", plan)
	}
	done, err := RollBack(t.Context(), db, o)
	if err != nil {
		t.Fatal(err)
	}
	if done.Waiting != plan.Waiting() || done.Cancelled != plan.Waiting() || done.Running != plan.Running || done.Left != 1 || done.State != "done" {
		t.Errorf("the plan was %+v, it did %+v", plan, done)
	}
	if got := enabledTypes(t, db); got != "http" {
		t.Errorf("enabled: %s", got)
	}
	if n := one[int64](t, db, `SELECT count(*) FROM jobs.tb_job_run WHERE status = 'cancelled'`); n != plan.Waiting() {
		t.Errorf("%d jobs are cancelled, the plan said %d", n, plan.Waiting())
	}
	again, err := RollBack(t.Context(), db, RollbackOptions{By: o.By})
	if err != nil || again.Already || again.ID != done.ID {
		t.Errorf("what was left running is waited for again: %+v, %v", again, err)
	}
	undone, err := UndoRollback(t.Context(), db, o.By, nil)
	if err != nil || undone.Restored != plan.Waiting() {
		t.Fatalf("undo: %+v, %v", undone, err)
	}
	if got := enabledTypes(t, db); got != "http shell docker" {
		t.Errorf("enabled after the undoing: %s", got)
	}
	if got := one[string](t, db, tableSQL); got != before {
		t.Error("the jobs are not what they were before")
	}
	if _, err := UndoRollback(t.Context(), db, o.By, nil); !errors.Is(err, ErrNoRollback) {
		t.Errorf("a second undoing: %v", err)
	}
	if got := one[string](t, db, `SELECT string_agg(action, ' ' ORDER BY id) FROM jobs.tb_audit WHERE actor = 'anna' AND target = 'http-only'`); got !=
		"rollback rollback-done rollback rollback-done undo-rollback" {
		t.Errorf("audit log: %s", got)
	}
}

func TestRollbackHoldsWhatWaitsAndTellsARetryToo(t *testing.T) {
	db := shop(t)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE status = 'running'`)
	before := one[string](t, db, tableSQL)
	o := RollbackOptions{By: jobs.By{Actor: "anna"}}
	plan, err := PlanRollback(t.Context(), db, o)
	if err != nil || plan.Retrying != 1 || plan.Pending != 2503 {
		t.Fatalf("plan: %+v, %v", plan, err)
	}
	done, err := RollBack(t.Context(), db, o)
	if err != nil || done.Held != plan.Waiting() || done.Cancelled != 0 || done.Left != 0 {
		t.Fatalf("it did %+v, %v", done, err)
	}
	if got := one[string](t, db, tableSQL); got != before {
		t.Error("held jobs were changed")
	}
	again, err := RollBack(t.Context(), db, o)
	if err != nil || !again.Already || again.ID != done.ID {
		t.Errorf("done again: %+v, %v", again, err)
	}
}

// A service on its fallback is http's already.
func TestRollbackLeavesFallbacksAndHTTPAlone(t *testing.T) {
	db := shop(t)
	if _, err := SwitchServices(t.Context(), db, []string{"script"}, jobs.FallBack, jobs.By{Actor: "anna"}); err != nil {
		t.Fatal(err)
	}
	done, err := RollBack(t.Context(), db, RollbackOptions{Cancel: true, By: jobs.By{Actor: "anna"}})
	if err != nil || done.Cancelled != 4 {
		t.Fatalf("%+v, %v", done, err)
	}
	if n := one[int64](t, db, `SELECT count(*) FROM jobs.tb_job_run WHERE status = 'pending' AND service_name IN ('pay', 'script')`); n != 2503 {
		t.Errorf("%d jobs of http services wait, want 2503", n)
	}
}

func TestAnInterruptedRollbackIsBroughtToItsEndByRunningItAgain(t *testing.T) {
	for _, at := range []string{"cancel waiting jobs", "wait for running jobs"} {
		t.Run(at, func(t *testing.T) {
			db := shop(t)
			ctx, interrupt := context.WithCancel(t.Context())
			o := RollbackOptions{Cancel: true, Grace: time.Minute, StopRunning: true, By: jobs.By{Actor: "anna", Reason: "errors"}}
			o.Progress = func(s RollbackStep) {
				if s.Step == at && (s.Done > 0 || at == "wait for running jobs") {
					interrupt()
				}
			}
			if _, err := RollBack(ctx, db, o); err == nil {
				t.Fatal("it was not interrupted")
			}
			if got := enabledTypes(t, db); got != "http" {
				t.Errorf("interrupted, the types must be off: %s", got)
			}
			exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE identifier = 'model-2'`) // it ends meanwhile
			// Another operator, with other wishes: the rollback keeps its own.
			done, err := RollBack(t.Context(), db, RollbackOptions{By: jobs.By{Actor: "ben"}})
			if err != nil || !done.Resumed || done.Cancelled != 2504 || done.State != "done" || done.Actor != "anna" {
				t.Fatalf("%+v, %v", done, err)
			}
			undone, err := UndoRollback(t.Context(), db, jobs.By{Actor: "ben"}, nil)
			if err != nil || undone.Restored != 2504 {
				t.Errorf("undo: %+v, %v", undone, err)
			}
		})
	}
}

func TestConcurrentOperatorsAreToldOfEachOther(t *testing.T) {
	db := shop(t)
	waiting, goOn := make(chan bool, 100), make(chan bool)
	o := RollbackOptions{Grace: time.Minute, By: jobs.By{Actor: "anna", Origin: "her host", Reason: "errors"}}
	o.Progress = func(s RollbackStep) {
		if s.Step == "wait for running jobs" {
			waiting <- true
			<-goOn
		}
	}
	ended := make(chan error)
	go func() {
		_, err := RollBack(context.WithoutCancel(t.Context()), db, o)
		ended <- err
	}()
	<-waiting
	for name, try := range map[string]func() error{
		"rollback": func() error {
			_, err := RollBack(t.Context(), db, RollbackOptions{By: jobs.By{Actor: "ben"}})
			return err
		},
		"undo": func() error { _, err := UndoRollback(t.Context(), db, jobs.By{Actor: "ben"}, nil); return err },
	} {
		var busy *RollbackBusyError
		if err := try(); !errors.As(err, &busy) || busy.Rollback.Actor != "anna" || !strings.Contains(err.Error(), "errors") {
			t.Errorf("%s of another one: %v", name, err)
		}
	}
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE identifier = 'model-2'`)
	close(goOn)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

const firstRegistry = `services:
  - { name: script, type: t, category: c, execution_type: http, runner_config: { base_url: "http://192.0.2.1" }, operations: [{ name: op }] }
`
const secondRegistry = `# it is shell now
services:
  - { name: script, type: t, category: c, execution_type: shell, runner_config: { working_directory: /tmp }, security_policy: { allowed_commands: [/bin/true] }, operations: [{ name: op }] }
`

// history writes both versions down as an agent does, and the second to a file.
func history(t *testing.T, db *pgxpool.Pool) (file, first, second string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "service_registry.yaml")
	hash := func(text string) string { return registry.Sketch(file, []byte(text), "").Hash }
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for _, text := range []string{firstRegistry, secondRegistry} {
		if _, err := jobs.KeepVersion(t.Context(), conn, jobs.RegistryVersion{Hash: hash(text), File: file, Document: text, Services: 1, Agent: "worker", Host: "host"},
			jobs.By{}, func(string, string) string { return "" }); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return file, hash(firstRegistry), hash(secondRegistry)
}

func TestRollbackReturnsToAnEarlierRegistryAndBack(t *testing.T) {
	db := open(t)
	file, first, second := history(t, db)
	git := func(args ...string) {
		t.Helper()
		out, err := osexec.Command("git", append([]string{"-C", filepath.Dir(file), "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	os.WriteFile(file, []byte(firstRegistry), 0o640)
	git("add", ".")
	git("commit", "-qm", "first")
	os.WriteFile(file, []byte(secondRegistry), 0o640)
	git("commit", "-qam", "second")

	for _, name := range []string{"previous", first[:8], "git:HEAD~1"} {
		t.Run(name, func(t *testing.T) {
			o := RollbackOptions{Registry: name, By: jobs.By{Actor: "anna"}}
			plan, err := PlanRollback(t.Context(), db, o)
			if err != nil || plan.Registry.From != second || plan.Registry.To != first || !strings.Contains(plan.Registry.Changes, "script") {
				t.Fatalf("plan: %+v, %v", plan.Registry, err)
			}
			done, err := RollBack(t.Context(), db, o)
			if err != nil || len(done.Behind) != 0 {
				t.Fatalf("%+v, %v", done, err)
			}
			if text, _ := os.ReadFile(file); string(text) != firstRegistry {
				t.Errorf("the file holds %s", text)
			}
			if info, _ := os.Stat(file); info.Mode().Perm() != 0o640 {
				t.Errorf("its permissions are %v", info.Mode())
			}
			if again, err := RollBack(t.Context(), db, o); err != nil || !again.Already {
				t.Errorf("again: %+v, %v", again, err)
			}
			if _, err := UndoRollback(t.Context(), db, o.By, nil); err != nil {
				t.Fatal(err)
			}
			if text, _ := os.ReadFile(file); string(text) != secondRegistry {
				t.Errorf("after the undoing the file holds %s", text)
			}
			if left, _ := filepath.Glob(file + ".*"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestARegistryThatCannotBeRestoredIsRefusedBeforeAnythingHappens(t *testing.T) {
	db := open(t)
	file, _, _ := history(t, db)
	exec(t, db, `UPDATE jobs.tb_registry_version SET document = replace(document, 'base_url', 'Base_url') WHERE document LIKE '%execution_type: http%'`)
	for name, want := range map[string]string{
		"previous": "holds secrets", "zz": `there is no registry version "zz"`, "git:nowhere": "git has no", "git:": "names no reference", "git:--help": "names no reference",
	} {
		_, err := RollBack(t.Context(), db, RollbackOptions{Registry: name, By: jobs.By{Actor: "anna"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := PlanRollback(t.Context(), db, RollbackOptions{Registry: "previous"}); err == nil || !strings.Contains(err.Error(), "is not on this host") {
		t.Errorf("without the file: %v", err)
	}
	if got := enabledTypes(t, db); got != "http shell docker serverless" {
		t.Errorf("enabled: %s", got)
	}
}
