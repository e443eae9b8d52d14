package agent

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// calling is a registry whose service api is at base, with retries within an
// attempt.
func calling(t *testing.T, base string) *registry.Config {
	t.Helper()
	config, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: api
    type: t
    category: c
    runner_config: { base_url: "`+base+`", retry_config: { max_retries: 1 } }
    operations: [{ name: run, method: PUT, input_schema: {}, output_schema: {} }]
`), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

// startCalls starts an agent whose service api is answered by handle.
func (w *world) startCalls(handle http.HandlerFunc) *Agent {
	w.t.Helper()
	server := httptest.NewServer(handle)
	w.t.Cleanup(server.Close)
	r := httpapi.New(httpapi.Options{Jitter: func() float64 { return 0 }})
	w.t.Cleanup(r.Close)
	a, _ := w.start(Options{Config: calling(w.t, server.URL), Runners: []runners.Runner{r}})
	return a
}

// wantLogged compares what is kept of the job's attempts with patterns.
func (w *world) wantLogged(what string, patterns ...string) {
	w.t.Helper()
	lines := w.logged()
	matched := len(lines) == len(patterns)
	for i := range patterns {
		matched = matched && regexp.MustCompile("^"+patterns[i]+"$").MatchString(lines[i])
	}
	if !matched {
		w.t.Errorf("%s: kept %q\nwant %q", what, lines, patterns)
	}
}

func TestTriesOfAnHTTPAttemptAreKeptWhereThereIsMoreThanASuccessToTell(t *testing.T) {
	const timing = `; took [0-9.]+ ms \((new connection|connection kept) to 127\.0\.0\.1:[0-9]+, .*first byte [0-9.]+ ms\)`
	const failed = `agent try 1 failed: PUT http://127\.0\.0\.1:[0-9]+/run: the service answered 503 Service Unavailable: busy` + timing
	for _, c := range []struct {
		what     string
		statuses []int
		want     []string
	}{
		{"a success", []int{200}, nil},
		{"a success of the second try", []int{503, 200}, []string{failed, `agent next try in 0\.000 ms`, `agent try 2: PUT http://.*/run: 200 OK` + timing}},
		{"a failure for good", []int{404}, []string{`agent try 1 failed: .* the service answered 404 Not Found: busy` + timing}},
	} {
		w := newWorld(t)
		statuses := make(chan int, len(c.statuses))
		for _, status := range c.statuses {
			statuses <- status
		}
		w.startCalls(func(out http.ResponseWriter, _ *http.Request) {
			out.WriteHeader(<-statuses)
			io.WriteString(out, "busy")
		})
		w.enqueue(1, "api")
		w.until("the job has ended", func() bool { return w.count("status IN ('completed', 'failed')") == 1 })
		w.wantLogged(c.what, c.want...)
	}
}

func TestLogOfAnHTTPAttemptIsWrittenWhileSomebodyFollowsIt(t *testing.T) {
	w := newWorld(t)
	statuses := make(chan int)
	a := w.startCalls(func(out http.ResponseWriter, _ *http.Request) {
		out.WriteHeader(<-statuses)
		json.NewEncoder(out).Encode(map[string]bool{"ok": true})
	})
	w.enqueue(1, "api")
	statuses <- 502
	var id jobs.ID
	w.scan(&id, "SELECT id FROM jobs.tb_job_run")
	w.until("the agent answers", func() bool {
		if err := jobs.AskForLog(w.ctx, w.pool, id); err != nil {
			t.Fatal(err)
		}
		return len(w.logged()) == 2
	})
	w.wantLogged("under way", `agent try 1 failed: .* 502 Bad Gateway.*`, `agent next try in .*`)
	statuses <- 200
	w.until("the job has ended", func() bool { return w.count("status = 'completed'") == 1 })
	w.wantLogged("at the end", `agent try 1 failed: .*`, `agent next try in .*`, `agent try 2: .* 200 OK; .*`)

	w.exec("DELETE FROM jobs.tb_job_run")
	w.exec("DELETE FROM jobs.tb_job_log")
	w.enqueue(1, "api")
	w.until("the job runs", func() bool { return w.count("status = 'running'") == 1 })
	w.scan(&id, "SELECT id FROM jobs.tb_job_run")
	if err := jobs.AskForLog(w.ctx, w.pool, id); err != nil {
		t.Fatal(err)
	}
	w.until("the agent has heard it", func() bool {
		a.logs.mu.Lock()
		defer a.logs.mu.Unlock()
		return a.logs.followed[id] != nil
	})
	statuses <- 200
	w.until("the second job has ended", func() bool { return w.count("status = 'completed'") == 1 })
	w.wantLogged("of a success that was followed", `agent try 1: .* 200 OK; .*`)
}
