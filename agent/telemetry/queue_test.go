package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// gauge reads one series of a collector; ok is false when it has none.
func gauge(t *testing.T, c prometheus.Collector, name, label string) (v float64, ok bool) {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	for _, m := range scrape(t, r)[name].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetValue() == label {
				return m.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

func (w *world) queue(source Source, log *slog.Logger) *Queue {
	w.t.Helper()
	q, err := NewQueue(w.url, source, log)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(q.Close)
	return q
}

func (w *world) wait(n int, service string) {
	w.t.Helper()
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation)
		SELECT gen_random_uuid(), $1, 'run' FROM generate_series(1, $2)`, service, n)
}

func TestTheDatabaseIsAskedEveryTenSecondsAtMost(t *testing.T) {
	w := newWorld(t)
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, discard)
	now := time.Now()
	q.now = func() time.Time { return now }
	for _, step := range []struct {
		after time.Duration
		want  float64
	}{{0, 2}, {9 * time.Second, 2}, {time.Second, 6}} {
		w.wait(2, "shop")
		now = now.Add(step.after)
		if got, ok := gauge(t, q, "specql_queue_waiting", "http"); !ok || got != step.want {
			t.Errorf("%s later: %v wait, want %v", step.after, got, step.want)
		}
	}
}

func TestTheRegistryDecidesTheTypeOfAWaitingJob(t *testing.T) {
	w := newWorld(t)
	w.wait(3, "report") // the row says http
	w.wait(1, "stranger")
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "report:shell")}}, discard)
	for label, want := range map[string]float64{"shell": 3, "http": 1} {
		if got, _ := gauge(t, q, "specql_queue_waiting", label); got != want {
			t.Errorf("%s: %v wait, want %v", label, got, want)
		}
	}
}

func TestAMillionWaitingJobsAreNotCounted(t *testing.T) {
	w := newWorld(t)
	w.wait(waitingCap+50, "shop")
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, discard)
	if got, _ := gauge(t, q, "specql_queue_waiting", "http"); got != waitingCap {
		t.Errorf("%v wait, want it to end at %d", got, waitingCap)
	}
}

func TestAFailedReadingLeavesTheSeriesOutAndIsSaidOnce(t *testing.T) {
	w := newWorld(t)
	var said journal
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, slog.New(slog.NewTextHandler(&said, nil)))
	now := time.Now()
	q.now = func() time.Time { return now }
	if _, ok := gauge(t, q, "specql_queue_waiting", "http"); !ok {
		t.Fatal("no series although the database is there")
	}
	w.exec("ALTER TABLE jobs.tb_job_run RENAME TO elsewhere")
	for range 3 {
		now = now.Add(queueEvery)
		if v, ok := gauge(t, q, "specql_queue_waiting", "http"); ok {
			t.Errorf("%v wait although it cannot be read", v)
		}
	}
	if n := strings.Count(said.String(), "left out"); n != 1 {
		t.Errorf("said %d times: %s", n, said.String())
	}
	w.exec("ALTER TABLE jobs.elsewhere RENAME TO tb_job_run")
	if _, ok := gauge(t, q, "specql_queue_waiting", "http"); ok {
		t.Error("a broken database is asked again at once")
	}
	now = now.Add(queueEvery)
	if _, ok := gauge(t, q, "specql_queue_waiting", "http"); !ok {
		t.Error("no series although the database is back")
	}
}

// Somebody's lock may hold the table: a scrape waits no longer than the
// deadline, and scrapes that come meanwhile do not ask too.
func TestALockedTableDelaysScrapesOnceAndNotForLong(t *testing.T) {
	w := newWorld(t)
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, discard)
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "LOCK TABLE jobs.tb_job_run"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	var scrapes sync.WaitGroup
	for range 5 {
		scrapes.Go(func() {
			if _, ok := gauge(t, q, "specql_queue_waiting", "http"); ok {
				t.Error("a locked table was read")
			}
		})
	}
	scrapes.Wait()
	if took := time.Since(began); took > 3*queueDeadline {
		t.Errorf("five scrapes took %s: they waited one after the other", took)
	}
	var asking int
	if err := w.pool.QueryRow(w.ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'specql-agent metrics' AND state = 'active'`).Scan(&asking); err != nil || asking != 0 {
		t.Errorf("%d statements go on in the server: %v", asking, err)
	}
}

func TestTheDatabaseIsReadWithBounds(t *testing.T) {
	w := newWorld(t)
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, discard)
	if q.state() == nil {
		t.Fatal("no reading")
	}
	for setting, want := range map[string]string{"statement_timeout": "2s", "lock_timeout": "2s", "transaction_read_only": "on"} {
		var got string
		if err := q.conn.QueryRow(w.ctx, "SHOW "+setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s: %v", setting, got, want, err)
		}
	}
}

func TestClosedLanesSayWhatHoldsThem(t *testing.T) {
	w := newWorld(t)
	config := parse(t, "free:http", "rated:http:rate_limit_per_minute: 1", "costly:http:cost_limits: {max_invocations_per_hour: 1}",
		"broken:http:circuit_breaker: {failure_threshold: 1, recovery_timeout: 300}", "report:shell")
	for _, service := range []string{"free", "rated", "costly", "broken", "report"} {
		w.wait(2, service)
	}
	a := w.start(agent.Options{Slots: 1, Config: config, Runners: []runners.Runner{fake{jobs.HTTP, failing("broken")}, fake{jobs.Shell, failing("")}}, RetryBase: time.Hour})
	by := jobs.By{Actor: "test", Origin: "test", Reason: "test"}
	if _, err := jobs.SetSwitches(w.ctx, w.pool, []jobs.ExecutionType{jobs.Shell}, false, by); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"rated": "rate_limit", "costly": "budget", "broken": "circuit_open", "report": "type_disabled"}
	q := w.queue(a, discard)
	now := time.Now()
	q.now = func() time.Time { now = now.Add(queueEvery); return now }
	closed := func() map[string]string {
		got := map[string]string{}
		for _, lane := range q.state().closed {
			got[lane.Service] = lane.Reason
		}
		return got
	}
	w.until("four lanes are closed", func() bool { return len(closed()) == len(want) })
	for service, reason := range closed() {
		if want[service] != reason {
			t.Errorf("%s is held by %q, want %q", service, reason, want[service])
		}
	}
}

func TestNoScrapeScansTheJobsTable(t *testing.T) {
	w := newWorld(t)
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status)
		SELECT 'done-' || i, 'shop', 'run', 'completed' FROM generate_series(1, 50000) i`)
	w.wait(5000, "shop")
	w.exec("VACUUM ANALYZE jobs.tb_job_run")
	q := w.queue(&still{stats: agent.Stats{Registry: parse(t, "shop:http")}}, discard)
	if q.state() == nil {
		t.Fatal("no reading")
	}
	for name, sql := range map[string]string{"waiting": waitingSQL, "closed": closedSQL} {
		var args []any
		if name == "waiting" {
			args = []any{int64(waitingCap)}
		}
		var plan string
		if err := q.conn.QueryRow(w.ctx, "EXPLAIN (FORMAT json) "+sql, args...).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal([]byte(plan), &tree); err != nil {
			t.Fatal(err)
		}
		if scansJobs(tree) {
			t.Errorf("%s scans jobs.tb_job_run:\n%s", name, plan)
		}
	}
}

func scansJobs(node any) bool {
	switch n := node.(type) {
	case []any:
		for _, c := range n {
			if scansJobs(c) {
				return true
			}
		}
	case map[string]any:
		whole := n["Node Type"] == "Seq Scan" || n["Node Type"] == "Bitmap Heap Scan"
		if whole && n["Relation Name"] == "tb_job_run" {
			return true
		}
		for _, c := range n {
			if scansJobs(c) {
				return true
			}
		}
	}
	return false
}

// failing fails the jobs of one service.
func failing(service string) func(context.Context, runners.Call) (runners.Result, error) {
	return func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Job.Service == service {
			return runners.Result{}, errors.New("no luck")
		}
		return runners.Result{}, nil
	}
}
