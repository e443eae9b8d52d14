package httpapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// env looks up in a map.
func env(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

func TestCredentialsComeFromTheNamedVariables(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{
		"TOKEN": "sk_live_1\n", "NAME": "alice", "PASS": "pa:ss", "EMPTY": "", "BROKEN": "a\nb", "COLON": "a:b",
	})})
	for _, c := range []struct {
		auth         string
		config       registry.AuthConfig
		header, want string
	}{
		{"bearer", registry.AuthConfig{TokenEnvVar: "TOKEN"}, "Authorization", "Bearer sk_live_1"},
		{"BASIC", registry.AuthConfig{UsernameEnvVar: "NAME", PasswordEnvVar: "PASS"}, "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:pa:ss"))},
		{"basic", registry.AuthConfig{UsernameEnvVar: "TOKEN"}, "Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("sk_live_1:"))},
		{"api_key", registry.AuthConfig{APIKeyEnvVar: "TOKEN"}, "X-API-Key", "sk_live_1"},
		{"api_key", registry.AuthConfig{APIKeyEnvVar: "TOKEN", HeaderName: "x-mine"}, "X-Mine", "sk_live_1"},
		{"none", registry.AuthConfig{TokenEnvVar: "TOKEN"}, "Authorization", ""},
		{"", registry.AuthConfig{TokenEnvVar: "TOKEN"}, "Authorization", ""},
	} {
		call := newCall(server.URL, `{}`)
		call.Service.RunnerConfig.AuthType, call.Service.RunnerConfig.AuthConfig = c.auth, c.config
		call.Service.RunnerConfig.Headers = map[string]string{}
		if c.want != "" { // what auth_config says counts over a header
			call.Service.RunnerConfig.Headers[c.header] = "overridden"
		}
		mustRun(t, r, call)
		if got := (<-requests).Header.Values(c.header); strings.Join(got, "|") != c.want {
			t.Errorf("%s: %s = %q, want %q", c.auth, c.header, got, c.want)
		}
	}
	for _, c := range []struct {
		auth   string
		config registry.AuthConfig
		words  string
	}{
		{"bearer", registry.AuthConfig{TokenEnvVar: "STRIPE_SECRET_KEY"}, "STRIPE_SECRET_KEY"},
		{"bearer", registry.AuthConfig{TokenEnvVar: "EMPTY"}, "EMPTY"},
		{"bearer", registry.AuthConfig{TokenEnvVar: "BROKEN"}, "BROKEN"},
		{"bearer", registry.AuthConfig{}, "token_env_var"},
		{"basic", registry.AuthConfig{UsernameEnvVar: "NAME", PasswordEnvVar: "NO_PASS"}, "NO_PASS"},
		{"basic", registry.AuthConfig{PasswordEnvVar: "PASS"}, "username_env_var"},
		{"basic", registry.AuthConfig{UsernameEnvVar: "COLON"}, "COLON"},
		{"api_key", registry.AuthConfig{}, "api_key_env_var"},
		{"api_key", registry.AuthConfig{APIKeyEnvVar: "TOKEN", HeaderName: "a b"}, "header_name"},
		{"digest", registry.AuthConfig{}, "digest"},
	} {
		call := newCall(server.URL, `{}`)
		call.Service.RunnerConfig.AuthType, call.Service.RunnerConfig.AuthConfig = c.auth, c.config
		configFault(t, r, call, c.words)
	}
	if len(requests) != 0 {
		t.Error("a request was sent without its credentials")
	}
}

func TestCredentialsDoNotFollowARedirectToAnotherHost(t *testing.T) {
	for _, back := range []bool{false, true} {
		t.Run(fmt.Sprintf("and back: %v", back), func(t *testing.T) {
			landed := make(chan seen, 1)
			land := func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				landed <- seen{r, string(body)}
				io.WriteString(w, `{}`)
			}
			var first http.Header
			var start, other *httptest.Server
			other = serve(t, func(w http.ResponseWriter, r *http.Request) {
				if back {
					http.Redirect(w, r, start.URL+"/back", http.StatusTemporaryRedirect)
					return
				}
				land(w, r)
			})
			start = serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/back" {
					land(w, r)
					return
				}
				first = r.Header.Clone()
				http.Redirect(w, r, other.URL+"/landed", http.StatusTemporaryRedirect)
			})
			r := newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{"TOKEN": "sk_live_12345678"})})
			call := newCall(start.URL+"?page=private", `{"amount": 5}`)
			call.Service.RunnerConfig.AuthType = "bearer"
			call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "TOKEN"
			call.Service.RunnerConfig.Headers = map[string]string{"X-Api-Key": "k-12345678", "Cookie": "session=1", "X-Idempotency-Key": "registry"}
			mustRun(t, r, call)
			if first.Get("Authorization") == "" || first.Get("X-Api-Key") == "" {
				t.Fatal("the first host got no credentials")
			}
			last := <-landed
			for _, name := range []string{"Authorization", "X-Api-Key", "Cookie", "X-Idempotency-Key", "Referer"} {
				if v := last.Header.Get(name); v != "" {
					t.Errorf("after the redirect, %s went to %s", name, last.Host)
				}
			}
			if last.body != `{"amount": 5}` || last.Header.Get("Idempotency-Key") == "" {
				t.Errorf("the redirected request lost its body or key: %q", last.body)
			}
		})
	}
}

func TestCredentialsFollowARedirectOnTheSameHost(t *testing.T) {
	got := make(chan string, 1)
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/landed" {
			http.Redirect(w, r, "/landed", http.StatusPermanentRedirect)
			return
		}
		got <- r.Header.Get("Authorization")
		io.WriteString(w, `{}`)
	})
	r := newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{"TOKEN": "sk_live_12345678"})})
	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.AuthType = "bearer"
	call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "TOKEN"
	mustRun(t, r, call)
	if auth := <-got; auth != "Bearer sk_live_12345678" {
		t.Errorf("Authorization = %q", auth)
	}
}

func TestASecretThatTheServiceEchoesIsMasked(t *testing.T) {
	const secret = `sk/li"ve<é>=+12345`
	quoted, _ := json.Marshal(secret)
	escaped := ""
	for _, r := range secret {
		escaped += fmt.Sprintf(`\u%04x`, r)
	}
	pair := base64.StdEncoding.EncodeToString([]byte("alice:" + secret))
	for name, body := range map[string]string{
		"plain text":         "you sent " + secret,
		"base64":             "you sent " + base64.StdEncoding.EncodeToString([]byte(secret)),
		"basic pair":         "you sent Basic " + pair,
		"url":                "https://x.test/?key=" + url.QueryEscape(secret),
		"json string":        `{"echo": ` + string(quoted) + `}`,
		"json key":           `{` + string(quoted) + `: 1}`,
		"json escapes":       `{"deep": [{"echo": "` + escaped + `"}]}`,
		"slash escaped":      `{"echo": "sk\/li\"ve<é>=+12345"}`,
		"json array":         `["` + escaped + `"]`,
		"json in text":       `echo: ` + string(quoted),
		"json pair":          `{"h": "Basic ` + pair + `"}`,
		"cut at the excerpt": strings.Repeat("x", 490) + secret,
	} {
		t.Run(name, func(t *testing.T) {
			status := http.StatusOK
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				io.WriteString(w, body)
			})
			var log bytes.Buffer
			r := newRunner(t, httpapi.Options{
				LookupEnv: env(map[string]string{"NAME": "alice", "PASS": secret}),
				Log:       slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			call := newCall(server.URL, `{}`)
			call.Service.RunnerConfig.AuthType = "basic"
			call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{UsernameEnvVar: "NAME", PasswordEnvVar: "PASS"}
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 1
			call.Job.IdempotencyKey = "k"
			for _, status = range []int{200, 503, 400} {
				result, err := r.Run(t.Context(), call)
				shown := string(result.Output) + fmt.Sprint(err) + log.String()
				var decoded any
				if e := json.Unmarshal(result.Output, &decoded); e != nil {
					t.Fatalf("%v: %s", e, result.Output)
				}
				shown += fmt.Sprint(decoded)
				for _, form := range []string{secret, "ve<é>", "12345", pair, base64.StdEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret)} {
					if strings.Contains(shown, form) {
						t.Errorf("status %d: %q is in %s", status, form, shown)
					}
				}
				if !strings.Contains(string(result.Output), "***") {
					t.Errorf("nothing is masked in %s", result.Output)
				}
			}
			if !strings.Contains(log.String(), testIDText) {
				t.Errorf("no line of the log names the job that was retried: %s", &log)
			}
		})
	}
}

func TestASecretNumberIsMaskedWithoutBreakingTheAnswer(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"pin": 12345678, "big": 98765432109876543210.50, "ok": 7}`)
	})
	r := newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{"PIN": "12345678"})})
	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.AuthType = "api_key"
	call.Service.RunnerConfig.AuthConfig.APIKeyEnvVar = "PIN"
	if got, want := string(mustRun(t, r, call).Output), `{"big":98765432109876543210.50,"ok":7,"pin":"***"}`; got != want {
		t.Errorf("output = %s, want %s", got, want)
	}
}

func TestASecretInAServicesOwnHeaderIsMasked(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"echo": %q, "mode": %q}`, r.Header.Get("X-Auth-Token"), r.Header.Get("X-Mode"))
	})
	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.Headers = map[string]string{"X-Auth-Token": "t-12345678", "X-Mode": "live-mode"}
	sameJSON(t, mustRun(t, newRunner(t, httpapi.Options{}), call).Output, `{"echo": "***", "mode": "live-mode"}`)
}

func TestAnErrorShowsNeitherQueryNorUserOfTheURL(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	call := newCall("http://127.0.0.1:1/v1?key=very-private", `{"q": "personal"}`)
	call.Operation.Method = http.MethodGet
	_, err := r.Run(t.Context(), call)
	if err == nil || !strings.HasPrefix(err.Error(), "GET http://127.0.0.1:1/v1/create_charge: ") {
		t.Fatalf("error = %v", err)
	}
	for _, private := range []string{"very-private", "personal"} {
		if strings.Contains(err.Error(), private) {
			t.Errorf("%q is in %v", private, err)
		}
	}
	_, err = r.Run(t.Context(), newCall("http://bob:hunter22@127.0.0.1:1/", `{}`))
	if err == nil || strings.Contains(err.Error(), "hunter22") || strings.Contains(err.Error(), "bob") {
		t.Errorf("error = %v", err)
	}
}

// parsed is a call of the service of a registry's text, with variables.
func parsed(t *testing.T, config, operation string, variables map[string]string, input string) runners.Call {
	t.Helper()
	parsed, diags := registry.Parse("test.yaml", []byte(`
services:
  - name: api
    type: t
    category: c
    runner_config: { `+config+` }
    operations: [{ name: run, `+operation+`, input_schema: {}, output_schema: {} }]
`), registry.Options{LookupEnv: env(variables)})
	if parsed == nil {
		t.Fatal(diags.Err())
	}
	call := newCall("", input)
	call.Service = parsed.Services[0]
	call.Operation = &call.Service.Operations[0]
	call.Log = runners.NewLog()
	return call
}

// everywhere is all that is shown of an attempt.
func everywhere(t *testing.T, r *httpapi.Runner, call runners.Call, log *bytes.Buffer) string {
	t.Helper()
	result, err := r.Run(t.Context(), call)
	security, _ := json.Marshal(result.Security)
	lines, _ := call.Log.Tail()
	return fmt.Sprint(string(result.Output), " ", string(security), " ", err, " ", lines, " ", log.String())
}

// TestAVariablesValueInAURLIsNotShown: whoever knows such an address may post to it.
func TestAVariablesValueInAURLIsNotShown(t *testing.T) {
	const secret = "T00/B00/x1y2 z3"
	variables := map[string]string{"HOOK_TOKEN": secret, "HOOK": secret, "KEY": "q-7f3a91c2"}
	for _, c := range []struct {
		name, path, operation string
		status                int
		words                 string
	}{
		{"success", "/services/${HOOK_TOKEN}", "method: PUT", 200, "/services/***/run: 200 OK"},
		{"failure", "/services/${HOOK_TOKEN}", "method: PUT", 500, "/services/***/run: the service answered 500"},
		{"refusal", "/services/${HOOK_TOKEN}", "method: PUT", 404, "/services/***/run: the service answered 404"},
		{"redirect", "/services/${HOOK_TOKEN}", "method: PUT", 307, "redirected 10 times"},
		{"operation", "", `path: "/hooks/${HOOK_TOKEN}?key=${KEY}"`, 500, "/hooks/***: the service answered 500"},
		{"a path that cannot be filled", "", `path: "/hooks/${HOOK_TOKEN}/{id}"`, 200, "no field"},
		{"a path that makes no sense", "", `path: "/hooks/${HOOK_TOKEN}/%zz"`, 200, `"/hooks/***/%zz"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if c.status == 307 {
					w.Header().Set("Location", r.RequestURI)
				}
				w.WriteHeader(c.status)
				fmt.Fprintf(w, `{"no such path": %q, "query": %q}`, r.URL.Path, r.URL.RawQuery)
			})
			var log bytes.Buffer
			r := newRunner(t, httpapi.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			call := parsed(t, `base_url: "`+server.URL+c.path+`", retry_config: { max_retries: 1 }`, c.operation, variables, `{}`)
			all := everywhere(t, r, call, &log)
			for _, form := range []string{secret, url.PathEscape(secret), "T00/B00/x1y2%20z3", "x1y2", "q-7f3a91c2"} {
				if strings.Contains(all, form) {
					t.Errorf("%q is in %s", form, all)
				}
			}
			if !strings.Contains(all, c.words) {
				t.Errorf("no %q in %s", c.words, all)
			}
		})
	}
	t.Run("nobody answers", func(t *testing.T) {
		call := parsed(t, `base_url: "http://127.0.0.1:1/services/${HOOK_TOKEN}"`, "method: PUT", variables, `{}`)
		if all := everywhere(t, newRunner(t, httpapi.Options{}), call, &bytes.Buffer{}); strings.Contains(all, "x1y2") || !strings.Contains(all, "PUT http://127.0.0.1:1/services/***/run: ") {
			t.Error(all)
		}
	})
	t.Run("a name that says nothing", func(t *testing.T) {
		for _, status := range []int{200, 500} {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"path": %q}`, r.URL.Path)
			})
			call := parsed(t, `base_url: "`+server.URL+`/services/${HOOK}"`, "method: PUT", variables, `{}`)
			result, err := newRunner(t, httpapi.Options{}).Run(t.Context(), call)
			lines, _ := call.Log.Tail()
			if told := fmt.Sprint(err, lines); strings.Contains(told, "x1y2") || !strings.Contains(told, "/services/***/run") {
				t.Errorf("%d: told %s", status, told)
			}
			if status == 200 { // the answer is the application's, and stays whole
				sameJSON(t, result.Output, `{"path": "/services/`+secret+`/run"}`)
			}
		}
	})
	t.Run("a whole URL", func(t *testing.T) {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"next": "http://%s%s/2"}`, r.Host, r.URL.Path)
		})
		call := parsed(t, `base_url: "${WHOLE}"`, "method: PUT", map[string]string{"WHOLE": server.URL + "/tenant-7/v1"}, `{}`)
		result := mustRun(t, newRunner(t, httpapi.Options{}), call)
		if lines, _ := call.Log.Tail(); len(lines) != 1 || !strings.Contains(lines[0].Text, server.URL+"/***/run: 200 OK") {
			t.Errorf("log %v", lines)
		}
		sameJSON(t, result.Output, `{"next": "`+server.URL+`/tenant-7/v1/run/2"}`) // the answer's links stay whole
	})
}

func TestASecretOfAVariableInAHeaderIsMasked(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"scope": %q, "mode": %q, "token": %q}`, r.Header.Get("X-Scope"), r.Header.Get("X-Mode"), r.Header.Get("X-Ref"))
	})
	call := parsed(t, `base_url: "`+server.URL+`", headers: { X-Scope: "Scope ${SCOPE}", X-Mode: live-mode, X-Ref: "${MY_TOKEN}" }`, "method: PUT",
		map[string]string{"SCOPE": "sc-12345678", "MY_TOKEN": "t-1234"}, `{}`)
	sameJSON(t, mustRun(t, newRunner(t, httpapi.Options{}), call).Output, `{"scope": "Scope sc-12345678", "mode": "live-mode", "token": "***"}`)
}
