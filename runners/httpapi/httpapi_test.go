package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

func TestMain(m *testing.M) {
	// The runner promises to leave a proxy alone; one that nobody can reach
	// makes every test of this package notice if it did not.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		os.Setenv(name, "http://127.0.0.1:1")
	}
	goleak.VerifyTestMain(m)
}

// discard is for servers whose complaints are the test's own doing.
var discard = log.New(io.Discard, "", 0)

var testID = jobs.ID{0x0d, 0x3e, 0x11, 0xaa, 0x00, 0x01, 0x4a, 0x02, 0x80, 0x03, 0, 0, 0, 0, 0, 0x2a}

const testIDText = "0d3e11aa-0001-4a02-8003-00000000002a"

// newRunner makes a Runner that waits for nothing between tries and closes
// with the test.
func newRunner(t testing.TB, opts httpapi.Options) *httpapi.Runner {
	t.Helper()
	if opts.Sleep == nil {
		opts.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	r := httpapi.New(opts)
	t.Cleanup(r.Close)
	return r
}

// newCall makes a call of a service at base, which has one operation.
func newCall(base, input string) runners.Call {
	service := &registry.Service{
		Name:          "stripe_api",
		ExecutionType: jobs.HTTP,
		RunnerConfig:  registry.RunnerConfig{BaseURL: base},
		Operations:    []registry.Operation{{Name: "create_charge"}},
	}
	job := &jobs.Job{ID: testID, Identifier: "job-42", Service: service.Name, Operation: "create_charge", Attempt: 1, MaxAttempts: 3}
	if input != "" {
		job.Input = json.RawMessage(input)
	}
	return runners.Call{Job: job, Service: service, Operation: &service.Operations[0], Timeout: 30 * time.Second}
}

// rowCall makes a call of a service without base_url that permits domains.
func rowCall(input string, domains ...string) runners.Call {
	call := newCall("", input)
	call.Service.SecurityPolicy.AllowedDomains = domains
	return call
}

// serve starts a server that ends with the test.
func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// seen is what a server got.
type seen struct {
	*http.Request
	body string
}

// record starts a server that answers {"ok": true} and hands on what it gets.
func record(t testing.TB) (*httptest.Server, <-chan seen) {
	t.Helper()
	requests := make(chan seen, 16)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests <- seen{r, string(body)}
		io.WriteString(w, `{"ok": true}`)
	})
	return server, requests
}

func mustRun(t testing.TB, r *httpapi.Runner, call runners.Call) runners.Result {
	t.Helper()
	result, err := r.Run(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// refusal runs a call that must be refused by the policy.
func refusal(t testing.TB, r *httpapi.Runner, call runners.Call) *runners.PolicyError {
	t.Helper()
	_, err := r.Run(t.Context(), call)
	var policy *runners.PolicyError
	if !errors.As(err, &policy) {
		t.Fatalf("error is not a PolicyError: %v", err)
	}
	if !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("%q does not say \"not allowed\"", err)
	}
	return policy
}

// configFault runs a call that must fail as misconfigured, with words.
func configFault(t testing.TB, r *httpapi.Runner, call runners.Call, words string) {
	t.Helper()
	_, err := r.Run(t.Context(), call)
	var config *runners.ConfigError
	if !errors.As(err, &config) {
		t.Fatalf("error is not a ConfigError: %v", err)
	}
	if !strings.Contains(err.Error(), words) {
		t.Errorf("%q does not say %q", err, words)
	}
}

func sameJSON(t testing.TB, got []byte, want string) {
	t.Helper()
	normal := func(raw []byte) string {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatalf("%v: %.200s", err, raw)
		}
		b, _ := json.Marshal(v)
		return string(b)
	}
	if normal(got) != normal([]byte(want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
