package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// fake runs jobs by a function of the test's.
type fake struct {
	typ jobs.ExecutionType
	run func(ctx context.Context, call runners.Call) (runners.Result, error)
}

func (f fake) Type() jobs.ExecutionType { return f.typ }
func (f fake) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	return f.run(ctx, call)
}

// world is one database with any number of agents.
type world struct {
	t    *testing.T
	ctx  context.Context
	url  string
	pool *pgxpool.Pool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	url := devdbtest.New(t, migrationstest.Migrated)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &world{t, ctx, url, pool}
}

func parse(t testing.TB, services ...string) *registry.Config {
	t.Helper()
	var b strings.Builder
	b.WriteString("services:\n")
	for _, s := range services {
		name, typ, _ := strings.Cut(s, ":")
		config := `{ base_url: "http://192.0.2.1" }`
		policy := "{}"
		if typ == "shell" {
			config, policy = `{ working_directory: "/tmp" }`, `{ allowed_commands: ["/bin/true"] }`
		}
		fmt.Fprintf(&b, "  - { name: %s, type: t, category: c, execution_type: %s, runner_config: %s, security_policy: %s,\n"+
			"      operations: [{ name: run, input_schema: {}, output_schema: {} }] }\n", name, typ, config, policy)
	}
	config, diags := registry.Parse("test.yaml", []byte(b.String()), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

// start runs an agent; stop ends it in order and returns Run's error.
func (w *world) start(o Options) (a *Agent, stop func() error) {
	w.t.Helper()
	o.DatabaseURL = w.url
	if o.RetryBase == 0 {
		o.RetryBase = time.Millisecond
	}
	a, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return a, w.run(a)
}

func (w *world) run(a *Agent) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	w.t.Cleanup(func() { a.Halt(); stop() })
	return stop
}

func (w *world) enqueue(n int, service string) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
		SELECT $1 || '-' || gen_random_uuid(), $1, 'run', '{"n": 1}' FROM generate_series(1, $2)`, service, n); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(where string) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, "SELECT count(*) FROM jobs.tb_job_run WHERE "+where).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) scan(into any, sql string, args ...any) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, sql, args...).Scan(into); err != nil {
		w.t.Fatal(err)
	}
}

// order tells an agent what operators want of it.
func (w *world) order(a *Agent, wanted string) {
	w.t.Helper()
	w.until("the agent is registered", func() bool { return w.state(a) != "" })
	w.exec("UPDATE jobs.tb_agent SET wanted = $2 WHERE id = $1", a.ledger.incarnation(), wanted)
}

func (w *world) state(a *Agent) (state string) {
	w.t.Helper()
	w.scan(&state, "SELECT coalesce((SELECT state FROM jobs.tb_agent WHERE id = $1), '')", a.ledger.incarnation())
	return state
}

func regexpMatch(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }

// until looks again whenever the table may have changed, up to the test's end.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("never came true: %s", what)
		}
	}
}

func ok(context.Context, runners.Call) (runners.Result, error) {
	return runners.Result{Output: json.RawMessage(`{"ok": true}`), Security: map[string]any{"isolation": "test"}}, nil
}

func TestFinishedJobsCarryResultUsageDurationAndSecurity(t *testing.T) {
	w := newWorld(t)
	w.enqueue(300, "a")
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("all complete", func() bool { return w.count("status = 'completed'") == 300 })
	if n := w.count(`output_data = '{"ok": true}' AND (resource_usage->>'duration_seconds')::float8 >= 0
		AND duration_seconds IS NOT NULL AND security_context->>'isolation' = 'test' AND attempts = 1
		AND started_at IS NOT NULL AND completed_at >= started_at`); n != 300 {
		t.Errorf("%d of 300 jobs are recorded whole", n)
	}
	w.until("metrics", func() bool {
		var n int
		w.pool.QueryRow(w.ctx, "SELECT coalesce(sum(completed), 0) FROM jobs.tb_job_metric").Scan(&n)
		return n == 300
	})
}

func TestFailedAttemptIsRetriedAndKeptInTheHistory(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Job.Attempt < 3 {
			return runners.Result{}, fmt.Errorf("attempt %d broke", c.Job.Attempt)
		}
		return runners.Result{}, nil
	}}}})
	w.until("completed on the third attempt", func() bool { return w.count("status = 'completed' AND attempts = 3") == 1 })
	var history string
	if err := w.pool.QueryRow(w.ctx, `SELECT string_agg(error_message, '; ' ORDER BY attempt) FROM jobs.tb_job_attempt`).Scan(&history); err != nil {
		t.Fatal(err)
	}
	if history != "attempt 1 broke; attempt 2 broke" {
		t.Errorf("history: %q", history)
	}
}

func TestViolationFailsAtOnceAndIsNotRetried(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		return runners.Result{}, &runners.PolicyError{Service: "a", Rule: "allowed_domains", Offered: "evil.example"}
	}}}})
	w.until("failed for good", func() bool {
		return w.count(`status = 'failed' AND attempts = 1 AND attempts >= max_attempts AND retry_at IS NULL
			AND error_message LIKE 'not allowed%' AND security_context->'violation'->>'rule' = 'allowed_domains'`) == 1
	})
}

func TestSwitchedOffTypeIsHeldByEveryAgentAndGoesOnWhenEnabled(t *testing.T) {
	w := newWorld(t)
	config := parse(t, "web:http", "script:shell")
	both := []runners.Runner{fake{jobs.HTTP, ok}, fake{jobs.Shell, ok}}
	by := jobs.By{Actor: "test", Origin: "test", Reason: "maintenance"}
	w.start(Options{Config: config, Runners: both, Name: "one"})
	if _, err := jobs.SetSwitches(w.ctx, w.pool, []jobs.ExecutionType{jobs.Shell}, false, by); err != nil {
		t.Fatal(err)
	}
	w.start(Options{Config: config, Runners: both, Name: "two"}) // starts later, obeys too
	w.enqueue(50, "script")
	w.enqueue(50, "web")
	w.until("http goes on", func() bool { return w.count("service_name = 'web' AND status = 'completed'") == 50 })
	if n := w.count("service_name = 'script' AND status = 'pending' AND attempts = 0"); n != 50 {
		t.Fatalf("%d of 50 shell jobs are held", n)
	}
	if _, err := jobs.SetSwitches(w.ctx, w.pool, []jobs.ExecutionType{jobs.Shell}, true, by); err != nil {
		t.Fatal(err)
	}
	w.until("shell goes on", func() bool { return w.count("service_name = 'script' AND status = 'completed'") == 50 })
	var audited int
	w.pool.QueryRow(w.ctx, "SELECT count(*) FROM jobs.tb_audit WHERE reason = 'maintenance'").Scan(&audited)
	if audited != 2 {
		t.Errorf("the audit log has %d of 2 changes", audited)
	}
}

func TestUnknownServiceWaitsAndHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	w.enqueue(500, "stranger")
	w.enqueue(20, "a")
	a, _ := w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}, Slots: 5})
	w.until("the known service's jobs", func() bool { return w.count("service_name = 'a' AND status = 'completed'") == 20 })
	if n := w.count("service_name = 'stranger' AND status = 'pending' AND attempts = 0"); n != 500 {
		t.Errorf("%d of 500 still wait untouched", n)
	}
	a.Apply(parse(t, "a:http", "stranger:http")) // a reload that knows it
	w.until("the reload's jobs", func() bool { return w.count("status = 'completed'") == 520 })
}

func TestReloadLeavesRunningJobsTheirSnapshot(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, release := make(chan struct{}), make(chan struct{})
	a, _ := w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		close(began)
		<-release
		return runners.Result{}, nil
	}}}})
	<-began
	a.Apply(parse(t, "b:http"))
	close(release)
	w.until("the job ends well", func() bool { return w.count("status = 'completed'") == 1 })
}

func TestStopLetsRunningJobsFinish(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, release := make(chan struct{}), make(chan struct{})
	_, stop := w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		close(began)
		<-release
		return runners.Result{}, nil
	}}}})
	<-began
	ended := make(chan error)
	go func() { ended <- stop() }()
	w.until("draining is visible", func() bool {
		var n int
		w.pool.QueryRow(w.ctx, "SELECT count(*) FROM jobs.tb_agent WHERE state = 'draining'").Scan(&n)
		return n == 1
	})
	w.enqueue(1, "a") // not claimed any more
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if c, p := w.count("status = 'completed'"), w.count("status = 'pending'"); c != 1 || p != 1 {
		t.Errorf("completed %d, pending %d", c, p)
	}
}

func TestDrainTimeoutHandsBackWithoutCountingTheAttempt(t *testing.T) {
	w := newWorld(t)
	w.enqueue(3, "a")
	var began atomic.Int32
	_, stop := w.start(Options{Drain: time.Millisecond, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, _ runners.Call) (runners.Result, error) {
		began.Add(1)
		<-ctx.Done()
		return runners.Result{}, ctx.Err()
	}}}})
	w.until("all run", func() bool { return began.Load() == 3 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := w.count("status = 'pending' AND attempts = 0 AND started_at IS NULL"); n != 3 {
		t.Errorf("%d of 3 jobs were handed back", n)
	}
}

func TestStopEndsThoughTheDatabaseIsGoneAndSaysWhatIsUnrecorded(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, release := make(chan struct{}), make(chan struct{})
	_, stop := w.start(Options{Lease: time.Second, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		close(began)
		<-release
		return runners.Result{}, nil
	}}}})
	<-began
	admin, err := pgx.Connect(w.ctx, devdbtest.Server(t).URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(w.ctx)
	name := w.pool.Config().ConnConfig.Database
	for _, sql := range []string{
		"ALTER DATABASE " + pgx.Identifier{name}.Sanitize() + " ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'",
	} {
		if _, err := admin.Exec(w.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "1 results unrecorded") {
			t.Errorf("stopped with: %v", err)
		}
	case <-w.ctx.Done():
		t.Fatal("the agent does not stop")
	}
}

func TestCancelInSQLStopsTheRunningAttempt(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, stopped := make(chan struct{}), make(chan error, 1)
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, _ runners.Call) (runners.Result, error) {
		close(began)
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return runners.Result{}, ctx.Err()
	}}}})
	<-began
	if _, err := w.pool.Exec(w.ctx, "UPDATE jobs.tb_job_run SET status = 'cancelled'"); err != nil {
		t.Fatal(err)
	}
	select {
	case cause := <-stopped:
		if !errors.Is(cause, errCancelled) {
			t.Errorf("stopped because: %v", cause)
		}
	case <-w.ctx.Done():
		t.Fatal("the attempt was not stopped")
	}
	if w.count("status = 'cancelled'") != 1 {
		t.Error("the job did not stay cancelled")
	}
}

func TestDeadAgentsJobsAreTakenOverAndItsLateResultChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.enqueue(2, "a")
	config, err := pgx.ParseConfig(w.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := jobs.ConnectForExchanges(w.ctx, config, jobs.Patience{Network: time.Minute, Lock: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	dead := jobs.AgentInfo{ID: jobs.NewID(), Name: "dead", Types: []jobs.ExecutionType{jobs.HTTP}, Slots: 10}
	if err := jobs.Register(w.ctx, conn, dead, time.Hour); err != nil {
		t.Fatal(err)
	}
	claim := jobs.Exchange{Claim: jobs.Claim{Limit: 10, Lanes: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 10}}}}
	got, err := claim.Do(w.ctx, conn, dead.ID)
	if err != nil || len(got.Claimed) != 2 {
		t.Fatalf("claimed %d: %v", len(got.Claimed), err)
	}
	w.pool.Exec(w.ctx, "UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE id = $1", dead.ID)
	w.pool.Exec(w.ctx, "UPDATE jobs.tb_job_run SET max_attempts = 1 WHERE id = $1", got.Claimed[0].ID)
	w.start(Options{Lease: time.Second, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("the job with attempts left is done by another", func() bool { return w.count("status = 'completed' AND attempts = 2") == 1 })
	w.until("the one without is a dead letter", func() bool {
		return w.count("status = 'failed' AND attempts = max_attempts AND error_message LIKE 'agent dead lost its lease%'") == 1
	})
	late := jobs.Exchange{}
	for _, j := range got.Claimed {
		late.Completed = append(late.Completed, jobs.Completion{Job: j, Output: json.RawMessage(`{"late": true}`)})
	}
	out, err := late.Do(w.ctx, conn, dead.ID)
	if err != nil || out.Recorded != 0 {
		t.Errorf("late results: recorded %d, %v", out.Recorded, err)
	}
	if got, err := claim.Do(w.ctx, conn, dead.ID); err != nil || len(got.Claimed) != 0 {
		t.Errorf("a dead agent claimed %d jobs, %v", len(got.Claimed), err)
	}
}

func TestTerminatedBackendsLoseNoJobAndCompleteNoneTwice(t *testing.T) {
	w := newWorld(t)
	const n = 3000
	w.enqueue(n, "a")
	var runs atomic.Int64
	w.start(Options{Lease: 3 * time.Second, Slots: 300, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, c runners.Call) (runners.Result, error) {
		if runs.Add(1)%500 == 0 {
			w.pool.Exec(w.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name LIKE 'specql-agent%'`)
		}
		return runners.Result{}, nil
	}}}})
	w.until("all complete", func() bool { return w.count("status = 'completed'") == n })
	if w.count("attempts > 1") > 0 {
		t.Error("a lost connection was counted as an attempt")
	}
}

func TestResultThatCannotBeStoredFailsItsJobOnly(t *testing.T) {
	w := newWorld(t)
	w.enqueue(20, "good")
	w.enqueue(1, "bad")
	w.start(Options{Config: parse(t, "good:http", "bad:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Job.Service == "bad" {
			return runners.Result{Output: json.RawMessage(`{"n": 1e300000}`)}, nil // beyond numeric
		}
		return runners.Result{Output: json.RawMessage(`{"text": "a\u0000b", "path": "C:\\u0000"}`)}, nil
	}}}})
	w.until("the good ones", func() bool {
		return w.count(`status = 'completed' AND output_data->>'text' = E'a\uFFFDb' AND output_data->>'path' = 'C:\u0000'`) == 20
	})
	w.until("the bad one says why", func() bool {
		return w.count("service_name = 'bad' AND status = 'failed' AND error_message <> '' AND retry_at IS NULL") == 1
	})
}

func TestPanickingRunnerFailsItsJobOnly(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) { panic("boom") }}}})
	w.until("failed", func() bool { return w.count("status = 'failed' AND error_message LIKE '%panicked: boom%'") == 1 })
}

func TestOptionsNameTheFieldThatIsWrong(t *testing.T) {
	_, err := New(Options{Slots: -1, Lease: time.Millisecond})
	for _, word := range []string{"registry", "runner", "slots", "lease"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not named: %v", word, err)
		}
	}
}

func TestBackoffDoublesWithFullJitterUpToItsCap(t *testing.T) {
	a := &Agent{opt: Options{RetryBase: time.Second, RetryCap: time.Minute}}
	for attempt, ceiling := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 60: time.Minute, 5000: time.Minute} {
		var longest time.Duration
		for range 2000 {
			longest = max(longest, a.backoff(attempt, nil))
		}
		if longest > ceiling || longest < ceiling*9/10 {
			t.Errorf("attempt %d: longest of 2000 is %s, ceiling %s", attempt, longest, ceiling)
		}
	}
	if d := a.backoff(1, &runners.RetryAfterError{Err: errors.New("x"), After: 7 * time.Minute}); d < 7*time.Minute {
		t.Errorf("Retry-After of 7 minutes gave %s", d)
	}
}

// worded is a runner's own words for what ended it.
type worded struct {
	error
	text string
}

func (w worded) Error() string { return w.text }
func (w worded) Unwrap() error { return w.error }

func TestATimeoutIsNamedOnce(t *testing.T) {
	w := newWorld(t)
	w.start(Options{Config: parse(t, "a:http", "b:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, c runners.Call) (runners.Result, error) {
		<-ctx.Done()
		if c.Service.Name == "a" {
			return runners.Result{}, ctx.Err()
		}
		return runners.Result{}, worded{ctx.Err(), "POST http://b: timed out after 1s"}
	}}}})
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, timeout_seconds, max_attempts) VALUES ('1', 'a', 'run', 1, 1), ('2', 'b', 'run', 1, 1)`)
	w.until("both have failed", func() bool { return w.count("status = 'failed'") == 2 })
	var a, b string
	w.scan(&a, "SELECT error_message FROM jobs.tb_job_run WHERE service_name = 'a'")
	w.scan(&b, "SELECT error_message FROM jobs.tb_job_run WHERE service_name = 'b'")
	if a != "timed out after 1s: context deadline exceeded" || b != "POST http://b: timed out after 1s" {
		t.Errorf("the timeouts are told as %q and %q", a, b)
	}
}
