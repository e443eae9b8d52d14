package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

func TestTheOperationsMethodAndPathMakeTheRequest(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{})
	for _, c := range []struct {
		name, base, method, path, input string
		want                            string // method and request URI
		body                            string // empty: none
	}{
		{"default", "", "", "", `{"amount": 5}`, "POST /create_charge", `{"amount": 5}`},
		{"base with a path", "/v1", "", "", `{}`, "POST /v1/create_charge", `{}`},
		{"base with a slash at its end", "/v1/", "POST", "/charges", `{}`, "POST /v1/charges", `{}`},
		{"path without a slash", "/v1", "put", "charges/1", `{"a": 1}`, "PUT /v1/charges/1", `{"a": 1}`},
		{"escaped base", "/a%2Fb", "", "c", `{}`, "POST /a%2Fb/c", `{}`},
		{"field", "/v1", "PATCH", "/charges/{id}/refund", `{"id": "ch_1", "n": 2}`, "PATCH /v1/charges/ch_1/refund", `{"id": "ch_1", "n": 2}`},
		{"number", "", "GET", "/c/{id}", `{"id": 12345678901234567890}`, "GET /c/12345678901234567890", ""},
		{"one segment", "", "GET", "/c/{id}", `{"id": "a/../b?c#d e%2F\\"}`, "GET /c/a%2F..%2Fb%3Fc%23d%20e%252F%5C", ""},
		{"not a host", "", "GET", "/{id}", `{"id": "//evil.test"}`, "GET /%2F%2Fevil.test", ""},
		{"part of a segment", "", "GET", "/c-{a}.{b}", `{"a": true, "b": "x"}`, "GET /c-true.x", ""},
		{"query from the rest", "", "GET", "/c/{id}", `{"id": 1, "q": "a b&c", "n": 1.50, "list": [1], "o": {}, "z": null, "t": false}`, "GET /c/1?n=1.50&q=a+b%26c&t=false", ""},
		{"registry's query stays", "?v=2", "GET", "/c?mode=test&of={id}", `{"id": "a&b", "mode": "live", "v": 3, "x": 1}`, "GET /c?v=2&mode=test&of=a%26b&x=1", ""},
		{"field of an object", "", "GET", "/c/{card.id}", `{"card": {"id": "c 1"}, "n": 1}`, "GET /c/c%201?n=1", ""},
		{"delete", "", "DELETE", "/c/{id}", `{"id": 1}`, "DELETE /c/1", ""},
		{"no input", "", "POST", "", ``, "POST /create_charge", `{}`},
		{"null input", "", "POST", "", `null`, "POST /create_charge", `{}`},
		{"array input", "", "POST", "", `[1, 2]`, "POST /create_charge", `[1, 2]`},
		{"get without input", "", "GET", "", ``, "GET /create_charge", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			call := newCall(server.URL+c.base, c.input)
			call.Operation.Method, call.Operation.Path = c.method, c.path
			mustRun(t, r, call)
			got := <-requests
			if line := got.Method + " " + got.RequestURI; line != c.want {
				t.Errorf("request = %s\nwant      %s", line, c.want)
			}
			if got.body != c.body {
				t.Errorf("body = %q, want %q", got.body, c.body)
			}
			if (c.body != "") != (got.Header.Get("Content-Type") == "application/json") {
				t.Errorf("Content-Type = %q", got.Header.Get("Content-Type"))
			}
		})
	}
}

func TestAPathThatTheInputCannotFillIsAConfigurationFault(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	for _, c := range []struct{ path, input, words string }{
		{"/c/{id}", `{}`, `"id"`},
		{"/c/{id}", ``, `"id"`},
		{"/c/{id}", `[1]`, `"id"`},
		{"/c/{id}", `{"id": null}`, `"id"`},
		{"/c/{id}", `{"id": {"a": 1}}`, `"id"`},
		{"/c/{id}", `{"id": ""}`, `"id" is empty`},
		{"/c/{a.id}", `{"a": {"ID": 1}}`, `"a.id"`},
		{"/c/{a.id}", `{"a": 1}`, `"a.id"`},
		{"/c/{id}/x", `{"id": ".."}`, "would change the path"},
		{"/c/{id}", `{"id": "."}`, "would change the path"},
		{"/c/{a}{b}", `{"a": ".", "b": "."}`, "would change the path"},
		{"/c/.{a}", `{"a": "."}`, "would change the path"},
		{"/c/{id", `{"id": 1}`, "without a field name"},
		{"/c/{}", `{"": 1}`, "without a field name"},
		{"/c/%zz", `{}`, "hexadecimal"},
	} {
		call := newCall("http://127.0.0.1:1", c.input)
		call.Operation.Path = c.path
		configFault(t, r, call, c.words)
	}
	call := newCall("http://127.0.0.1:1", `{}`)
	call.Operation.Method = "CONNECT"
	configFault(t, r, call, `"CONNECT"`)
	configFault(t, r, newCall("api.stripe.com/v1", `{}`), "base_url is not an absolute")
	configFault(t, r, newCall("https://0x7f.1/", `{}`), "unusual spelling")
}

func TestTheJobIsNamedInTheHeaders(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{Version: "1.4.0"})
	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.Headers = map[string]string{"stripe-version": "2026-01-01", "accept": "application/vnd.api+json", "Accept-Encoding": "br", "Host": "tenant.internal"}
	call.Job.CorrelationID = "bestellung\r\nX-Evil: 1 ü"
	mustRun(t, r, call)
	got := <-requests
	for name, want := range map[string]string{
		"User-Agent": "specql-agent/1.4.0", "Content-Type": "application/json",
		"Accept": "application/vnd.api+json", "Stripe-Version": "2026-01-01", "Accept-Encoding": "gzip",
		"Idempotency-Key": testIDText, "X-SpecQL-Job-Id": testIDText, "X-SpecQL-Identifier": "job-42",
		"X-SpecQL-Attempt": "1", "X-SpecQL-Correlation-Id": "bestellung%0D%0AX-Evil: 1 %C3%BC", "X-Evil": "",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if _, sent := got.Header["X-Specql-Tenant-Id"]; sent {
		t.Error("an empty tenant is sent")
	}
	if got.Host != "tenant.internal" {
		t.Errorf("Host = %q", got.Host)
	}

	call.Job.IdempotencyKey, call.Job.TenantID, call.Job.Attempt = "charge-7", jobs.ID{1}.String(), 2
	mustRun(t, r, call)
	got = <-requests
	if got.Header.Get("Idempotency-Key") != "charge-7" || len(got.Header.Values("Idempotency-Key")) != 1 {
		t.Errorf("Idempotency-Key = %q, want the row's", got.Header.Values("Idempotency-Key"))
	}
	if got.Header.Get("X-SpecQL-Tenant-Id") == "" || got.Header.Get("X-SpecQL-Attempt") != "2" {
		t.Errorf("tenant or attempt is missing: %v", got.Header)
	}

	call.Service.RunnerConfig.Headers = map[string]string{"X-Bad": "a\r\nb"}
	configFault(t, r, call, `"X-Bad"`)
}

func TestTheTraceGoesOnInTheService(t *testing.T) {
	server, requests := record(t)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := propagation.TraceContext{}.Extract(t.Context(), propagation.MapCarrier{"traceparent": parent})
	if _, err := newRunner(t, httpapi.Options{}).Run(ctx, newCall(server.URL, `{}`)); err != nil {
		t.Fatal(err)
	}
	if got := (<-requests).Header.Get("Traceparent"); got != parent {
		t.Errorf("traceparent = %q, want %q", got, parent)
	}
}

func TestARowOfAServiceWithoutBaseURLDescribesItsRequest(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{})
	for _, c := range []struct{ name, rest, want, body string }{
		{"payload", `, "payload": {"a": 1}`, "POST /hook?x=1", `{"a": 1}`},
		{"method", `, "method": "put", "payload": [1]`, "PUT /hook?x=1", `[1]`},
		{"get", `, "method": "GET", "payload": {"q": "a b", "x": 2}`, "GET /hook?x=1&q=a+b", ""},
		{"no payload", `, "amount": 5, "headers": {"X-Mine": "1"}`, "POST /hook?x=1", `{"amount":5}`},
		{"null payload", `, "payload": null`, "POST /hook?x=1", `{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			mustRun(t, r, rowCall(`{"endpoint": "`+server.URL+`/hook?x=1#part"`+c.rest+`}`, "127.0.0.1"))
			got := <-requests
			if line := got.Method + " " + got.RequestURI; line != c.want || got.body != c.body {
				t.Errorf("got %s %q, want %s %q", line, got.body, c.want, c.body)
			}
			if c.name == "no payload" && got.Header.Get("X-Mine") != "1" {
				t.Error("the row's own header is not sent")
			}
		})
	}
	configFault(t, r, rowCall(`{}`, "127.0.0.1"), "endpoint")
	configFault(t, r, rowCall(`{"endpoint": 7}`, "127.0.0.1"), "endpoint")
	configFault(t, r, rowCall(`{"endpoint": "`+server.URL+`", "method": "TRACE"}`, "127.0.0.1"), "TRACE")
	configFault(t, r, rowCall(`{"endpoint": "`+server.URL+`", "headers": {"A": 1}}`, "127.0.0.1"), "headers")
}

func TestARowMayNotSetWhatSaysWhoAsksOrHowTheConnectionWorks(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{LookupEnv: func(string) (string, bool) { return "sk_live_12345678", true }})
	for _, name := range []string{
		"Host", "host", "Authorization", "AUTHORIZATION", "Proxy-Authorization", "Cookie", "Connection", "Keep-Alive",
		"Transfer-Encoding", "Content-Length", "TE", "Trailer", "Upgrade", "Expect", "X-Forwarded-For", "Forwarded",
		"X-SpecQL-Job-Id", "Idempotency-Key", "X-Service", "X-API-KEY", "bad name", "A\r\nB", "",
	} {
		input, _ := json.Marshal(map[string]any{"endpoint": server.URL, "headers": map[string]string{name: "1"}})
		call := rowCall(string(input), "127.0.0.1")
		call.Service.RunnerConfig.Headers = map[string]string{"x-service": "fixed"}
		call.Service.RunnerConfig.AuthType = "api_key"
		call.Service.RunnerConfig.AuthConfig.APIKeyEnvVar = "KEY"
		refusal(t, r, call)
	}
	refusal(t, r, rowCall(`{"endpoint": "`+server.URL+`", "headers": {"X-Mine": "a\r\nHost: b"}}`, "127.0.0.1"))
	if len(requests) != 0 {
		t.Errorf("%d requests were sent", len(requests))
	}
}

func TestARequestLargerThanMaxRequestSizeIsNotSent(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{})
	call := newCall(server.URL, `{"text": "`+strings.Repeat("x", 100)+`"}`)
	call.Service.SecurityPolicy.MaxRequestSize = int64(len(call.Job.Input))
	mustRun(t, r, call)
	<-requests

	call.Service.SecurityPolicy.MaxRequestSize--
	if policy := refusal(t, r, call); policy.Rule != "max_request_size" || policy.Permit != "max_request_size: 112" {
		t.Errorf("refusal = %+v", policy)
	}
	call.Operation.Method = http.MethodGet // as large in the query
	call.Service.SecurityPolicy.MaxRequestSize = 50
	refusal(t, r, call)
	call = newCall(server.URL, `"`+strings.Repeat("x", 10<<20)+`"`)
	refusal(t, r, call) // by default 10 MiB
	if len(requests) != 0 {
		t.Errorf("%d requests were sent", len(requests))
	}
}

func TestARowsTimeoutCountsWhereItIsSmaller(t *testing.T) {
	server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	r := newRunner(t, httpapi.Options{})
	call := newCall(server.URL+"/v1?key=abc", `{}`)
	call.Job.RunnerConfig = json.RawMessage(`{"timeout": 0.25}`)
	_, err := r.Run(t.Context(), call)
	if want := "POST " + server.URL + "/v1/create_charge: timed out after 250ms"; err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant    %s", err, want)
	}
	if !runners.Retryable(err) {
		t.Error("a timeout may be retried")
	}
	for _, bad := range []string{`{"timeout": 0}`, `{"timeout": -1}`, `{"timeout": "30"}`, `[]`} {
		call.Job.RunnerConfig = json.RawMessage(bad)
		configFault(t, r, call, "runner_config")
	}
}
