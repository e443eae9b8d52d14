package docker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// aheadRunner starts containers ahead, with the helper as what waits in them.
func aheadRunner(t *testing.T, engine *client.Client, opts Options) *Runner {
	t.Helper()
	path, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	opts.Waiter = path
	if opts.AheadMB == 0 {
		opts.AheadMB = 256
	}
	return runnerOn(t, engine, opts)
}

// again is another job of the same service.
func again(call runners.Call) runners.Call {
	next := newCall()
	next.Service, next.Operation = call.Service, call.Operation
	return next
}

// warm runs jobs of the service until a container waits for the next one.
func warm(t *testing.T, r *Runner, call runners.Call) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for waitingFor(r, call) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no container was ever started ahead")
		}
		mustRun(t, r, again(call))
	}
}

func waitingFor(r *Runner, call runners.Call) int {
	r.ahead.mu.Lock()
	defer r.ahead.mu.Unlock()
	if s := r.ahead.services[call.Service.Name]; s != nil && reflect.DeepEqual(s.service, call.Service) {
		return len(s.ready)
	}
	return 0
}

func TestConformanceWithContainersStartedAhead(t *testing.T) {
	needEngine(t)
	path, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	suite(t, Options{AheadMB: 128, Waiter: path})
}

// A container that waits knows nothing of the job: it gets arguments,
// variables and input with it, as one that is made for it does.
func TestAContainerStartedAheadRunsItsJobAsOneMadeForIt(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	call := newCall("env")
	call.Service.RunnerConfig.Environment = map[string]string{"LEVEL": "debug", "PATH": "/other"}
	cold := mustRun(t, r, again(call))
	warm(t, r, call)
	mine := again(call)
	result := mustRun(t, r, mine)
	if result.Security["started"] != "ahead" {
		t.Fatalf("started %v", result.Security["started"])
	}
	variables := func(text string) map[string]string {
		all := map[string]string{}
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			all[name] = value
		}
		delete(all, "HOSTNAME")
		return all
	}
	got, want := variables(stdout(t, result)), variables(stdout(t, cold))
	want["SPECQL_JOB_ID"], want["SPECQL_IDENTIFIER"], want["SPECQL_IDEMPOTENCY_KEY"] = mine.Job.ID.String(), mine.Job.Identifier, mine.Job.ID.String()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s is %q, want %q as in a container made for the job", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("variables %v, want %v", got, want)
	}

	echo := newCall("stdin")
	warm(t, r, echo)
	long := again(echo)
	long.Job.Input = []byte(`{"text": "` + strings.Repeat("x", 300_000) + `"}`)
	if result := mustRun(t, r, long); string(result.Output) != string(long.Job.Input) || result.Security["started"] != "ahead" {
		t.Errorf("an input of 300 kB came back as %d bytes, started %v", len(result.Output), result.Security["started"])
	}
}

func TestNoContainerServesTwoJobs(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	call := newCall("env")
	hosts := map[string]int{}
	ahead := 0
	deadline := time.Now().Add(time.Minute)
	for ahead < 5 && time.Now().Before(deadline) {
		result := mustRun(t, r, again(call))
		if result.Security["started"] == "ahead" {
			ahead++
		}
		for line := range strings.Lines(stdout(t, result)) {
			if name, ok := strings.CutPrefix(line, "HOSTNAME="); ok {
				hosts[name]++
			}
		}
	}
	if ahead < 5 {
		t.Fatalf("only %d jobs found a container waiting", ahead)
	}
	for name, n := range hosts {
		if n > 1 {
			t.Errorf("container %s served %d jobs", name, n)
		}
	}
}

// The service's program is never run without a job: what waits is not it.
func TestNothingOfTheServiceRunsBeforeItsJob(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	dir := t.TempDir()
	call := newCall("write", "/out/ran", "0")
	call.Service.RunnerConfig.Volumes = []registry.Volume{{HostPath: dir, ContainerPath: "/out", Mode: "rw"}}
	warm(t, r, call)
	r.ahead.mu.Lock()
	w := r.ahead.services["helper"].ready[0]
	r.ahead.mu.Unlock()
	got, err := engine.ContainerTop(t.Context(), w.id, client.ContainerTopOptions{Arguments: []string{"-o", "pid,args"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Processes) != 1 || !strings.HasSuffix(strings.Join(got.Processes[0], " "), "/.specql/specql-waiter") {
		t.Errorf("processes of a waiting container: %v", got.Processes)
	}
}

func TestWaitingContainersAreTakenAwayOnReload(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	call := newCall("argv")
	warm(t, r, call)
	r.Reload(configOf(t, "another"))
	if n := waitingFor(r, call); n != 0 {
		t.Errorf("%d containers wait for a service that is gone", n)
	}
	// A job of the earlier registry that is under way still runs.
	mustRun(t, r, again(call))
}

// configOf is a registry with a docker service of that name.
func configOf(t *testing.T, name string) *registry.Config {
	t.Helper()
	text := "services:\n  - { name: " + name + ", type: t, category: c, execution_type: docker, runner_config: { image: \"" + testImage + "\" },\n" +
		"      operations: [{ name: run, input_schema: {}, output_schema: {} }] }\n"
	config, diags := registry.Parse("test.yaml", []byte(text), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

func TestAChangedServiceGetsNoContainerOfTheEarlierOne(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	call := newCall("status")
	warm(t, r, call)
	changed := again(call)
	service := *call.Service
	service.RunnerConfig.User = "1234"
	changed.Service = &service
	result := mustRun(t, r, changed)
	if got := statusField(stdout(t, result), "Uid"); !strings.HasPrefix(got, "1234") || result.Security["started"] == "ahead" {
		t.Errorf("as user %q, started %v", got, result.Security["started"])
	}

	warm(t, r, call)
	narrowed := again(call)
	narrowed.Job.SecurityContext = []byte(`{"resource_limits": {"memory_mb": 64}}`)
	if result := mustRun(t, r, narrowed); result.Security["started"] == "ahead" {
		t.Error("a row that narrows got a container with the service's limits")
	}
}

func TestContainersAreStartedAheadOnlyWhereItIsWanted(t *testing.T) {
	engine := needEngine(t)
	for name, off := range map[string]func(*Options, *runners.Call){
		"off for the agent":   func(o *Options, _ *runners.Call) { o.AheadMB = -1 },
		"off for the service": func(_ *Options, c *runners.Call) { c.Service.RunnerConfig.StartAhead = new(bool) },
		"too little memory":   func(o *Options, _ *runners.Call) { o.AheadMB = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			opts, call := Options{}, newCall("argv")
			off(&opts, &call)
			r := aheadRunner(t, engine, opts)
			for range 4 {
				if result := mustRun(t, r, again(call)); result.Security["started"] == "ahead" {
					t.Fatal("a container was started ahead")
				}
			}
			r.ahead.mu.Lock()
			defer r.ahead.mu.Unlock()
			if r.ahead.making > 0 {
				t.Error("one is being made")
			}
		})
	}
}

func TestHowManyContainersWaitIsLearned(t *testing.T) {
	at := time.Now()
	arrivals := func(gaps ...time.Duration) (came []time.Time) {
		for _, gap := range gaps {
			at = at.Add(gap)
			came = append(came, at)
		}
		return came
	}
	const ms = time.Millisecond
	for _, c := range []struct {
		name        string
		came        []time.Time
		concurrency int
		want        int
	}{
		{"one job is no reason", arrivals(0), 0, 0},
		{"now and then one", arrivals(0, 20*time.Second, 20*time.Second), 0, 1},
		{"a burst of five", arrivals(0, ms, ms, ms, ms), 0, 5},
		{"a burst of five, two at a time", arrivals(0, ms, ms, ms, ms), 2, 2},
		{"ten a second", arrivals(0, 100*ms, 100*ms, 100*ms, 100*ms, 100*ms, 100*ms), 0, 5},
	} {
		s := &reserve{service: &registry.Service{Concurrency: c.concurrency}, came: c.came, refill: 200 * ms}
		if got := s.wanted(); got != c.want {
			t.Errorf("%s: %d wait, want %d", c.name, got, c.want)
		}
	}
}

func TestAProgramThatCannotBeStartedIsAConfigurationErrorAheadToo(t *testing.T) {
	engine := needEngine(t)
	r := aheadRunner(t, engine, Options{})
	call := newCall("argv")
	warm(t, r, call)
	// As an image would whose entrypoint is not there.
	b := r.ahead.take(&attempt{r: r, call: again(call), policy: policy{service: "helper"}, spec: r.ahead.services["helper"].spec,
		image: picture{entrypoint: []string{"/nowhere"}}, streams: newStreams()})
	if b == nil {
		t.Fatal("no container waited")
	}
	a := &attempt{r: r, call: again(call), policy: policy{service: "helper"}, spec: r.ahead.services["helper"].spec, ref: "image", ahead: true, streams: newStreams()}
	_, err := a.result(a.attend(t.Context(), b))
	r.discard(b)
	var config *runners.ConfigError
	if !errors.As(err, &config) || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("%v: want a configuration error that names the program", err)
	}
}

func TestAKilledAgentsWaitingContainersAreRemovedToo(t *testing.T) {
	engine := needEngine(t)
	path, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	victim, owner := doomedAhead(t, path)
	_ = victim.Process.Kill()
	_ = victim.Wait()
	r := runnerOn(t, engine, Options{SweepEvery: time.Hour})
	// The engine may still be making what the agent had asked for when it was
	// killed, and the volume goes after the containers that use it: a later
	// sweep has them.
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := r.Sweep(); err != nil {
			t.Error(err)
		}
		volumes, err := engine.VolumeList(t.Context(), client.VolumeListOptions{Filters: make(client.Filters).Add("label", labelOwner+"="+owner)})
		if err != nil {
			t.Fatal(err)
		}
		left := len(containersOf(t, engine, owner))
		if left == 0 && len(volumes.Items) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d containers and %d volumes are left", left, len(volumes.Items))
		}
	}
}

// An agent that ends while the engine is at work for it hears it to its end:
// runnerOn finds what would be left behind.
func TestNothingIsLeftBehindOfWhatTheEngineWasAtWhenTheAgentEnded(t *testing.T) {
	engine := needEngine(t)
	for _, path := range []string{"/volumes/create", "/containers/create", "/archive"} {
		t.Run(path, func(t *testing.T) {
			var ending atomic.Pointer[Runner]
			ended := make(chan struct{})
			var once sync.Once
			gateway := &httputil.ReverseProxy{
				Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
				Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", "/var/run/docker.sock")
				}},
				ModifyResponse: func(answer *http.Response) error {
					if r := ending.Load(); r != nil && strings.HasSuffix(answer.Request.URL.Path, path) {
						once.Do(func() { r.stop(); close(ended) })
					}
					return nil
				},
			}
			server := httptest.NewServer(gateway)
			t.Cleanup(server.Close)
			runner := aheadRunner(t, engine, Options{Host: "tcp://" + server.Listener.Addr().String()})
			f, err := runner.engine.ready(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ending.Store(runner)
			runner.side.Go(func() { _, _ = runner.ahead.waiter.get(runner.ctx, f, testImage) })
			select {
			case <-ended:
			case <-time.After(time.Minute):
				t.Fatal("the engine was never asked")
			}
		})
	}
}
