package telemetry

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/specql/specql-ops/agent"
)

func TestProbesTellReasons(t *testing.T) {
	for _, c := range []struct {
		path   string
		health agent.Health
		status int
		body   string
	}{
		{"/healthz", agent.Health{NotReady: []string{"the agent is paused"}}, 200, `{"status":"ok"}`},
		{"/healthz", agent.Health{Stuck: []string{"the lease loop"}}, 503, `{"reasons":["the lease loop"],"status":"stuck"}`},
		{"/readyz", agent.Health{}, 200, `{"status":"ready"}`},
		{"/readyz", agent.Health{NotReady: []string{"a", "b"}}, 503, `{"reasons":["a","b"],"status":"not ready"}`},
	} {
		_, address := serve(t, ServerOptions{Agent: &still{health: c.health}})
		if status, body := ask(t, http.MethodGet, address+c.path, ""); status != c.status || body != c.body {
			t.Errorf("%s of %+v: %d %s, want %d %s", c.path, c.health, status, body, c.status, c.body)
		}
	}
}

func TestMetricsAreServedForPrometheus(t *testing.T) {
	_, address := serve(t, ServerOptions{Agent: &still{}, Metrics: NewRegistry(NewFigures(everything(t)))})
	status, body := ask(t, http.MethodGet, address+"/metrics", "")
	for _, want := range []string{
		`specql_jobs_total{execution_type="http",operation="run",outcome="completed",service="shop"} 5`,
		`specql_job_duration_seconds_bucket{execution_type="http",service="shop",le="0.8192"} 0`,
		`specql_job_duration_seconds_bucket{execution_type="http",service="shop",le="1.6384"} 6`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%d: %q is missing", status, want)
		}
	}
}

func TestProfilesAreServedOnlyWhereWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		_, address := serve(t, ServerOptions{Agent: &still{}, Pprof: wanted})
		status, _ := ask(t, http.MethodGet, address+"/debug/pprof/goroutine", "")
		if (status == http.StatusOK) != wanted {
			t.Errorf("--pprof=%v: %d", wanted, status)
		}
		if status, body := ask(t, http.MethodGet, address+"/debug/pprof/cmdline", ""); status != http.StatusNotFound {
			t.Errorf("--pprof=%v: the command line, which may hold a password, is served: %d %s", wanted, status, body)
		}
	}
}

func TestATakenAddressSaysWhatToDo(t *testing.T) {
	taken, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = Listen(taken.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "--listen "+taken.Addr().String()) || !strings.Contains(err.Error(), "or off") {
		t.Errorf("%v", err)
	}
}

// A client that sends nothing, or reads nothing, must not hold anything up.
func TestTheServerWaitsForNobody(t *testing.T) {
	s, _ := serve(t, ServerOptions{Agent: &still{}})
	for name, d := range map[string]any{"ReadHeaderTimeout": s.http.ReadHeaderTimeout, "ReadTimeout": s.http.ReadTimeout,
		"WriteTimeout": s.http.WriteTimeout, "IdleTimeout": s.http.IdleTimeout} {
		if d == 0 {
			t.Errorf("no %s", name)
		}
	}
	idle, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	s.Close() // returns although the connection stands
	// Asked of the listener: its port may be another program's by now.
	if _, err := s.listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it still listens: %v", err)
	}
}

func TestLevelStepsEndWhereTheyEnd(t *testing.T) {
	l, _ := NewLevel(slog.LevelInfo, func(slog.Leveler) slog.Handler { return slog.DiscardHandler })
	for _, c := range []struct {
		step func()
		want slog.Level
	}{{l.More, slog.LevelDebug}, {l.More, slog.LevelDebug}, {l.Less, slog.LevelInfo}, {l.Less, slog.LevelWarn},
		{l.Less, slog.LevelError}, {l.Less, slog.LevelError}, {l.More, slog.LevelWarn}} {
		if c.step(); l.Level() != c.want {
			t.Fatalf("the level is %s, want %s", l.Level(), c.want)
		}
	}
}

func TestAChangedLevelIsSaidAndHolds(t *testing.T) {
	var said journal
	l, log := NewLevel(slog.LevelError, func(at slog.Leveler) slog.Handler {
		return slog.NewTextHandler(&said, &slog.HandlerOptions{Level: at})
	})
	log.Debug("one")
	l.Change(slog.LevelDebug)
	log.Debug("two")
	l.Change(slog.LevelError)
	log.Warn("three")
	for word, want := range map[string]bool{"one": false, "from=error to=debug": true, "two": true, "from=debug to=error": true, "three": false} {
		if strings.Contains(said.String(), word) != want {
			t.Errorf("%q in the log is %v:\n%s", word, !want, said.String())
		}
	}
}

func TestTheLevelIsReadByAllAndChangedOnThisHostAlone(t *testing.T) {
	l, _ := NewLevel(slog.LevelInfo, func(slog.Leveler) slog.Handler { return slog.DiscardHandler })
	level := func(body string) string {
		var got struct{ Level, Error string }
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		return got.Level
	}
	s, address := serve(t, ServerOptions{Agent: &still{}, Level: l})
	for _, c := range []struct {
		method, body string
		status       int
		level        slog.Level
	}{
		{http.MethodGet, "", 200, slog.LevelInfo},
		{http.MethodPut, "debug\n", 200, slog.LevelDebug},
		{http.MethodPut, "WARN", 200, slog.LevelWarn},
		{http.MethodPut, "loud", 400, slog.LevelWarn},
		{http.MethodPut, strings.Repeat("x", 1000), 400, slog.LevelWarn},
		{http.MethodPost, "debug", 405, slog.LevelWarn},
	} {
		status, body := ask(t, c.method, address+"/loglevel", c.body)
		if status != c.status || l.Level() != c.level || status == 200 && level(body) != word(c.level) {
			t.Errorf("%s %.10q: %d %s, the level is %s", c.method, c.body, status, body, l.Level())
		}
	}
	s.loopback = false // as on any other address
	if status, body := ask(t, http.MethodPut, address+"/loglevel", "debug"); status != http.StatusForbidden || l.Level() != slog.LevelWarn {
		t.Errorf("changed from elsewhere: %d %s", status, body)
	}
	if status, body := ask(t, http.MethodGet, address+"/loglevel", ""); status != 200 || level(body) != "warn" {
		t.Errorf("read from elsewhere: %d %s", status, body)
	}
}

func TestOnlyALoopbackListenerCountsAsThisHost(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "0.0.0.0:0": false, ":0": false} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s cannot be had here: %v", address, err)
			continue
		}
		defer l.Close()
		if s := NewServer(l, ServerOptions{Metrics: NewRegistry(), Log: discard}); s.loopback != want {
			t.Errorf("%s counts as this host: %v", address, s.loopback)
		}
	}
}
