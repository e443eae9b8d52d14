package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// counted runs jobs of a type and counts them.
type counted struct {
	typ  jobs.ExecutionType
	runs *atomic.Int64
}

func (c counted) Type() jobs.ExecutionType { return c.typ }
func (c counted) Run(_ context.Context, call runners.Call) (runners.Result, error) {
	if call.Service.ExecutionType == c.typ {
		c.runs.Add(1)
	}
	return runners.Result{}, nil
}

func (w *world) switchLane(change jobs.LaneChange, service string, want int) {
	w.t.Helper()
	err := pgx.BeginFunc(w.ctx, w.pool, func(tx pgx.Tx) error {
		changed, err := jobs.SwitchLanes(w.ctx, tx, []string{service}, change, jobs.By{Actor: "anna", Reason: "test"})
		if len(changed) != want {
			w.t.Errorf("%s changed %v, want %d", change, changed, want)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// fallible are a shell service that can fall back, one that cannot, and an http
// one whose gates are asked with each claim.
func fallible(t *testing.T) *registry.Config {
	t.Helper()
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: script
    type: t
    category: c
    execution_type: shell
    runner_config: { working_directory: /tmp, base_url: "http://192.0.2.1" }
    security_policy: { allowed_commands: [/bin/true] }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
  - name: alone
    type: t
    category: c
    execution_type: shell
    runner_config: { working_directory: /tmp }
    security_policy: { allowed_commands: [/bin/true] }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
  - name: gated
    type: t
    category: c
    runner_config: { base_url: "http://192.0.2.1" }
    security_policy: { rate_limit_per_minute: 100000 }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

func TestAServiceSwitchedOffIsHeldWithItsReasonAndGoesOnWhenSwitchedOn(t *testing.T) {
	w := newWorld(t)
	var web, shell atomic.Int64
	opt := Options{Config: fallible(t), Lease: 30 * time.Second, Runners: []runners.Runner{counted{jobs.HTTP, &web}, counted{jobs.Shell, &shell}}}
	w.start(opt)
	w.until("the lanes are published", func() bool { return w.lanes() == 3 })
	for _, service := range []string{"alone", "gated"} {
		w.switchLane(jobs.DisableService, service, 1)
		w.switchLane(jobs.DisableService, service, 0)
		w.enqueue(5, service)
	}
	w.start(opt) // one that starts later obeys too
	w.enqueue(5, "script")
	w.until("the others go on", func() bool { return w.count("service_name = 'script' AND status = 'completed'") == 5 })
	for _, service := range []string{"alone", "gated"} {
		if got := w.held(service); got != "held: the service is switched off: test" {
			t.Errorf("%s is held because of %q", service, got)
		}
		if n := w.count("status <> 'pending' AND service_name = '" + service + "'"); n != 0 {
			t.Errorf("%d jobs of %s were claimed while it was off", n, service)
		}
	}
	// A heartbeat comes every ten seconds here: what wakes the agents is the switch.
	for _, service := range []string{"alone", "gated"} {
		began := time.Now()
		w.switchLane(jobs.EnableService, service, 1)
		w.until(service+" goes on", func() bool { return w.count("status = 'completed' AND service_name = '"+service+"'") == 5 })
		t.Logf("%s went on after %s", service, time.Since(began).Round(time.Millisecond))
	}
}

func TestAServiceOnItsFallbackRunsByHTTPUntilItIsTakenBack(t *testing.T) {
	w := newWorld(t)
	var web, shell atomic.Int64
	opt := Options{Config: fallible(t), Lease: 30 * time.Second, Runners: []runners.Runner{counted{jobs.HTTP, &web}, counted{jobs.Shell, &shell}}}
	w.start(opt)
	w.until("the lanes are published", func() bool { return w.lanes() == 3 })
	w.switchLane(jobs.FallBack, "alone", 0) // it has no base_url
	w.switchLane(jobs.FallBack, "script", 1)
	w.enqueue(7, "script")
	w.until("they run by http", func() bool { return w.count("status = 'completed' AND execution_type = 'http'") == 7 })
	w.start(opt)
	w.enqueue(7, "script")
	w.until("also with an agent that starts later", func() bool { return w.count("status = 'completed' AND execution_type = 'http'") == 14 })
	w.exec("UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'shell'")
	w.enqueue(3, "script")
	w.until("shell may be off meanwhile", func() bool { return w.count("status = 'completed' AND execution_type = 'http'") == 17 })
	w.exec("UPDATE jobs.tb_execution_type SET enabled = true WHERE execution_type = 'shell'")
	if web.Load() != 17 || shell.Load() != 0 {
		t.Errorf("%d ran by http and %d by shell, want 17 and 0", web.Load(), shell.Load())
	}
	w.switchLane(jobs.NoFallback, "script", 1)
	w.until("the agents heard of it", func() bool {
		w.enqueue(1, "script")
		return shell.Load() > 0
	})
}

func TestAnEmergencyStopEndsAllClaimingUntilItIsLifted(t *testing.T) {
	w := newWorld(t)
	var web, shell atomic.Int64
	opt := Options{Config: fallible(t), Lease: 30 * time.Second, Runners: []runners.Runner{counted{jobs.HTTP, &web}, counted{jobs.Shell, &shell}}}
	w.start(opt)
	w.until("the lanes are published", func() bool { return w.lanes() == 3 })
	w.exec("UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'docker'")
	by := jobs.By{Actor: "anna", Reason: "everything burns"}
	if changed, err := jobs.Stop(w.ctx, w.pool, by); err != nil || len(changed) != 4 {
		t.Fatalf("stop: %v, %v", changed, err)
	}
	if changed, err := jobs.Stop(w.ctx, w.pool, by); err != nil || len(changed) != 0 {
		t.Fatalf("a second stop: %v, %v", changed, err)
	}
	w.start(opt)
	w.until("the later agent looks too", func() bool { return w.agents() == 2 })
	for _, service := range []string{"script", "alone", "gated"} {
		w.enqueue(4, service)
		if got := w.held(service); got != "held: emergency stop: everything burns" {
			t.Errorf("%s is held because of %q", service, got)
		}
	}
	time.Sleep(300 * time.Millisecond) // nothing is to happen; there is no event to wait for
	if n := w.count("status <> 'pending'"); n != 0 {
		t.Errorf("%d jobs were claimed during the stop", n)
	}
	began := time.Now()
	if _, err := jobs.Lift(w.ctx, w.pool, by); err != nil {
		t.Fatal(err)
	}
	w.until("all go on", func() bool { return w.count("status = 'completed'") == 12 })
	t.Logf("they went on after %s", time.Since(began).Round(time.Millisecond))
	switches, err := jobs.Switches(w.ctx, w.pool)
	if err != nil || switches[2].Enabled || switches[2].StoppedAt != nil {
		t.Errorf("docker was off before and must stay so: %+v, %v", switches[2], err)
	}
}

func (w *world) lanes() (n int) {
	w.scan(&n, "SELECT count(*) FROM jobs.tb_lane")
	return n
}

func (w *world) agents() (n int) {
	w.scan(&n, "SELECT count(*) FROM jobs.tb_agent WHERE lease_expires_at > now()")
	return n
}
