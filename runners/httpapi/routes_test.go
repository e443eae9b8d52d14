package httpapi_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/specql/specql-ops/runners/httpapi"
)

// counting starts a server that counts the connections made to it.
func counting(t testing.TB, handler http.HandlerFunc) (base string, connections *atomic.Int64) {
	t.Helper()
	connections = new(atomic.Int64)
	server := httptest.NewUnstartedServer(handler)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL, connections
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) }

func TestConnectionsOutliveAReloadThatLeavesTheServiceAlone(t *testing.T) {
	base, connections := counting(t, ok)
	r := newRunner(t, httpapi.Options{})
	for range 5 {
		mustRun(t, r, newCall(base, `{}`)) // each with a *registry.Service of its own
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	changed := newCall(base, `{}`)
	changed.Service.SecurityPolicy.AllowedDomains = []string{"127.0.0.1"}
	mustRun(t, r, changed)
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2: a connection made under one policy served another", n)
	}
}

func TestManyConcurrentJobsDoNotChurnConnections(t *testing.T) {
	const jobs = 300
	var arrived sync.WaitGroup
	base, connections := counting(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		arrived.Done()
		arrived.Wait() // all of a round are in flight at once
		ok(w, r)
	})
	r := newRunner(t, httpapi.Options{})
	for range 3 {
		arrived.Add(jobs)
		var round sync.WaitGroup
		for range jobs {
			round.Go(func() {
				if _, err := r.Run(t.Context(), newCall(base, `{}`)); err != nil {
					t.Error(err)
				}
			})
		}
		round.Wait()
	}
	// A connection goes back to the pool a moment after its answer was read,
	// so a few may be made beyond the first round's.
	if n := connections.Load(); n > jobs*3/2 {
		t.Errorf("%d connections for %d concurrent jobs", n, jobs)
	}
}

func TestTheNumberOfKeptRoutesIsBounded(t *testing.T) {
	base, connections := counting(t, ok)
	r := newRunner(t, httpapi.Options{MaxRoutes: 2})
	run := func(service string) {
		call := newCall(base, `{}`)
		call.Service.Name = service
		mustRun(t, r, call)
	}
	for _, step := range []struct {
		service string
		made    int64
	}{{"a", 1}, {"b", 2}, {"a", 2}, {"c", 3}, {"a", 3}, {"b", 4}} {
		run(step.service)
		if n := connections.Load(); n != step.made {
			t.Fatalf("%d connections after %s, want %d", n, step.service, step.made)
		}
	}
}

func TestTheRunnerWorksOnAfterClose(t *testing.T) {
	base, _ := counting(t, ok)
	r := newRunner(t, httpapi.Options{})
	mustRun(t, r, newCall(base, `{}`))
	r.Close()
	mustRun(t, r, newCall(base, `{}`))
}

// BenchmarkRun compares the runner with a bare net/http client on the same
// request; ratio is the runner's time over the client's.
func BenchmarkRun(b *testing.B) {
	base, _ := counting(b, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, `{"id": "ch_1", "status": "succeeded"}`)
	})
	const input = `{"amount": 1999, "currency": "eur", "customer": "cus_42"}`
	var bare, run float64
	b.Run("bare", func(b *testing.B) {
		transport := &http.Transport{}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		b.ReportAllocs()
		for b.Loop() {
			postBare(b, client, base+"/create_charge", input)
		}
		bare = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	})
	for _, auth := range []string{"none", "bearer"} {
		b.Run("runner,auth="+auth, func(b *testing.B) {
			r := newRunner(b, httpapi.Options{LookupEnv: env(map[string]string{"TOKEN": "sk_live_0123456789abcdef"})})
			call := newCall(base, input)
			call.Service.RunnerConfig.AuthType = auth
			call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "TOKEN"
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Run(b.Context(), call); err != nil {
					b.Fatal(err)
				}
			}
			run = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			b.ReportMetric(run/bare, "ratio")
		})
	}
}

func postBare(b *testing.B, client *http.Client, url, input string) {
	b.Helper()
	answer, err := client.Post(url, "application/json", strings.NewReader(input))
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		b.Fatal(err)
	}
}
