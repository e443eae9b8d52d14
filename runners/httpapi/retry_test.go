package httpapi_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// script starts a server that answers each request with the next status, and
// with the last one from then on. It counts the requests.
func script(t *testing.T, header http.Header, statuses ...int) (base string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		n := int(count.Add(1))
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(statuses[min(n, len(statuses))-1])
		io.WriteString(w, `{"n": `+strconv.Itoa(n)+`}`)
	})
	return server.URL, count
}

// waits makes options that record each wait instead of waiting.
func waits(record *[]time.Duration) httpapi.Options {
	return httpapi.Options{
		Jitter: func() float64 { return 0.5 },
		Now:    func() time.Time { return time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC) },
		Sleep: func(ctx context.Context, d time.Duration) error {
			*record = append(*record, d)
			return ctx.Err()
		},
	}
}

func TestARequestIsRepeatedOnlyWhereThatIsSafe(t *testing.T) {
	for _, c := range []struct {
		name, method, key string
		statuses          []int
		requests          int64
		fails             bool
	}{
		{"get", "GET", "", []int{503, 502, 200}, 3, false},
		{"put", "PUT", "", []int{500, 200}, 2, false},
		{"delete", "DELETE", "", []int{504, 200}, 2, false},
		{"post with the row's key", "POST", "k", []int{429, 200}, 2, false},
		{"post without a key", "POST", "", []int{503, 200}, 1, true},
		{"patch without a key", "PATCH", "", []int{503, 200}, 1, true},
		{"no more than max_retries", "GET", "", []int{503}, 4, true},
		{"a status that is not listed", "GET", "", []int{501, 200}, 1, true},
		{"a final status", "GET", "", []int{404, 200}, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, count := script(t, nil, c.statuses...)
			call := newCall(base, `{}`)
			call.Operation.Method, call.Job.IdempotencyKey = c.method, c.key
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			_, err := newRunner(t, httpapi.Options{}).Run(t.Context(), call)
			if (err != nil) != c.fails {
				t.Errorf("error = %v", err)
			}
			if n := count.Load(); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}

func TestAPostWhoseConnectionWasNeverMadeIsRepeated(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // now nobody listens there
	var server *httptest.Server
	opts := httpapi.Options{Sleep: func(context.Context, time.Duration) error {
		again, err := net.Listen("tcp", address) // the service comes up while the runner waits
		if err != nil {
			return err
		}
		server = &httptest.Server{Listener: again, Config: &http.Server{Handler: http.HandlerFunc(
			func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"up": true}`) })}}
		server.Start()
		return nil
	}}
	call := newCall("http://"+address, `{}`)
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 1
	result := mustRun(t, newRunner(t, opts), call)
	defer server.Close()
	sameJSON(t, result.Output, `{"up": true}`)
}

// TestAPostWhoseConnectionBrokeIsNotRepeatedWithoutTheRowsKey: neither by the
// runner nor by net/http, which goes by the names of headers.
func TestAPostWhoseConnectionBrokeIsNotRepeatedWithoutTheRowsKey(t *testing.T) {
	for _, c := range []struct {
		name, key string
		header    string // of the registry, or of the row
		row       bool
		hits      int64
	}{
		{"no key", "", "", false, 2},
		{"the row's key", "charge-7", "", false, 3},
		{"the registry's Idempotency-Key", "", "Idempotency-Key", false, 2},
		{"the registry's X-Idempotency-Key", "", "x-idempotency-key", false, 2},
		{"the row's X-Idempotency-Key", "", "X-Idempotency-Key", true, 2},
		{"both keys", "charge-7", "X-Idempotency-Key", false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var hits atomic.Int64
			var header atomic.Value
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				header.Store(r.Header)
				if hits.Add(1) == 2 {
					// The charge was made, and the answer is lost.
					conn, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					conn.Close()
					return
				}
				io.WriteString(w, `{}`)
			})
			r := newRunner(t, httpapi.Options{})
			call := newCall(server.URL, `{}`)
			if c.row {
				call = rowCall(`{"endpoint": "`+server.URL+`", "headers": {"`+c.header+`": "fixed"}}`, "127.0.0.1")
			} else if c.header != "" {
				call.Service.RunnerConfig.Headers = map[string]string{c.header: "fixed"}
			}
			call.Job.IdempotencyKey = c.key
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			mustRun(t, r, call) // makes the connection that is kept alive, and then breaks
			_, err := r.Run(t.Context(), call)
			if (err == nil) != (c.key != "") {
				t.Errorf("error = %v", err)
			}
			if err != nil && !runners.Retryable(err) {
				t.Errorf("a broken connection may be retried later: %v", err)
			}
			if n := hits.Load(); n != c.hits {
				t.Errorf("the service was asked %d times, want %d", n, c.hits)
			}
			if c.header != "" {
				if got := header.Load().(http.Header).Values(c.header); len(got) != 1 || got[0] != "fixed" {
					t.Errorf("%s = %q", c.header, got)
				}
			}
		})
	}
}

func TestWaitsGrowWithFullJitterUpToThirtySeconds(t *testing.T) {
	base, _ := script(t, nil, 503)
	var waited []time.Duration
	call := newCall(base, `{}`)
	call.Operation.Method = "GET"
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 9
	if _, err := newRunner(t, waits(&waited)).Run(t.Context(), call); err == nil {
		t.Fatal("no error")
	}
	want := []time.Duration{250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000} // ms; half of the ceiling each
	for i := range want {
		if i >= len(waited) || waited[i] != want[i]*time.Millisecond {
			t.Fatalf("waited %v, want %v ms", waited, want)
		}
	}
}

func TestRetryAfterIsHonouredWithinTheDeadline(t *testing.T) {
	for _, c := range []struct {
		value string
		wait  time.Duration
	}{
		{"7", 7 * time.Second},
		{"0", 0},
		{"Mon, 23 Nov 2026 09:00:09 GMT", 9 * time.Second},
		{"Mon, 23 Nov 2026 08:00:00 GMT", 0},
		{"soon", 250 * time.Millisecond},
		{"-5", 250 * time.Millisecond},
	} {
		base, _ := script(t, http.Header{"Retry-After": {c.value}}, 429, 200)
		var waited []time.Duration
		call := newCall(base, `{}`)
		call.Operation.Method = "GET"
		call.Service.RunnerConfig.RetryConfig.MaxRetries = 1
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := newRunner(t, waits(&waited)).Run(ctx, call); err != nil {
			t.Fatal(err)
		}
		if len(waited) != 1 || waited[0] != c.wait {
			t.Errorf("%q: waited %v, want %v", c.value, waited, c.wait)
		}
	}
}

func TestRetryAfterBeyondTheDeadlineIsHandedBack(t *testing.T) {
	for _, c := range []struct {
		name, value, method string
		after               time.Duration
	}{
		{"too long", "120", "GET", 2 * time.Minute},
		{"not safe to repeat", "1", "POST", time.Second},
		{"years", "4000000000", "GET", 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, count := script(t, http.Header{"Retry-After": {c.value}}, 503)
			var waited []time.Duration
			call := newCall(base, `{}`)
			call.Operation.Method = c.method
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			result, err := newRunner(t, waits(&waited)).Run(ctx, call)
			var later *runners.RetryAfterError
			if !errors.As(err, &later) || later.After != c.after {
				t.Errorf("error = %#v, want a RetryAfterError of %s", err, c.after)
			}
			if !runners.Retryable(err) || len(waited) != 0 || count.Load() != 1 {
				t.Errorf("waited %v, %d requests", waited, count.Load())
			}
			sameJSON(t, result.Output, `{"n": 1}`)
		})
	}
}

func TestAStatusSaysWhetherAnotherAttemptMayHelp(t *testing.T) {
	for _, c := range []struct {
		status int
		listed []int
		final  bool
	}{
		{400, nil, true}, {401, nil, true}, {404, nil, true}, {409, nil, true}, {422, nil, true}, {304, nil, true},
		{408, nil, false}, {425, nil, false}, {429, nil, false}, {500, nil, false}, {501, nil, false}, {503, nil, false},
		{409, []int{409}, false}, {429, []int{409}, false},
	} {
		base, _ := script(t, nil, c.status)
		call := newCall(base, `{}`)
		call.Service.RunnerConfig.RetryConfig.RetryStatusCodes = c.listed
		_, err := newRunner(t, httpapi.Options{}).Run(t.Context(), call)
		if err == nil || runners.Retryable(err) == c.final {
			t.Errorf("%d, listed %v: final should be %v: %v", c.status, c.listed, c.final, err)
		}
		if err != nil && !strings.Contains(err.Error(), "answered "+strconv.Itoa(c.status)) {
			t.Errorf("%d is not named: %v", c.status, err)
		}
	}
}

func TestARedirectLoopEnds(t *testing.T) {
	var hits atomic.Int64
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		http.Redirect(w, r, "/again", http.StatusTemporaryRedirect)
	})
	_, err := newRunner(t, httpapi.Options{}).Run(t.Context(), newCall(server.URL, `{}`))
	if err == nil || runners.Retryable(err) || !strings.Contains(err.Error(), "redirected 10 times") {
		t.Errorf("error = %v", err)
	}
	if hits.Load() != 10 {
		t.Errorf("%d requests", hits.Load())
	}
}

func TestCancelEndsTheWaitBetweenTries(t *testing.T) {
	base, _ := script(t, nil, 503)
	ctx, cancel := context.WithCancel(t.Context())
	opts := httpapi.Options{Sleep: func(ctx context.Context, _ time.Duration) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}
	call := newCall(base, `{}`)
	call.Operation.Method = "GET"
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 5
	if _, err := newRunner(t, opts).Run(ctx, call); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

func TestEachTryIsInTheAttemptsLogWithItsTiming(t *testing.T) {
	private := newAuthority(t)
	n := 0
	server := serveTLS(t, private, nil, false, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "sk_live_1 is busy")
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(private.cert)
	r := newRunner(t, httpapi.Options{RootCAs: roots, Jitter: func() float64 { return 0.5 }, LookupEnv: env(map[string]string{"TOKEN": "sk_live_1"}),
		Resolver: resolving("127.0.0.1")})
	call := newCall(server.URL, `{}`)
	call.Operation.Method = "GET"
	call.Service.RunnerConfig.AuthType, call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "bearer", "TOKEN"
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
	call.Log = runners.NewLog()
	mustRun(t, r, call)
	const ms = `[0-9]+\.[0-9]{3} ms`
	url := regexp.QuoteMeta("GET " + server.URL + "/create_charge: ")
	at := regexp.QuoteMeta(server.Listener.Addr().String())
	wantLog(t, call.Log,
		"try 1 failed: "+url+`the service answered 503 Service Unavailable: \*\*\* is busy; took `+ms+` \(new connection to `+at+`, connect `+ms+`, TLS `+ms+`, first byte `+ms+`\)`,
		"next try in 250.000 ms",
		"try 2 failed: .*; took "+ms+` \(connection kept to `+at+`, first byte `+ms+`\)`,
		"next try in 500.000 ms",
		"try 3: "+url+"200 OK; took "+ms+` \(connection kept to `+at+`, first byte `+ms+`\)`,
	)

	// A name is looked up first, and a refused connection has no first byte.
	gone := newCall("http://api.example.com:1", `{}`)
	gone.Service.SecurityPolicy.AllowedNetworks = []string{"127.0.0.0/8"}
	gone.Log = runners.NewLog()
	if _, err := r.Run(t.Context(), gone); err == nil {
		t.Fatal("no error")
	}
	wantLog(t, gone.Log, `try 1 failed: POST http://api.example.com:1/create_charge: .*refused; took `+ms+` \(no connection, DNS `+ms+`, connect `+ms+`\)`)

	post := newCall(server.URL, `{}`)
	n = 0
	post.Service.RunnerConfig.RetryConfig.MaxRetries = 1
	post.Log = runners.NewLog()
	if _, err := r.Run(t.Context(), post); err == nil {
		t.Fatal("no error")
	}
	wantLog(t, post.Log, "try 1 failed: .*", "not tried again within this attempt: a POST without an idempotency_key is not safe to repeat")
}

func wantLog(t *testing.T, log *runners.Log, patterns ...string) {
	t.Helper()
	lines, _ := log.Tail()
	if len(lines) != len(patterns) {
		t.Fatalf("log = %v", lines)
	}
	for i, line := range lines {
		if !regexp.MustCompile("^" + patterns[i] + "$").MatchString(line.Text) {
			t.Errorf("line %d = %s\nwant     %s", i+1, line.Text, patterns[i])
		}
	}
}

// What limits the service's requests counts its retries too: where there is no
// room, the attempt ends and the job comes again when there is.
func TestARetryAsksTheServicesLimitForRoom(t *testing.T) {
	for _, c := range []struct {
		name     string
		opens    time.Duration
		err      error
		room     int
		requests int64
		after    time.Duration // of the error; negative: it says nothing
	}{
		{"room for all", 0, nil, 3, 4, -1},
		{"room for one", 12 * time.Second, nil, 1, 2, 12 * time.Second},
		{"nobody knows", 0, errors.New("no database"), 0, 1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, count := script(t, nil, 503)
			call := newCall(base, `{}`)
			call.Operation.Method = "GET"
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			asked := 0
			call.Again = func(context.Context) (time.Duration, error) {
				if asked++; asked <= c.room {
					return 0, nil
				}
				return c.opens, c.err
			}
			_, err := newRunner(t, httpapi.Options{}).Run(t.Context(), call)
			after := time.Duration(-1)
			if later := (*runners.RetryAfterError)(nil); errors.As(err, &later) {
				after = later.After
			}
			if err == nil || after != c.after {
				t.Errorf("error = %v, to come again after %s, want %s", err, after, c.after)
			}
			if n := count.Load(); n != c.requests {
				t.Errorf("%d requests, want %d", n, c.requests)
			}
		})
	}
}
