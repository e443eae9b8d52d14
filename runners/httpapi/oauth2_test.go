package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// tokenServer gives out tokens token-1, token-2 … that live for as many
// seconds, or what answer says instead.
type tokenServer struct {
	*httptest.Server
	asked   atomic.Int64
	seconds int
	answer  http.HandlerFunc
	form    atomic.Value // string: of the last request
}

func newTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{seconds: 3600}
	s.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		n := s.asked.Add(1)
		if s.answer != nil {
			s.answer(w, r)
			return
		}
		if id, secret, _ := r.BasicAuth(); id != "my-client" || secret != "s3cr3t-v4lue" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error": "invalid_client", "error_description": "who?"}`)
			return
		}
		r.ParseForm()
		s.form.Store(r.PostForm.Encode())
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d", n), "token_type": "bearer", "expires_in": s.seconds})
	})
	return s
}

var clientEnv = env(map[string]string{"ID": "my-client", "SECRET": "s3cr3t-v4lue", "WRONG": "wr0ng-v4lue"})

// oauthCall makes a call of a service that takes tokens of s.
func oauthCall(base string, s *tokenServer) runners.Call {
	call := newCall(base, `{}`)
	call.Service.RunnerConfig.AuthType = "oauth2"
	call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{
		TokenURL: s.URL + "/token", ClientIDEnvVar: "ID", ClientSecretEnvVar: "SECRET", Scopes: []string{"pay", "refund"}, Audience: "https://api",
	}
	return call
}

func TestJobsShareATokenUntilItExpires(t *testing.T) {
	s := newTokenServer(t)
	var mu sync.Mutex
	got := map[string]int{}
	service := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got[r.Header.Get("Authorization")]++
		mu.Unlock()
		io.WriteString(w, `{"echo": "`+r.Header.Get("Authorization")+`"}`)
	})
	r := newRunner(t, httpapi.Options{LookupEnv: clientEnv})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			result, err := r.Run(t.Context(), oauthCall(service.URL, s))
			if err != nil || strings.Contains(string(result.Output), "token-1") {
				t.Errorf("output %s, %v", result.Output, err)
			}
		})
	}
	wg.Wait()
	if s.asked.Load() != 1 || got["Bearer token-1"] != 20 {
		t.Errorf("%d tokens were asked for, and used: %v", s.asked.Load(), got)
	}
	if form := s.form.Load(); form != "audience=https%3A%2F%2Fapi&grant_type=client_credentials&scope=pay+refund" {
		t.Errorf("form = %s", form)
	}

	brief := newTokenServer(t)
	brief.seconds = 1 // less than the margin in which a token counts as expired
	for range 3 {
		mustRun(t, r, oauthCall(service.URL, brief))
	}
	if brief.asked.Load() != 3 {
		t.Errorf("%d tokens were asked for, want one for each attempt", brief.asked.Load())
	}
}

func TestATokenThatTheServiceRefusesIsReplacedOnce(t *testing.T) {
	s := newTokenServer(t)
	valid := "Bearer token-2"
	calls := 0
	service := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; r.Header.Get("Authorization") != valid {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{}`)
	})
	r := newRunner(t, httpapi.Options{LookupEnv: clientEnv})
	mustRun(t, r, oauthCall(service.URL, s))
	mustRun(t, r, oauthCall(service.URL, s))
	if s.asked.Load() != 2 || calls != 3 {
		t.Errorf("%d tokens, %d requests, want 2 and 3", s.asked.Load(), calls)
	}
	valid = "none"
	_, err := r.Run(t.Context(), oauthCall(service.URL, s))
	if err == nil || runners.Retryable(err) || calls != 5 {
		t.Errorf("after %d requests: %v", calls, err)
	}
}

func TestWithoutATokenTheServiceIsNotAsked(t *testing.T) {
	service := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the service got a request") })
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		change func(*runners.Call)
		words  string
		again  bool // another attempt may help
		asked  int64
	}{
		{"wrong secret", nil, func(c *runners.Call) { c.Service.RunnerConfig.AuthConfig.ClientSecretEnvVar = "WRONG" }, "401: invalid_client who?; check client_id_env_var", false, 2},
		{"down", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "s3cr3t-v4lue is busy", http.StatusServiceUnavailable)
		}, nil, "503: *** is busy", true, 2},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, service.URL, http.StatusTemporaryRedirect)
		}, nil, "307", true, 2},
		{"no token", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"token_type": "bearer"}`)
		}, nil, "no access token", true, 2},
		{"unset", nil, func(c *runners.Call) { c.Service.RunnerConfig.AuthConfig.ClientIDEnvVar = "NONE" }, "NONE", false, 0},
		{"no address", nil, func(c *runners.Call) { c.Service.RunnerConfig.AuthConfig.TokenURL = "" }, "token_url", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTokenServer(t)
			s.answer = c.answer
			call := oauthCall(service.URL, s)
			if c.change != nil {
				c.change(&call)
			}
			_, err := newRunner(t, httpapi.Options{LookupEnv: clientEnv}).Run(t.Context(), call)
			if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "v4lue") || runners.Retryable(err) != c.again {
				t.Errorf("error = %v", err)
			}
			if s.asked.Load() > c.asked { // the library tries both places for credentials
				t.Errorf("asked %d times", s.asked.Load())
			}
		})
	}
}

// TestATokenIsAskedForOnlyWhereTheRegistrySays: the endpoint's host is granted
// by being named, where its name leads is not.
func TestATokenIsAskedForOnlyWhereTheRegistrySays(t *testing.T) {
	c := newCanary(t)
	r := newRunner(t, httpapi.Options{LookupEnv: clientEnv, Resolver: resolving("127.0.0.1")})
	call := oauthCall("http://203.0.113.1", &tokenServer{Server: &httptest.Server{URL: "http://id.example.com:" + c.port}})
	policy := refusal(t, r, call)
	if policy.Rule != "allowed_networks" {
		t.Errorf("rule = %s", policy.Rule)
	}
	c.untouched(t)
}

func TestATokenEndpointsTroubleIsRetriedWithinTheAttempt(t *testing.T) {
	s := newTokenServer(t)
	plain := s.answer
	s.answer = func(w http.ResponseWriter, r *http.Request) {
		if s.asked.Load() >= 4 {
			s.answer = plain
		}
		http.Error(w, "busy", http.StatusServiceUnavailable)
	}
	server, requests := record(t)
	call := oauthCall(server.URL, s)
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
	if _, err := newRunner(t, httpapi.Options{LookupEnv: clientEnv}).Run(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if got := (<-requests).Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer token-") {
		t.Errorf("Authorization = %q", got)
	}
}

// TestARefusedTokenWithoutRoomForAnotherTryIsLeftToALaterAttempt: the token may
// have been revoked, so neither is the job lost nor the token kept.
func TestARefusedTokenWithoutRoomForAnotherTryIsLeftToALaterAttempt(t *testing.T) {
	for _, c := range []struct {
		name  string
		opens time.Duration
		err   error
		after time.Duration // of the error; negative: it says nothing
	}{
		{"no room", 12 * time.Second, nil, 12 * time.Second},
		{"nobody knows", 0, errors.New("no database"), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTokenServer(t)
			requests := 0
			service := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if requests++; requests > 1 && r.Header.Get("Authorization") == "Bearer token-1" { // revoked meanwhile
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				io.WriteString(w, `{}`)
			})
			r := newRunner(t, httpapi.Options{LookupEnv: clientEnv})
			mustRun(t, r, oauthCall(service.URL, s))
			call := oauthCall(service.URL, s)
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			call.Again = func(context.Context) (time.Duration, error) { return c.opens, c.err }
			_, err := r.Run(t.Context(), call)
			after := time.Duration(-1)
			if later := (*runners.RetryAfterError)(nil); errors.As(err, &later) {
				after = later.After
			}
			if err == nil || !runners.Retryable(err) || after != c.after || !strings.Contains(err.Error(), "answered 401") {
				t.Errorf("error = %v, to come again after %s, want %s", err, after, c.after)
			}
			if requests != 2 {
				t.Errorf("%d requests, want 2", requests)
			}
			mustRun(t, r, oauthCall(service.URL, s)) // the later attempt, with room
			if s.asked.Load() != 2 || requests != 3 {
				t.Errorf("the later attempt: %d tokens and %d requests in all, want 2 and 3", s.asked.Load(), requests)
			}
		})
	}
}

// TestTheWayToATokenIsNotTheWayToTheService: a service that was never reached may
// be asked again, though the token's server was reached before.
func TestTheWayToATokenIsNotTheWayToTheService(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close() // now nobody listens there
	s := newTokenServer(t)
	var service *httptest.Server
	r := newRunner(t, httpapi.Options{LookupEnv: clientEnv, Sleep: func(context.Context, time.Duration) error {
		again, err := net.Listen("tcp", address) // the service comes up while the runner waits
		if err != nil {
			return err
		}
		service = &httptest.Server{Listener: again, Config: &http.Server{Handler: http.HandlerFunc(ok)}}
		service.Start()
		return nil
	}})
	call := oauthCall("http://"+address, s)
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 1
	call.Log = runners.NewLog()
	result := mustRun(t, r, call) // a POST without an idempotency_key
	defer service.Close()
	const ms = `[0-9]+\.[0-9]{3} ms`
	wantLog(t, call.Log,
		"try 1 failed: .*refused; took "+ms+` \(no connection, token `+ms+", connect "+ms+`\)`,
		"next try in .*",
		"try 2: .* 200 OK; took "+ms+` \(new connection to `+regexp.QuoteMeta(address)+", connect "+ms+", first byte "+ms+`\)`)
	if result.Security["address"] != address {
		t.Errorf("security = %v, want the service's address %s", result.Security, address)
	}
}
