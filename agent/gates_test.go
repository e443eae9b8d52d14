package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// configured parses a registry of one http service with more of a policy.
func configured(t *testing.T, policy string) *registry.Config {
	t.Helper()
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: gated
    type: t
    category: c
    runner_config: { base_url: "http://192.0.2.1" }
    security_policy: `+policy+`
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
  - name: free
    type: t
    category: c
    runner_config: { base_url: "http://192.0.2.1" }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

func (w *world) held(service string) (reason string) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, `SELECT coalesce(max(held), '') FROM jobs.v_job_held
		WHERE service_name = $1 AND id IN (SELECT id FROM jobs.tb_job_run WHERE status = 'pending')`, service).Scan(&reason); err != nil {
		w.t.Fatal(err)
	}
	return reason
}

func TestRateLimitHoldsAcrossAgentsAndHoldsNobodyElseUp(t *testing.T) {
	w := newWorld(t)
	const limit = 40
	config := configured(t, `{ rate_limit_per_minute: 40 }`)
	w.enqueue(300, "gated")
	w.enqueue(500, "free")
	for _, name := range []string{"one", "two", "three"} {
		w.start(Options{Name: name, Config: config, Slots: 30, Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	}
	w.until("the other service", func() bool { return w.count("service_name = 'free' AND status = 'completed'") == 500 })
	w.until("the limit is used up", func() bool { return w.count("service_name = 'gated' AND status = 'completed'") == limit })
	w.until("the reason is visible", func() bool { return regexpMatch(`^held: rate limit, next in \d+ s$`, w.held("gated")) })
	if n := w.count("service_name = 'gated' AND attempts > 0"); n != limit {
		t.Errorf("%d jobs were started within the minute, limit %d", n, limit)
	}
	if n := w.count("service_name = 'gated' AND status = 'pending' AND attempts = 0"); n != 300-limit {
		t.Errorf("%d jobs wait untouched, want %d", n, 300-limit)
	}
	// The minute passes: what was spent leaves the window.
	w.exec("UPDATE jobs.tb_lane_spent SET slice = slice - 101")
	w.exec("SELECT pg_notify('specql_control', 'switch http')")
	w.until("the lane opens by itself for as many again", func() bool {
		return w.count("service_name = 'gated' AND status = 'completed'") == 2*limit
	})
}

func TestHourlyBudgetHoldsAcrossAgentsAndSaysSo(t *testing.T) {
	w := newWorld(t)
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: resizer
    type: function
    category: media
    execution_type: serverless
    runner_config: { provider: aws, function_name: resize, region: us-east-1 }
    security_policy:
      allowed_providers: [aws]
      allowed_regions: [us-east-1]
      cost_limits: { max_invocations_per_hour: 7 }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	w.enqueue(30, "resizer")
	for range 2 {
		w.start(Options{Config: config, Runners: []runners.Runner{fake{jobs.Serverless, ok}}})
	}
	w.until("the budget is spent", func() bool { return w.count("status = 'completed'") == 7 })
	w.until("it shows", func() bool {
		return regexpMatch(`^held: budget of the hour is spent, next in \d+ s$`, w.held("resizer"))
	})
	if n := w.count("attempts > 0"); n != 7 {
		t.Errorf("%d jobs were started within the hour, budget 7", n)
	}
}

func TestCircuitOpensForAllAgentsLetsOneTryAndCloses(t *testing.T) {
	w := newWorld(t)
	config := configured(t, `{ circuit_breaker: { failure_threshold: 5, recovery_timeout: 3600 } }`)
	w.enqueue(50, "gated")
	var broken atomic.Bool
	broken.Store(true)
	var runs atomic.Int64
	run := fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Service.Name == "gated" {
			runs.Add(1)
			if broken.Load() {
				return runners.Result{}, errors.New("out of order")
			}
		}
		return runners.Result{}, nil
	}}
	opt := Options{Config: config, Slots: 2, RetryBase: time.Hour, RetryCap: time.Hour, Runners: []runners.Runner{run}}
	w.start(opt)
	w.start(opt)
	w.until("the circuit is open", func() bool { return regexpMatch(`^held: circuit open after \d+ failures in a row`, w.held("gated")) })
	w.until("all that ran has ended", func() bool { return w.count("status = 'running'") == 0 })
	// Two agents of two slots may each have had four more under way.
	if n := runs.Load(); n < 5 || n > 5+8 {
		t.Errorf("%d jobs ran before the circuit opened, threshold 5", n)
	}
	w.enqueue(20, "free")
	w.until("others go on", func() bool { return w.count("service_name = 'free' AND status = 'completed'") == 20 })

	before := runs.Load()
	w.exec("UPDATE jobs.tb_lane SET open_until = now() - interval '1 second'") // the recovery time passes
	w.until("one job tries", func() bool { return runs.Load() > before })
	w.until("it is open again", func() bool { return w.count("status = 'running'") == 0 })
	if n := runs.Load(); n != before+1 {
		t.Errorf("%d jobs tried, want one", n-before)
	}
	broken.Store(false)
	w.exec("UPDATE jobs.tb_lane SET open_until = now() - interval '1 second'")
	w.until("the rest is done", func() bool { return w.count("service_name = 'gated' AND status = 'pending'") == 0 })
	var failures int
	w.scan(&failures, "SELECT failures_in_row FROM jobs.tb_lane WHERE service_name = 'gated'")
	if failures != 0 {
		t.Errorf("%d failures in a row are remembered after a success", failures)
	}
}

func TestViolationsDoNotOpenTheCircuit(t *testing.T) {
	w := newWorld(t)
	config := configured(t, `{ circuit_breaker: { failure_threshold: 2, recovery_timeout: 3600 } }`)
	w.enqueue(20, "gated")
	w.start(Options{Config: config, Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		return runners.Result{}, &runners.PolicyError{Service: "gated", Rule: "allowed_domains", Offered: "evil.example"}
	}}}})
	w.until("all are refused", func() bool { return w.count("status = 'failed'") == 20 })
	if w.count("status = 'pending'") != 0 || w.held("gated") != "" {
		t.Error("what the job asked for was held against its service")
	}
}

func TestPausedAgentClaimsNothingAndResumes(t *testing.T) {
	w := newWorld(t)
	a, _ := w.start(Options{Name: "one", Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.order(a, jobs.AgentPaused)
	w.until("it shows", func() bool { return w.state(a) == jobs.AgentPaused })
	w.enqueue(5, "a")
	other, _ := w.start(Options{Name: "two", Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("another agent does them", func() bool { return w.count("status = 'completed'") == 5 })
	var by jobs.ID
	w.scan(&by, "SELECT min(agent_id::text)::uuid FROM jobs.tb_job_run")
	if by != other.ledger.incarnation() {
		t.Error("the paused agent claimed")
	}
	w.order(other, jobs.AgentPaused)
	w.until("both are paused", func() bool { return w.state(other) == jobs.AgentPaused })
	w.enqueue(5, "a")
	w.order(a, jobs.AgentRunning)
	w.until("it goes on", func() bool { return w.count("status = 'completed'") == 10 })
}

func TestDrainedAgentHandsBackWhatDoesNotEndAndStays(t *testing.T) {
	w := newWorld(t)
	began := make(chan struct{}, 1)
	a, _ := w.start(Options{Drain: 50 * time.Millisecond, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, _ runners.Call) (runners.Result, error) {
		began <- struct{}{}
		<-ctx.Done()
		return runners.Result{}, ctx.Err()
	}}}})
	w.enqueue(1, "a")
	<-began
	w.order(a, "drained")
	w.until("drained", func() bool { return w.state(a) == jobs.AgentDrained })
	w.until("handed back, not counted", func() bool { return w.count("status = 'pending' AND attempts = 0") == 1 })
	w.order(a, jobs.AgentRunning)
	<-began // it takes the job again
}

func TestBackdatedAndUndatedJobsAreFoundAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start(Options{Lease: time.Hour, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.enqueue(1, "a")
	w.until("the lane has been looked through", func() bool { return w.count("status = 'completed'") == 1 })
	// With a lease of an hour nothing polls: only the wake-up can tell.
	for _, at := range []string{"now() - interval '3 days'", "NULL", "now() + interval '1 hour'", "'-infinity'"} {
		w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, created_at) VALUES (gen_random_uuid()::text, 'a', 'run', ` + at + `)`)
		w.until("found though created_at is "+at, func() bool { return w.count("status <> 'completed'") == 0 })
	}
	w.enqueue(1, "a") // behind the one of the future
	w.until("found behind the future", func() bool { return w.count("status <> 'completed'") == 0 })
	w.exec("UPDATE jobs.tb_job_run SET status = 'pending' WHERE id = (SELECT id FROM jobs.tb_job_run WHERE isfinite(created_at) ORDER BY created_at LIMIT 1)")
	w.until("one that was put back is found in its old place", func() bool { return w.count("status <> 'completed'") == 0 })
}

func TestJobsOfALaneStartInTheirOrder(t *testing.T) {
	w := newWorld(t)
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, created_at)
		SELECT n::text, 'a', 'run', now() - n * interval '1 minute' FROM generate_series(1, 60) n`)
	var mu sync.Mutex
	var order []time.Time
	w.start(Options{Slots: 1, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, c.Job.CreatedAt)
		return runners.Result{}, nil
	}}}})
	w.until("all done", func() bool { return w.count("status = 'completed'") == 60 })
	if !slices.IsSortedFunc(order, time.Time.Compare) {
		t.Errorf("started in the order %v", order)
	}
}

func TestBusyServiceDoesNotStarveASmallOne(t *testing.T) {
	w := newWorld(t)
	w.enqueue(20000, "big")
	release := make(chan struct{})
	var small atomic.Int64
	w.start(Options{Slots: 50, Config: parse(t, "big:http", "small:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Service.Name == "small" && small.Add(1) == 10 {
			close(release)
		}
		return runners.Result{}, nil
	}}}})
	w.until("the big one is under way", func() bool { return w.count("service_name = 'big' AND status = 'completed'") > 0 })
	w.enqueue(10, "small")
	<-release
	if w.count("service_name = 'big' AND status = 'pending'") == 0 {
		t.Error("the small service had to wait for all of the big one's jobs")
	}
}

func TestLockedRowsHoldUpNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, release := make(chan jobs.ID), make(chan struct{})
	w.start(Options{Lease: 3 * time.Second, Config: parse(t, "a:http", "b:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Service.Name == "a" {
			began <- c.Job.ID
			<-release
		}
		return runners.Result{}, nil
	}}}})
	id := <-began
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "SELECT FROM jobs.tb_job_run WHERE id = $1 FOR UPDATE", id); err != nil {
		t.Fatal(err)
	}
	close(release)
	w.enqueue(200, "b")
	w.until("others are recorded", func() bool { return w.count("service_name = 'b' AND status = 'completed'") == 200 })
	if err := tx.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.until("the locked one too, once it is free", func() bool { return w.count("status = 'completed' AND attempts = 1") == 201 })
}

func TestRowsTouchedMeanwhileAreRecorded(t *testing.T) {
	w := newWorld(t)
	w.enqueue(10, "a")
	began, release := make(chan struct{}, 10), make(chan struct{})
	w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		began <- struct{}{}
		<-release
		return runners.Result{}, nil
	}}}})
	for range 10 {
		<-began
	}
	w.exec("UPDATE jobs.tb_job_run SET entity_pk = 'touched' WHERE status = 'running'")
	close(release)
	w.until("recorded by id", func() bool { return w.count("status = 'completed' AND entity_pk = 'touched' AND attempts = 1") == 10 })
}

// Tries within attempts are requests like any other to the service: all agents'
// together stay below its limit.
func TestTriesWithinAttemptsCountAgainstTheRateLimitOfAllAgents(t *testing.T) {
	w := newWorld(t)
	const limit = 40
	var requests atomic.Int64
	insistent := func(ctx context.Context, c runners.Call) (runners.Result, error) {
		for requests.Add(1); ; requests.Add(1) {
			opens, err := c.Again(ctx)
			if err != nil {
				return runners.Result{}, err
			}
			if opens > 0 {
				return runners.Result{}, &runners.RetryAfterError{Err: errors.New("no room"), After: opens}
			}
		}
	}
	config := configured(t, `{ rate_limit_per_minute: 40 }`)
	w.enqueue(20, "gated")
	for _, name := range []string{"one", "two"} {
		w.start(Options{Name: name, Config: config, Slots: 5, Runners: []runners.Runner{fake{jobs.HTTP, insistent}}})
	}
	w.until("the limit is used up", func() bool { return requests.Load() >= limit })
	w.until("the attempts have ended", func() bool { return w.count("status = 'running'") == 0 })
	if n := requests.Load(); n != limit {
		t.Errorf("%d requests in a minute, limit %d", n, limit)
	}
	if n := w.count("status = 'failed' AND retry_at > now() + interval '30 seconds'"); n == 0 {
		t.Error("no attempt waits for the limit")
	}
}
