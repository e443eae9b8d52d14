//go:build unix

package ops

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

func rollout(t *testing.T) (*pgxpool.Pool, Rollout) {
	t.Helper()
	db := open(t)
	addAgent(t, db, "worker", 10, time.Hour, jobs.ExecutionTypes()...)
	addLanes(t, db, jobs.LaneSettings{Service: "first", Type: jobs.Shell}, jobs.LaneSettings{Service: "second", Type: jobs.Shell}, jobs.LaneSettings{Service: "pay", Type: jobs.HTTP})
	exec(t, db, `UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'shell'`)
	r, err := StartRollout(t.Context(), db, RolloutOptions{Type: jobs.Shell, Service: "first", Operation: "op", By: jobs.By{Actor: "anna"}})
	if err != nil {
		t.Fatal(err)
	}
	return db, r
}

func advance(t *testing.T, db *pgxpool.Pool, state, stage string) Rollout {
	t.Helper()
	if _, err := AdvanceRollouts(t.Context(), db, jobs.By{Actor: "ben"}); err != nil {
		t.Fatal(err)
	}
	r, err := LastRollout(t.Context(), db, jobs.Shell)
	if err != nil || r.State != state || r.Stage != stage {
		t.Fatalf("the roll-out is %+v (%v), want %s at %s", r, err, state, stage)
	}
	return *r
}

const offSQL = `SELECT coalesce(string_agg(service_name, ' ' ORDER BY service_name), '') FROM jobs.tb_lane WHERE NOT enabled`

func TestARolloutGoesFromACanaryToAllServices(t *testing.T) {
	db, r := rollout(t)
	if got := one[string](t, db, offSQL); got != "second" || enabledTypes(t, db) != "http shell docker serverless" {
		t.Fatalf("off at the canary: %s; on: %s", got, enabledTypes(t, db))
	}
	if _, err := StartRollout(t.Context(), db, RolloutOptions{Type: jobs.Shell, Service: "second", Operation: "op"}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second roll-out: %v", err)
	}
	advance(t, db, "running", "canary")
	ended(t, db, "first", jobs.Shell, 0, 50, time.Millisecond) // before the stage began: not its affair
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE id = $1`, r.Canary)
	advance(t, db, "running", "hundred")
	ended(t, db, "first", jobs.Shell, 99, 0, time.Millisecond)
	advance(t, db, "running", "hundred")
	ended(t, db, "first", jobs.Shell, 0, 1, time.Millisecond)
	advance(t, db, "running", "all")
	if got := one[string](t, db, offSQL); got != "" {
		t.Errorf("still off: %s", got)
	}
	ended(t, db, "second", jobs.Shell, 100, 0, time.Millisecond)
	if r := advance(t, db, "passed", "all"); !strings.Contains(r.Outcome, "success 100.0 % of 100 attempts") {
		t.Error(r.Outcome)
	}
}

func TestARolloutStopsWhenSuccessDropsAndSwitchesTheTypeOff(t *testing.T) {
	for _, at := range []string{"canary", "hundred", "all"} {
		t.Run(at, func(t *testing.T) {
			db, r := rollout(t)
			if at == "canary" {
				exec(t, db, `UPDATE jobs.tb_job_run SET status = 'failed', error_message = 'no such script' WHERE id = $1`, r.Canary)
			} else {
				exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE id = $1`, r.Canary)
				advance(t, db, "running", "hundred")
				if at == "all" {
					ended(t, db, "first", jobs.Shell, 100, 0, time.Millisecond)
					advance(t, db, "running", "all")
				}
				ended(t, db, "first", jobs.Shell, 8, 3, time.Millisecond)
			}
			r = advance(t, db, "stopped", at)
			if got := enabledTypes(t, db); got != "http docker serverless" {
				t.Errorf("enabled: %s", got)
			}
			if got := one[string](t, db, offSQL); got != "" {
				t.Errorf("services that are still off: %s", got)
			}
			if r.Outcome == "" || one[string](t, db, `SELECT reason FROM jobs.tb_execution_type WHERE execution_type = 'shell'`) != "roll-out stopped: "+r.Outcome {
				t.Errorf("outcome %q", r.Outcome)
			}
		})
	}
}
