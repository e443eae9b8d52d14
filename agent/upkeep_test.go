package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// old fills the tables with what upkeep removes.
func (w *world) old() {
	w.exec(`INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, created_at, updated_at)
		SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'old-' || i, 'a', 'run', 'completed', now() - interval '2 hours', now() - interval '2 hours'
		  FROM generate_series(1, 5000) i`)
	w.exec(`INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, created_at, updated_at)
		SELECT ('ff000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'foreign-' || i, 'a', 'run', 'completed', now() - interval '2 hours', now() - interval '2 hours'
		  FROM generate_series(1, 10) i`)
	w.exec(`INSERT INTO jobs.tb_job_metric (minute, execution_type, service_name, operation, completed, duration_hist, wait_hist)
		SELECT date_trunc('hour', now()) - interval '27 hours' + make_interval(mins => i), 'http', 'a', 'run', 1, '{1}', '{1}' FROM generate_series(0, 59) i`)
	w.exec(`INSERT INTO jobs.tb_agent (id, name, host, pid, version, execution_types, slots, lease_expires_at)
		VALUES (gen_random_uuid(), 'gone', 'h', 1, '1', '{http}', 1, now() - interval '8 days')`)
}

func (w *world) outcome(task jobs.Task) string {
	return w.text(`SELECT agent_name || ': ' || outcome FROM jobs.tb_upkeep WHERE task = $1 AND outcome <> ''`, string(task))
}

func TestSomeAgentDoesTheUpkeepForAll(t *testing.T) {
	w := newWorld(t)
	w.old()
	for _, name := range []string{"one", "two", "three"} {
		w.start(Options{Name: name, Retention: time.Hour, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	}
	for task, want := range map[jobs.Task]string{jobs.Retention: ": 5010 jobs deleted", jobs.RollUpMetrics: ": 1 hours summed up, 0 rows dropped",
		jobs.ForgetAgents: ": 1 agents, 0 lanes and 0 slices forgotten"} {
		w.until(string(task)+want, func() bool { return strings.HasSuffix(w.outcome(task), want) })
	}
	if n := w.count("true"); n != 0 {
		t.Errorf("%d old jobs are left", n)
	}
	if got := w.text(`SELECT count(*) || ' ' || sum(completed) FROM jobs.tb_job_metric`); got != "1 60" {
		t.Errorf("figures: %s", got)
	}
	if n := w.text(`SELECT count(*) FROM jobs.tb_agent WHERE name = 'gone'`); n != "0" {
		t.Error("an agent that went a week ago is remembered")
	}
}

func TestWithoutRetentionNoJobIsDeleted(t *testing.T) {
	w := newWorld(t)
	w.old()
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("the other upkeep", func() bool { return w.outcome(jobs.RollUpMetrics) != "" && w.outcome(jobs.ForgetAgents) != "" })
	if n := w.count("true"); n != 5010 {
		t.Errorf("%d of 5010 jobs are left", n)
	}
	if _, err := New(Options{Retention: time.Minute}); err == nil || !strings.Contains(err.Error(), "retention") {
		t.Errorf("a retention of a minute: %v", err)
	}
}

func TestUpkeepThatFailsCostsNoLease(t *testing.T) {
	w := newWorld(t)
	w.exec(`DROP TABLE jobs.tb_upkeep`)
	a, _ := w.start(Options{Lease: time.Second, Retention: time.Hour, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("heartbeats for longer than a lease", func() bool {
		return w.text(`SELECT heartbeat_at > started_at + interval '1.5 seconds' FROM jobs.tb_agent`) == "true"
	})
	w.enqueue(10, "a")
	w.until("jobs go on", func() bool { return w.count("status = 'completed'") == 10 })
	if a.counts.leasesLost.Load() > 0 || w.text(`SELECT count(*) FROM jobs.tb_agent`) != "1" {
		t.Error("the lease was lost")
	}
	if n := a.Stats().Reconnects; n > 0 {
		t.Errorf("the connection of the heartbeats was given up %d times", n)
	}
}
