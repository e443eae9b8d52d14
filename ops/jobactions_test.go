//go:build unix

package ops

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// addStates enters one job in every state that an action may meet.
func addStates(t *testing.T, db *pgxpool.Pool) {
	t.Helper()
	exec(t, db, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, attempts, max_attempts, started_at, completed_at,
			duration_seconds, retry_at, error_message, updated_at) VALUES
		('pending', 's', 'op', 'pending', 0, 3, NULL, NULL, NULL, NULL, NULL, now()),
		('again', 's', 'op', 'pending', 1, 3, now() - interval '1 hour', NULL, 2, NULL, 'broke once', now()),
		('running', 's', 'op', 'running', 1, 3, now() - interval '1 minute', NULL, NULL, NULL, NULL, now()),
		('completed', 's', 'op', 'completed', 1, 3, now() - interval '1 hour', now() - interval '1 hour', 1, NULL, NULL, now()),
		('retrying', 's', 'op', 'failed', 1, 3, now() - interval '1 hour', now() - interval '59 minutes', 60, now() + interval '1 hour', 'broke', now()),
		('dead', 's', 'op', 'failed', 3, 3, now() - interval '1 hour', now() - interval '1 hour', 1, NULL, 'broke for good', now()),
		('cancelled', 's', 'op', 'cancelled', 2, 2, NULL, now(), NULL, NULL, NULL, now())`)
}

func change(t *testing.T, db *pgxpool.Pool, action JobAction, words string, attempts int) JobResult {
	t.Helper()
	f, err := ParseFilter(words)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := PlanJobs(t.Context(), db, action, f)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ChangeJobs(t.Context(), db, action, f, JobChange{Attempts: attempts, By: jobs.By{Actor: "anna", Origin: "test", Reason: "why not"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Changed != plan.Count {
		t.Errorf("%s %s: %d changed, the plan said %d", action, words, r.Changed, plan.Count)
	}
	return r
}

func text(t *testing.T, db *pgxpool.Pool, sql string, args ...any) (s string) {
	t.Helper()
	if err := db.QueryRow(t.Context(), "SELECT coalesce(("+sql+")::text, '')", args...).Scan(&s); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return s
}

const statesSQL = `SELECT string_agg(identifier || ' ' || status, ', ' ORDER BY identifier) FROM jobs.tb_job_run WHERE service_name = 's'`

func TestRetryPutsFailedAndCancelledJobsBack(t *testing.T) {
	db := open(t)
	addStates(t, db)
	if r := change(t, db, RetryJobs, "service:s", 2); r.Changed != 3 {
		t.Errorf("%+v", r)
	}
	if got := text(t, db, statesSQL); got != "again pending, cancelled pending, completed completed, dead pending, pending pending, retrying pending, running running" {
		t.Error(got)
	}
	got := text(t, db, `SELECT string_agg(concat_ws(' ', identifier, attempts || '/' || max_attempts, error_message), ', ' ORDER BY identifier)
		FROM jobs.tb_job_run WHERE requeued_at > now() - interval '1 minute' AND retry_at IS NULL AND completed_at IS NULL`)
	if got != "cancelled 2/4, dead 3/5 broke for good, retrying 1/3 broke" {
		t.Error(got)
	}
	if got := text(t, db, `SELECT concat_ws(' ', actor, action, target, reason, after_value->>'jobs', after_value->>'attempts') FROM jobs.tb_audit`); got != "anna retry-jobs service:s why not 3 2" {
		t.Errorf("the audit log: %s", got)
	}
}

func TestCancelEndsWhatWaitsAndWhatRuns(t *testing.T) {
	db := open(t)
	addStates(t, db)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	exec(t, db, `UPDATE jobs.tb_job_run SET agent_id = gen_random_uuid() WHERE status = 'running'`)
	if _, err := conn.Exec(t.Context(), "LISTEN specql_control"); err != nil {
		t.Fatal(err)
	}
	if r := change(t, db, CancelJobs, "service:s", 0); r.Changed != 4 {
		t.Errorf("%+v", r)
	}
	if got := text(t, db, statesSQL); got != "again cancelled, cancelled cancelled, completed completed, dead failed, pending cancelled, retrying cancelled, running cancelled" {
		t.Error(got)
	}
	n, err := conn.Conn().WaitForNotification(t.Context())
	if id := text(t, db, `SELECT id FROM jobs.tb_job_run WHERE identifier = 'running'`); err != nil || n.Payload != "cancel "+id {
		t.Errorf("the agent was told %v, %v", n, err)
	}
	// The times and durations of attempts that ended before stay.
	got := text(t, db, `SELECT string_agg(identifier || ' ' || round(duration_seconds), ', ' ORDER BY identifier) FROM jobs.tb_job_run
		WHERE status = 'cancelled' AND duration_seconds IS NOT NULL AND retry_at IS NULL AND completed_at IS NOT NULL`)
	if got != "again 2, retrying 60, running 60" {
		t.Error(got)
	}
	if r := change(t, db, CancelJobs, "service:s", 0); r.Changed != 0 {
		t.Errorf("cancelled again: %+v", r)
	}
	if got := text(t, db, `SELECT count(*) FROM jobs.tb_audit`); got != "1" {
		t.Errorf("%s rows in the audit log, want 1: nothing was changed the second time", got)
	}
}

func TestActionsTakeOnlyTheStatesThatTheFilterNames(t *testing.T) {
	for words, want := range map[string][2]int64{ // retry, cancel
		"status:failed service:s":    {2, 1},
		"dead service:s":             {1, 0},
		"status:cancelled service:s": {1, 0},
		"status:pending service:s":   {0, 2},
		"status:completed service:s": {0, 0},
		"status:dead,running":        {1, 1},
		"again":                      {0, 1},
	} {
		for i, action := range JobActions() {
			db := open(t)
			addStates(t, db)
			if r := change(t, db, action, words, 1); r.Changed != want[i] {
				t.Errorf("%s %s: %d changed, want %d", action, words, r.Changed, want[i])
			}
		}
	}
}

func TestNamedJobsAreAccountedForOneByOne(t *testing.T) {
	db := open(t)
	addStates(t, db)
	exec(t, db, `UPDATE jobs.tb_job_run SET created_at = NULL WHERE identifier = 'dead'`) // an application may do that
	var ids []jobs.ID
	for _, name := range []string{"dead", "completed"} {
		id, err := jobs.ParseID(text(t, db, `SELECT id FROM jobs.tb_job_run WHERE identifier = $1`, name))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	ids = append(ids, jobs.NewID())
	p, err := PlanJobs(t.Context(), db, RetryJobs, Filter{IDs: ids})
	if err != nil || p.Count != 1 || len(p.Unfit) != 1 || p.Unfit[0].Identifier != "completed" || len(p.Missing) != 1 || p.Missing[0] != ids[2] {
		t.Errorf("%+v, %v", p, err)
	}
	if r := change(t, db, RetryJobs, "id:"+ids[0].String(), 1); r.Changed != 1 {
		t.Errorf("%+v", r)
	}
}

func TestAnActionNeedsJobsToBeNamed(t *testing.T) {
	db := open(t)
	addStates(t, db)
	for _, action := range JobActions() {
		if _, err := PlanJobs(t.Context(), db, action, Filter{}); !errors.Is(err, ErrAllJobs) {
			t.Errorf("plan: %v", err)
		}
		if r, err := ChangeJobs(t.Context(), db, action, Filter{}, JobChange{}); !errors.Is(err, ErrAllJobs) || r.Changed != 0 {
			t.Errorf("change: %+v, %v", r, err)
		}
	}
}

func TestManyJobsAreChangedInStepsAndCountedOnce(t *testing.T) {
	db := open(t)
	enqueue(t, db, "many", jobs.HTTP, 2500, time.Hour)
	f := Filter{Services: []string{"many"}}
	plan, err := PlanJobs(t.Context(), db, CancelJobs, f)
	if err != nil || plan.Count != 2500 || len(plan.Sample) != sampleSize {
		t.Errorf("%d, %d in the sample, %v", plan.Count, len(plan.Sample), err)
	}
	var steps []int64
	r, err := ChangeJobs(t.Context(), db, CancelJobs, f, JobChange{By: jobs.By{Actor: "a"}, Progress: func(n int64) { steps = append(steps, n) }})
	if err != nil || r.Changed != 2500 || len(steps) != 3 || steps[0] != 1000 || steps[2] != 2500 {
		t.Errorf("%+v in %v, %v", r, steps, err)
	}
	if got := text(t, db, `SELECT string_agg(after_value->>'jobs', ' ') FROM jobs.tb_audit`); got != "2500" {
		t.Errorf("the audit log counts %s", got)
	}
}

func TestAnInterruptedActionIsCountedAsFarAsItCame(t *testing.T) {
	db := open(t)
	enqueue(t, db, "many", jobs.HTTP, 3500, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := ChangeJobs(ctx, db, CancelJobs, Filter{Services: []string{"many"}}, JobChange{Progress: func(n int64) {
		if n == 2000 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || r.Changed != 2000 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := text(t, db, `SELECT count(*) FROM jobs.tb_job_run WHERE status = 'cancelled'`); got != "2000" {
		t.Errorf("%s are cancelled", got)
	}
	if got := text(t, db, `SELECT string_agg(after_value->>'jobs', ' ') FROM jobs.tb_audit`); got != "2000" {
		t.Errorf("the audit log counts %s", got)
	}
}

func TestAnActionWaitsForNobodysLock(t *testing.T) {
	db := open(t)
	enqueue(t, db, "s", jobs.HTTP, 5, time.Hour)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	lock := func(names ...string) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), `SELECT FROM jobs.tb_job_run WHERE identifier = ANY ($1) FOR UPDATE`, names); err != nil {
			t.Fatal(err)
		}
	}
	lock("s-1", "s-2")
	f := Filter{Services: []string{"s"}}
	r, err := ChangeJobs(t.Context(), db, CancelJobs, f, JobChange{})
	if err != nil || r.Changed != 3 || r.Locked != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tx, err = db.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	lock("s-1", "s-2")
	freed := false
	r, err = ChangeJobs(t.Context(), db, CancelJobs, f, JobChange{Progress: func(int64) {
		if !freed { // after the first try
			freed = true
			if err := tx.Rollback(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil || r.Changed != 2 || r.Locked != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if got := text(t, db, `SELECT string_agg(after_value->>'jobs', ' ' ORDER BY id) FROM jobs.tb_audit`); got != "3 2" {
		t.Errorf("the audit log counts %s", got)
	}
}
