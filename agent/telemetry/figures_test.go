package telemetry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// scrape gathers the metrics into a map of names.
func scrape(t *testing.T, g prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, f := range families {
		all[f.GetName()] = f
	}
	return all
}

// find returns the metric with the labels, given as name=value.
func find(t *testing.T, all map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		has := map[string]bool{}
		for _, l := range m.GetLabel() {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		if !slices.ContainsFunc(labels, func(l string) bool { return !has[l] }) {
			return m
		}
	}
	t.Errorf("no %s with %v", name, labels)
	return &dto.Metric{}
}

func TestMetricsTellWhatRealJobsDid(t *testing.T) {
	w := newWorld(t)
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, created_at, max_attempts)
		SELECT 'good-' || i, 'shop', 'run', now() - interval '1 hour', 3 FROM generate_series(1, 20) i UNION ALL
		SELECT 'bad-' || i, 'shop', 'run', now(), 1 FROM generate_series(1, 3) i UNION ALL
		SELECT 'refused', 'shop', 'run', now(), 3 UNION ALL
		SELECT 'odd', 'shop', 'invented', now(), 3 UNION ALL
		SELECT 'script-' || i, 'report', 'run', now(), 3 FROM generate_series(1, 5) i UNION ALL
		SELECT 'stranger-' || i, 'stranger', 'run', now() - interval '2 hours', 3 FROM generate_series(1, 7) i`)
	web := fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		switch word, _, _ := strings.Cut(c.Job.Identifier, "-"); word {
		case "bad":
			return runners.Result{}, errors.New("no luck")
		case "refused":
			return runners.Result{}, &runners.PolicyError{Service: "shop", Rule: "allowed_domains", Offered: "evil.example"}
		}
		return runners.Result{}, nil
	}}
	script := fake{jobs.Shell, func(context.Context, runners.Call) (runners.Result, error) {
		return runners.Result{Usage: runners.Usage{CPUUsagePercent: new(50.0), PeakMemoryMB: new(8.0)}}, nil
	}}
	a := w.start(agent.Options{Name: "one", Version: "1.2.3", Slots: 8, Config: parse(t, "shop:http", "report:shell", "idle:http"), Runners: []runners.Runner{web, script}})
	queue, err := NewQueue(w.url, a, discard)
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	r := NewRegistry(NewFigures(a), queue)
	w.until("all jobs are done and recorded", func() bool {
		var left int
		if err := w.pool.QueryRow(w.ctx, `SELECT count(*) FROM jobs.tb_job_run WHERE service_name <> 'stranger' AND status IN ('pending', 'running')`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		s := a.Stats()
		return left == 0 && s.Running == 0 && s.Unrecorded == 0
	})

	all := scrape(t, r)
	value := func(name string, labels ...string) float64 {
		t.Helper()
		m := find(t, all, name, labels...)
		return m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	hash := a.Stats().Registry.Hash
	for _, c := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{20, "specql_jobs_total", []string{"execution_type=http", "service=shop", "operation=run", "outcome=completed"}},
		{4, "specql_jobs_total", []string{"execution_type=http", "service=shop", "operation=run", "outcome=failed"}},
		{1, "specql_jobs_total", []string{"execution_type=http", "service=shop", "operation=(unknown)", "outcome=failed"}},
		{5, "specql_jobs_total", []string{"execution_type=shell", "service=report", "operation=run", "outcome=completed"}},
		{0, "specql_jobs_total", []string{"execution_type=http", "service=idle", "operation=run", "outcome=failed"}},
		{5, "specql_dead_letters_total", []string{"execution_type=http", "service=shop"}},
		{1, "specql_violations_total", []string{"execution_type=http", "service=shop", "rule=allowed_domains"}},
		{8 << 20, "specql_job_memory_peak_bytes", []string{"execution_type=shell", "service=report"}},
		{8, "specql_slots", nil},
		{0, "specql_running", nil},
		{0, "specql_unrecorded_results", nil},
		{1, "specql_agent_info", []string{"name=one", "version=1.2.3"}},
		{1, "specql_agent_state", []string{"state=running"}},
		{0, "specql_agent_state", []string{"state=paused"}},
		{1, "specql_agent_ready", nil},
		{1, "specql_registry_info", []string{"hash=" + hash, "environment="}},
		{1, "specql_registry_reload_success", nil},
		{0, "specql_registry_reloads_total", []string{"outcome=applied"}},
		{0, "specql_leases_lost_total", nil},
		{0, "specql_late_results_total", nil},
		{0, "specql_jobs_taken_over_total", nil},
		{1, "specql_database_connected", []string{"for=queue"}},
		{1, "specql_database_connected", []string{"for=wake-ups"}},
		{0, "specql_database_reconnects_total", nil},
		{7, "specql_queue_waiting", []string{"execution_type=http"}},
		{0, "specql_queue_waiting", []string{"execution_type=shell"}},
		{0, "specql_queue_oldest_waiting_seconds", []string{"execution_type=shell"}},
	} {
		if got := value(c.name, c.labels...); got != c.want {
			t.Errorf("%s%v = %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if age := value("specql_queue_oldest_waiting_seconds", "execution_type=http"); age < 7200 || age > 7300 {
		t.Errorf("the oldest job waits for %v s", age)
	}
	if at := value("specql_registry_reload_timestamp_seconds"); time.Since(time.Unix(int64(at), 0)) > 2*time.Minute {
		t.Errorf("the registry was applied at %v", at)
	}

	duration := find(t, all, "specql_job_duration_seconds", "service=shop").GetHistogram()
	if duration.GetSampleCount() != 25 || duration.GetSampleSum() <= 0 || duration.GetSampleSum() > 60 {
		t.Errorf("%d attempts took %v s", duration.GetSampleCount(), duration.GetSampleSum())
	}
	wait := find(t, all, "specql_job_wait_seconds", "service=shop").GetHistogram()
	if wait.GetSampleCount() != 25 || wait.GetSampleSum() < 20*3600 || wait.GetSampleSum() > 20*3700 {
		t.Errorf("%d jobs waited %v s", wait.GetSampleCount(), wait.GetSampleSum())
	}
	for _, b := range wait.GetBucket() {
		if b.GetUpperBound() > 100 && b.GetCumulativeCount() != 5 {
			t.Errorf("%d jobs waited up to %v s, want the 5 new ones", b.GetCumulativeCount(), b.GetUpperBound())
		}
	}
	cpu := find(t, all, "specql_job_cpu_ratio", "service=report").GetSummary()
	if cpu.GetSampleCount() != 5 || cpu.GetSampleSum() != 2.5 {
		t.Errorf("CPU: %d samples, sum %v", cpu.GetSampleCount(), cpu.GetSampleSum())
	}
	memory := find(t, all, "specql_job_memory_bytes", "service=report").GetSummary()
	if memory.GetSampleCount() != 5 || memory.GetSampleSum() != 5*8<<20 {
		t.Errorf("memory: %d samples, sum %v", memory.GetSampleCount(), memory.GetSampleSum())
	}
	exchanges := find(t, all, "specql_exchange_seconds").GetHistogram()
	results := find(t, all, "specql_exchange_results").GetHistogram()
	claims := find(t, all, "specql_exchange_claims").GetHistogram()
	if exchanges.GetSampleCount() == 0 || exchanges.GetSampleCount() != results.GetSampleCount() {
		t.Errorf("%d exchanges, %d with results", exchanges.GetSampleCount(), results.GetSampleCount())
	}
	if results.GetSampleSum() != 30 || claims.GetSampleSum() != 30 {
		t.Errorf("exchanges recorded %v and claimed %v of 30 jobs", results.GetSampleSum(), claims.GetSampleSum())
	}
	for _, m := range all["specql_jobs_total"].GetMetric() {
		if strings.Contains(m.String(), "stranger") || strings.Contains(m.String(), "invented") {
			t.Errorf("a row made a label: %s", m)
		}
	}
	lint(t, r)
}

func lint(t *testing.T, r prometheus.Gatherer) {
	t.Helper()
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "specql_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestReloadsAndStatesBecomeMetrics(t *testing.T) {
	s := everything(t)
	s.stats.Rejected = "test.yaml:1:1: odd"
	s.stats.State = jobs.AgentDraining
	s.health.NotReady = []string{"the agent is draining"}
	all := scrape(t, NewRegistry(NewFigures(s)))
	for want, m := range map[*dto.Metric]float64{
		find(t, all, "specql_registry_reload_success"):                    0,
		find(t, all, "specql_registry_reloads_total", "outcome=applied"):  3,
		find(t, all, "specql_registry_reloads_total", "outcome=rejected"): 2,
		find(t, all, "specql_agent_state", "state=draining"):              1,
		find(t, all, "specql_agent_state", "state=running"):               0,
		find(t, all, "specql_agent_ready"):                                0,
		find(t, all, "specql_database_connected", "for=queue"):            0,
		find(t, all, "specql_jobs_total", "outcome=cancelled"):            1,
		find(t, all, "specql_jobs_total", "outcome=handed_back"):          2,
		find(t, all, "specql_jobs_total", "outcome=lease_lost"):           3,
	} {
		if got := want.GetCounter().GetValue() + want.GetGauge().GetValue(); got != m {
			t.Errorf("%v, want %v", want, m)
		}
	}
}

// everything is an agent with a value in each of its metrics.
func everything(t testing.TB) *still {
	total := agent.Total{Metric: jobs.Metric{Type: jobs.HTTP, Service: "shop", Operation: "run", Completed: 5, Failed: 1, Violations: 1,
		Busy: 6 * time.Second, Waited: time.Second, CPUPercentSum: 50, CPUSamples: 1, MemoryMBSum: 8, MemorySamples: 1, MemoryMBPeak: 8},
		Cancelled: 1, HandedBack: 2, LeaseLost: 3, DeadLetters: 1, Rules: map[string]int64{"allowed_domains": 1}}
	for range 6 {
		total.Duration.Add(time.Second)
		total.Wait.Add(time.Millisecond)
	}
	return &still{stats: agent.Stats{Name: "one", Version: "1", State: jobs.AgentRunning, Slots: 10, Running: 1,
		Types: []jobs.ExecutionType{jobs.HTTP}, Totals: []agent.Total{total}, Registry: parse(t, "shop:http"), AppliedAt: time.Now(),
		Reloads: agent.Reloads{Applied: 3, Rejected: 2}, Connected: map[string]bool{"queue": false}}}
}

// Buckets are sums of finer ones: a count may not lie on the wrong side of a
// bound.
func TestBucketsAreExact(t *testing.T) {
	for _, bounds := range [][]time.Duration{jobBounds, exchangeBounds} {
		for _, b := range bounds {
			var h jobs.Histogram
			h.Add(b)
			h.Add(b + b/1000)
			if got := h.UpTo(b); got != 1 {
				t.Errorf("%s and a little more: %d are up to %s", b, got, b)
			}
		}
	}
}

func BenchmarkScrapingAHundredServices(b *testing.B) {
	s := everything(b)
	total := s.stats.Totals[0]
	s.stats.Totals = nil
	names := make([]string, 100)
	for i := range names {
		total.Service = "service_" + string(rune('a'+i/10)) + string(rune('a'+i%10))
		names[i] = total.Service + ":http"
		s.stats.Totals = append(s.stats.Totals, total)
	}
	s.stats.Registry = parse(b, names...)
	r := prometheus.NewRegistry()
	r.MustRegister(NewFigures(s))
	for b.Loop() {
		if _, err := r.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
