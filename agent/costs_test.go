package agent

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/lambdadev"
	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/serverless"
)

// functions parses a registry of the function probe with more of a runner_config
// and cost_limits.
func functions(t *testing.T, runner, limits string) *registry.Config {
	t.Helper()
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: resizer
    type: function
    category: media
    execution_type: serverless
    runner_config: { provider: aws, function_name: probe, region: us-east-1, `+runner+` }
    security_policy: { allowed_providers: [aws], allowed_regions: [us-east-1], cost_limits: `+limits+` }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

// TestCostBudgetHoldsAcrossAgentsAndIsNearlyAllUsed has three agents call one
// real function, which costs a tenth of a cent, as fast as they can.
func TestCostBudgetHoldsAcrossAgentsAndIsNearlyAllUsed(t *testing.T) {
	const budget = 0.1 // USD
	w := newWorld(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	dev := lambdatest.Start(t, lambdadev.Options{})
	lambdatest.Create(t, lambdatest.Client(dev.URL(), "us-east-1"), "probe", lambdatest.Zip(t), 256, 60)
	config := functions(t, fmt.Sprintf("endpoint_url: %q, price_per_million_requests: 1000", dev.URL()), fmt.Sprintf("{ max_cost_per_hour: %v }", budget))
	w.enqueue(300, "resizer")
	for _, name := range []string{"one", "two", "three"} {
		r := serverless.New(serverless.Options{})
		t.Cleanup(r.Close)
		w.start(Options{Name: name, Config: config, Slots: 3, Runners: []runners.Runner{r}})
	}
	var most float64
	t.Cleanup(func() {
		if t.Failed() {
			var state string
			w.pool.QueryRow(context.Background(), `SELECT jsonb_build_object('lane', (SELECT jsonb_agg(v) FROM jobs.v_lane v), 'spent', jobs.cost_spent('resizer'),
				'jobs', (SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) n FROM jobs.tb_job_run GROUP BY status) s),
				'error', (SELECT min(error_message) FROM jobs.tb_job_run), 'most', (SELECT max_cost_per_job FROM jobs.tb_lane))::text`).Scan(&state)
			t.Log(state)
		}
	})
	w.until("the budget is spent", func() bool {
		var settled, reserved float64
		if err := w.pool.QueryRow(w.ctx, "SELECT * FROM jobs.cost_spent('resizer')").Scan(&settled, &reserved); err != nil {
			t.Fatal(err)
		}
		most = max(most, settled+reserved)
		return reserved == 0 && settled > 0 && w.count("status = 'running'") == 0 &&
			regexpMatch(`^held: budget of \$0.1 an hour is spent or set aside, next in \d+ s at the latest$`, w.held("resizer"))
	})
	var cost float64
	w.scan(&cost, "SELECT sum((resource_usage->>'cost_usd')::float8) FROM jobs.tb_job_run WHERE resource_usage IS NOT NULL")
	t.Logf("%d jobs cost $%.6f of $%v, at most $%.6f spent or set aside", w.count("status = 'completed'"), cost, budget, most)
	if cost > budget || most > budget*(1+1e-6) {
		t.Errorf("$%.6f were spent, at most $%.6f set aside, budget $%v", cost, most, budget)
	}
	if cost < 0.95*budget {
		t.Errorf("only $%.6f of $%v were used", cost, budget)
	}
	var in float64
	w.scan(&in, "SELECT extract(epoch FROM opens_at - now())::float8 FROM jobs.v_lane WHERE service_name = 'resizer'")
	if in < 3400 || in > 3700 {
		t.Errorf("it opens in %.0f s, want about an hour", in)
	}
	// The hour passes: what was spent leaves the window.
	w.exec("UPDATE jobs.tb_lane_cost SET slice = slice - 102")
	w.exec("SELECT pg_notify('specql_control', 'switch serverless')")
	w.until("the lane opens for as many again", func() bool { return w.count("status = 'completed'") > 150 })
}

// invoice is what the local Lambda itself reports of runs, by the time at which they
// ended, in slices of the budget's hour.
type invoice struct {
	mu    sync.Mutex
	now   int
	slice map[int]float64 // USD
	runs  int
}

var billed = regexp.MustCompile(`Billed Duration: ([0-9]+) ms\tMemory Size: ([0-9]+) MB`)

// Write takes a piece of the endpoint's log, whole lines of one run.
func (v *invoice) Write(log []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range billed.FindAllSubmatch(log, -1) {
		ms, _ := strconv.ParseFloat(string(m[1]), 64)
		mb, _ := strconv.ParseFloat(string(m[2]), 64)
		v.slice[v.now] += 1e-3 + ms/1000*mb/1024*0.0000166667
		v.runs++
	}
	return len(log), nil
}

// TestCostBudgetHoldsInEverySlidingHourByTheFunctionsOwnInvoice lets hours pass,
// some minutes at a time, while jobs come in steadily and two agents take them.
// What was spent is not what the agents say, but what the endpoint billed.
func TestCostBudgetHoldsInEverySlidingHourByTheFunctionsOwnInvoice(t *testing.T) {
	const (
		budget = 0.03 // USD: some 29 runs of a tenth of a cent
		hour   = 100  // slices
		step   = 10   // slices
		steps  = 45
	)
	w := newWorld(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	bill := &invoice{slice: map[int]float64{}}
	dev := lambdatest.Start(t, lambdadev.Options{Log: bill})
	lambdatest.Create(t, lambdatest.Client(dev.URL(), "us-east-1"), "probe", lambdatest.Zip(t), 256, 10)
	config := functions(t, fmt.Sprintf("endpoint_url: %q, price_per_million_requests: 1000", dev.URL()), fmt.Sprintf("{ max_cost_per_hour: %v }", budget))
	for _, name := range []string{"one", "two"} {
		r := serverless.New(serverless.Options{})
		t.Cleanup(r.Close)
		w.start(Options{Name: name, Config: config, Slots: 2, Runners: []runners.Runner{r}})
	}
	for range steps {
		w.enqueue(5, "resizer") // 50 an hour
		w.exec("SELECT pg_notify('specql_control', 'switch serverless')")
		w.until("all that may run has run", func() (all bool) {
			// In one look: between two a claim could set aside what the second one takes for spent.
			w.scan(&all, `SELECT NOT EXISTS (SELECT FROM jobs.tb_lane_reserved) AND NOT EXISTS (
				SELECT FROM jobs.tb_job_run r WHERE status = 'running' OR status = 'pending'
				   AND NOT EXISTS (SELECT FROM jobs.v_job_held h WHERE h.id = r.id AND h.held <> ''))`)
			return all
		})
		// In two steps, seen as one: no slice may be there twice in between. What is
		// settled meanwhile stays where it is.
		tx, err := w.pool.Begin(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{fmt.Sprintf("UPDATE jobs.tb_lane_cost SET slice = %d - slice", step), "UPDATE jobs.tb_lane_cost SET slice = -slice WHERE slice < 0"} {
			if _, err := tx.Exec(w.ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		bill.mu.Lock()
		bill.now += step
		bill.mu.Unlock()
		if err := tx.Commit(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	bill.mu.Lock()
	defer bill.mu.Unlock()
	total, most := 0.0, 0.0
	for from := 0; from <= bill.now; from += step {
		total += bill.slice[from]
		within := 0.0
		for at := from; at < from+hour; at += step {
			within += bill.slice[at]
		}
		most = max(most, within)
	}
	t.Logf("%d runs cost $%.6f in %d hours, at most $%.6f in one", bill.runs, total, steps*step/hour, most)
	if most > budget {
		t.Errorf("$%.6f were billed in one hour, budget $%v", most, budget)
	}
	if most < 0.9*budget {
		t.Errorf("at most $%.6f of $%v were used in an hour", most, budget)
	}
}

// priced is a fake runner with a price.
type priced struct {
	fake
	most float64
}

func (p priced) MostCost(*registry.Service) float64 { return p.most }

func TestWhatADeadAgentSetAsideIsReleased(t *testing.T) {
	w := newWorld(t)
	config := functions(t, "memory_mb: 128", "{ max_cost_per_hour: 1.0 }")
	w.enqueue(3, "resizer")
	zero := 0.0
	quick := priced{fake{jobs.Serverless, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.ReservedUSD != 0.5 {
			t.Errorf("$%v set aside for an attempt, want 0.5", c.ReservedUSD)
		}
		return runners.Result{Usage: runners.Usage{CostUSD: &zero}}, nil
	}}, 0.5}
	a, _ := w.start(Options{Name: "lives", Config: config, Runners: []runners.Runner{quick}})
	w.until("they are done for nothing", func() bool { return w.count("status = 'completed'") == 3 })

	// One that claims and is never heard of again.
	conn, err := a.connect(w.ctx, forUpkeep)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	dead := jobs.AgentInfo{ID: jobs.NewID(), Name: "dies", Slots: 2, Types: []jobs.ExecutionType{jobs.Serverless}}
	if err := jobs.Register(w.ctx, conn, dead, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.order(a, jobs.AgentPaused)
	w.until("the other one rests", func() bool { return w.state(a) == jobs.AgentPaused })
	w.enqueue(3, "resizer")
	claim := jobs.Exchange{Claim: jobs.Claim{Gated: []jobs.Lane{{Service: "resizer", Type: jobs.Serverless, Room: 9, From: jobs.First, Gates: jobs.Gates{USD: 1, MostUSD: 0.5}}}}}
	out, err := claim.Do(w.ctx, conn, dead.ID)
	if err != nil || len(out.Claimed) != 2 || out.Gates[0].Opens <= 0 {
		t.Fatalf("claimed %d of the two that the budget has room for, %+v, %v", len(out.Claimed), out.Gates, err)
	}
	w.order(a, jobs.AgentRunning)
	w.until("the whole budget is set aside", func() bool { return regexpMatch(`^held: budget of \$1 an hour`, w.held("resizer")) })
	w.exec("UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE name = 'dies'")
	w.until("the other one does them all", func() bool { return w.count("status = 'completed'") == 6 })
}

func TestUnknownCostsCountAsTheMost(t *testing.T) {
	w := newWorld(t)
	config := functions(t, "memory_mb: 128", "{ max_cost_per_hour: 1.0 }")
	w.enqueue(10, "resizer")
	w.start(Options{Config: config, Runners: []runners.Runner{priced{fake{jobs.Serverless, ok}, 0.25}}})
	w.until("four are done", func() bool { return w.count("status = 'completed'") == 4 && w.held("resizer") != "" })
	var settled float64
	w.scan(&settled, "SELECT settled FROM jobs.cost_spent('resizer')")
	if settled != 1 || w.count("attempts > 0") != 4 {
		t.Errorf("$%v counted after %d attempts", settled, w.count("attempts > 0"))
	}
}

func TestWhatAStrictServiceDoesNotStartCostsNothing(t *testing.T) {
	w := newWorld(t)
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: resizer
    type: function
    category: media
    execution_type: serverless
    validation: strict
    runner_config: { provider: aws, function_name: probe, region: us-east-1 }
    security_policy: { allowed_providers: [aws], allowed_regions: [us-east-1], cost_limits: { max_cost_per_hour: 1.0 } }
    operations: [{ name: run, input_schema: { n: string }, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	w.enqueue(10, "resizer") // n is a number
	w.start(Options{Config: config, Runners: []runners.Runner{priced{fake{jobs.Serverless, ok}, 0.25}}})
	w.until("all are refused", func() bool { return w.count("status = 'failed' AND error_message LIKE '%validation: strict%'") == 10 })
	w.until("nothing is set aside", func() bool {
		var settled, reserved float64
		if err := w.pool.QueryRow(w.ctx, "SELECT * FROM jobs.cost_spent('resizer')").Scan(&settled, &reserved); err != nil {
			t.Fatal(err)
		}
		if settled != 0 {
			t.Fatalf("$%v counted", settled)
		}
		return reserved == 0
	})
}

func TestBusyServiceHandsBackUncountedAndWaits(t *testing.T) {
	const slots, closed = 5, 3 * time.Second
	w := newWorld(t)
	var throttled atomic.Bool
	throttled.Store(true)
	var calls atomic.Int64
	run := fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if c.Service.Name == "gated" && throttled.Load() {
			calls.Add(1)
			return runners.Result{}, &runners.BusyError{Service: "gated", Reason: "AWS Lambda throttles function x", After: closed}
		}
		return runners.Result{}, nil
	}}
	w.enqueue(20, "gated")
	began := time.Now()
	w.start(Options{Config: configured(t, `{ circuit_breaker: { failure_threshold: 2, recovery_timeout: 3600 } }`), Slots: slots, Runners: []runners.Runner{run}})
	w.until("it shows", func() bool {
		return regexpMatch(`^held: AWS Lambda throttles function x, next try in [1-3] s$`, w.held("gated"))
	})
	w.until("handed back, not counted", func() bool { return w.count("status = 'pending' AND attempts = 0") == 20 })
	if n, opened := calls.Load(), time.Since(began)/closed; n > slots*int64(1+opened) {
		t.Errorf("%d calls in a lane that has opened %d times at most", n, opened)
	}
	w.enqueue(10, "free")
	w.until("others go on", func() bool { return w.count("service_name = 'free' AND status = 'completed'") == 10 })
	throttled.Store(false)
	w.until("the lane opens by itself", func() bool { return w.count("status = 'completed' AND attempts = 1") == 30 })
}

// TestThrottledCallsDoNotUseUpTheHour: an invocation that was never made is none.
func TestThrottledCallsDoNotUseUpTheHour(t *testing.T) {
	w := newWorld(t)
	var calls, made atomic.Int64
	run := fake{jobs.Serverless, func(_ context.Context, c runners.Call) (runners.Result, error) {
		if calls.Add(1) <= 20 {
			return runners.Result{}, &runners.BusyError{Service: c.Service.Name, Reason: "AWS Lambda throttles function x"}
		}
		made.Add(1)
		return runners.Result{}, nil
	}}
	w.enqueue(30, "resizer")
	config := functions(t, "memory_mb: 128", "{ max_invocations_per_hour: 7 }")
	for _, name := range []string{"one", "two"} {
		w.start(Options{Name: name, Config: config, Slots: 3, Runners: []runners.Runner{run}})
	}
	w.until("the budget is spent", func() bool {
		return w.count("status = 'completed'") == 7 && w.count("status = 'running'") == 0 &&
			regexpMatch(`^held: budget of the hour is spent, next in \d+ s$`, w.held("resizer"))
	})
	if n := made.Load(); n != 7 || w.count("attempts > 0") != 7 {
		t.Errorf("%d calls were made and %d attempts counted, budget 7", n, w.count("attempts > 0"))
	}
}
