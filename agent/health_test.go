package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

func (w *world) untilReady(a *Agent) {
	w.t.Helper()
	w.until("the agent is ready", func() bool { return len(a.Health().NotReady) == 0 })
}

func (w *world) untilNotReady(a *Agent, reason string) {
	w.t.Helper()
	w.until("not ready: "+reason, func() bool {
		return slices.ContainsFunc(a.Health().NotReady, func(r string) bool { return strings.Contains(r, reason) })
	})
}

func TestAnAgentIsReadyWhileItTakesJobs(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	began, release := make(chan struct{}), make(chan struct{})
	config := parse(t, "a:http")
	run := fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		close(began)
		<-release
		return runners.Result{}, nil
	}}
	idle, err := New(Options{Config: config, Runners: []runners.Runner{run}})
	if err != nil {
		t.Fatal(err)
	}
	if h := idle.Health(); len(h.Stuck) > 0 || !slices.Contains(h.NotReady, "not registered yet") {
		t.Errorf("before it runs: %+v", h)
	}
	a, stop := w.start(Options{Config: config, Runners: []runners.Runner{run}})
	<-a.Registered()
	<-began
	w.untilReady(a)

	a.Reject("service_registry.yaml:3:1: no operations")
	w.untilNotReady(a, "service_registry.yaml:3:1: no operations")
	a.Apply(config)
	w.untilReady(a)

	w.order(a, jobs.AgentPaused)
	w.untilNotReady(a, "the agent is paused")
	w.order(a, jobs.AgentRunning)
	w.untilReady(a)

	ended := make(chan error)
	go func() { ended <- stop() }()
	w.untilNotReady(a, "the agent is draining")
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if h := a.Health(); len(h.Stuck) > 0 {
		t.Errorf("an agent that stopped in order is stuck: %v", h.Stuck)
	}
}

func TestALostDatabaseMakesAnAgentNotReadyButNotStuck(t *testing.T) {
	w := newWorld(t)
	a, _ := w.start(Options{Lease: time.Second, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.untilReady(a)
	admin, err := pgx.Connect(w.ctx, devdbtest.Server(t).URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(w.ctx)
	name := w.pool.Config().ConnConfig.Database
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(w.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER DATABASE " + pgx.Identifier{name}.Sanitize() + " ALLOW_CONNECTIONS false")
	exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'")
	// The queue's connection is seen to be lost when it is next used.
	for _, reason := range []string{"no database connection for heartbeats", "no database connection for wake-ups", "the lease ran out"} {
		w.untilNotReady(a, reason)
	}
	if h := a.Health(); len(h.Stuck) > 0 {
		t.Errorf("stuck: %v", h.Stuck)
	}
	if s := a.Stats(); s.Connected[forHeartbeats] || s.Connected[forWakeUps] {
		t.Errorf("connections that stand: %v", s.Connected)
	}
	exec("ALTER DATABASE " + pgx.Identifier{name}.Sanitize() + " ALLOW_CONNECTIONS true")
	w.until("all three connections are new", func() bool { return a.Stats().Reconnects >= 3 })
	w.untilReady(a)
	if s := a.Stats(); s.LeasesLost != 1 {
		t.Errorf("%d leases were lost", s.LeasesLost)
	}
}

func TestASilentLoopIsStuck(t *testing.T) {
	ago := func(d time.Duration) int64 { return -int64(d) }
	for want, set := range map[string]func(v *vitals){
		"":                                     func(v *vitals) { v.alive(); v.loop().Store(v.now()); v.loop().Store(0) },
		"the lease loop has given no sign for": func(v *vitals) { v.sign.Store(v.now() + ago(time.Minute)) },
		"an exchange with the queue has taken": func(v *vitals) { v.loop().Store(v.now() + ago(time.Hour)) },
	} {
		a, err := New(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
		if err != nil {
			t.Fatal(err)
		}
		a.vitals.origin = a.vitals.origin.Add(-2 * time.Hour) // it has run for a while
		set(a.vitals)
		got := strings.Join(a.Health().Stuck, "; ")
		if !strings.HasPrefix(got, want) || (want == "") != (got == "") {
			t.Errorf("stuck: %q, want %q", got, want)
		}
	}
}
