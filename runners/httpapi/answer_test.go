package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// answering starts a server with one answer.
func answering(t testing.TB, status int, contentType, body string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}).URL
}

func TestEveryAnswerBecomesAnObject(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	for _, c := range []struct {
		name, contentType, body, want string
		status                        int
	}{
		{"object", "application/json", ` {"id": "ch_1", "n": 1} `, `{"id": "ch_1", "n": 1}`, 200},
		{"object under any type", "text/html", `{"id": 1}`, `{"id": 1}`, 201},
		{"object after a BOM", "application/json", "\ufeff{}", `{}`, 200},
		{"array", "application/json", `[1, 2]`, `{"body": [1, 2], "status_code": 200}`, 200},
		{"array under any type", "text/plain", `[1, 2]`, `{"body": [1, 2], "status_code": 200}`, 200},
		{"number", "application/problem+json; charset=utf-8", `7`, `{"body": 7, "status_code": 200}`, 200},
		{"number as text", "text/plain", `7`, `{"body": "7", "status_code": 200}`, 200},
		{"null", "application/json", `null`, `{"body": null, "status_code": 200}`, 200},
		{"text", "text/plain", "done\n<ok>", `{"body": "done\n<ok>", "status_code": 200}`, 200},
		{"empty", "text/plain", "", `{"body": "", "status_code": 200}`, 200},
		{"broken object", "application/json", `{"id": `, `{"body": "{\"id\":", "status_code": 202}`, 202},
		{"two objects", "application/json", `{} {}`, `{"body": "{} {}", "status_code": 200}`, 200},
		{"bytes", "image/png", "\x89PNG\x00\xff\n", `{"body_base64": "iVBORwD/Cg==", "content_type": "image/png", "status_code": 200}`, 200},
		{"text that is called bytes", "application/octet-stream", "done", `{"body": "done", "status_code": 200}`, 200},
		{"another encoding", "text/plain; charset=ISO-8859-1", "Gr\xfc\xdfe", `{"body": "Grüße", "status_code": 200}`, 200},
		{"an encoding that nobody knows", "text/plain; charset=x-own", "Gr\xfc", `{"body": "Gr\ufffd", "status_code": 200}`, 200},
		{"bytes that are called text", "text/plain", "a\x00\xff", `{"body": "a\ufffd\ufffd", "status_code": 200}`, 200},
		{"xml", "application/soap+xml", "<ok/>", `{"body": "<ok/>", "status_code": 200}`, 200},
		{"form", "application/x-www-form-urlencoded", "a=1&b=2", `{"body": "a=1&b=2", "status_code": 200}`, 200},
		{"nul in an object", "application/json", `{"a\u0000": "\u0000x", "b": "\\u0000"}`, `{"a\ufffd": "\ufffdx", "b": "\\u0000"}`, 200},
		{"unpaired surrogate", "application/json", `{"a": "\ud800"}`, `{"a": "\ufffd"}`, 200},
		{"pair", "application/json", `{"a": "\ud83d\ude00"}`, `{"a": "😀"}`, 200},
		{"numbers keep their digits", "application/json", `{"a": 12345678901234567890.10, "b": 1e308}`, `{"a": 12345678901234567890.10, "b": 1e308}`, 200},
		{"huge number", "application/json", `{"a": [1e131073, -1E-20000], "b": 7}`, `{"a": ["1e131073", "-1E-20000"], "b": 7}`, 200},
		{"invalid utf-8 in an object", "application/json", "{\"a\": \"\xff\"}", `{"a": "\ufffd"}`, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			result := mustRun(t, r, newCall(answering(t, c.status, c.contentType, c.body), `{}`))
			sameJSON(t, result.Output, c.want)
			if bytes.Contains(result.Output, []byte(`\ud800`)) || !utf8.Valid(result.Output) {
				t.Errorf("jsonb refuses %s", result.Output)
			}
		})
	}
	t.Run("nested beyond reason", func(t *testing.T) {
		deep := `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`
		quoted, _ := json.Marshal(deep)
		result := mustRun(t, r, newCall(answering(t, 200, "application/json", deep), `{}`))
		sameJSON(t, result.Output, `{"body": `+string(quoted)+`, "status_code": 200}`)
	})
	t.Run("no content", func(t *testing.T) {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		sameJSON(t, mustRun(t, r, newCall(server.URL, `{}`)).Output, `{"body": "", "status_code": 204}`)
	})
}

// TestMethodsWithoutABodyOfTheirOwn: what HEAD announces is what GET would have
// answered, and OPTIONS may answer with anything.
func TestMethodsWithoutABodyOfTheirOwn(t *testing.T) {
	private := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(private.cert)
	for _, http2 := range []bool{false, true} {
		for _, c := range []struct {
			method, length, body string
			status               int
			want                 string
		}{
			{"HEAD", "", "", 200, `{"body": "", "status_code": 200}`},
			{"HEAD", "17", "", 200, `{"body": "", "status_code": 200}`},
			{"HEAD", "65536", "", 200, `{"body": "", "status_code": 200}`},
			{"HEAD", "1000000000", "", 200, `{"body": "", "status_code": 200}`}, // more than max_response_size
			{"OPTIONS", "", "", 204, `{"body": "", "status_code": 204}`},
			{"OPTIONS", "17", `{"allow": "POST"}`, 200, `{"allow": "POST"}`},
			{"GET", "17", `{"allow": "POST"}`, 200, `{"allow": "POST"}`},
			{"DELETE", "0", "", 200, `{"body": "", "status_code": 200}`},
		} {
			requests := make(chan seen, 1)
			server := serveTLS(t, private, nil, http2, func(w http.ResponseWriter, r *http.Request) {
				requests <- seen{r, ""}
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Allow", "POST")
				if c.length != "" {
					w.Header().Set("Content-Length", c.length)
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			call := newCall(server.URL, `{"q": 1}`)
			call.Operation.Method = c.method
			result, err := newRunner(t, httpapi.Options{RootCAs: roots}).Run(t.Context(), call)
			if err != nil {
				t.Errorf("%s, %s bytes announced, HTTP/2 %v: %v", c.method, c.length, http2, err)
				continue
			}
			sameJSON(t, result.Output, c.want)
			if got := <-requests; got.Method != c.method || got.RequestURI != "/create_charge?q=1" || got.ProtoMajor == 2 != http2 {
				t.Errorf("the service got %s %s by %s", got.Method, got.RequestURI, got.Proto)
			}
		}
	}
	call := newCall(serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "17")
		w.WriteHeader(http.StatusNotFound)
	}).URL, `{}`)
	call.Operation.Method = "HEAD"
	if _, err := newRunner(t, httpapi.Options{}).Run(t.Context(), call); err == nil || runners.Retryable(err) || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("HEAD of what is not there: %v", err)
	}
}

func TestAFailedAnswerIsKeptAndItsStartIsInTheError(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	base := answering(t, 402, "application/json", `{"error": "card\u0007 declined"}`)
	result, err := r.Run(t.Context(), newCall(base, `{}`))
	sameJSON(t, result.Output, `{"error": "card\u0007 declined"}`)
	want := "POST " + base + `/create_charge: the service answered 402 Payment Required: {"error":"card\u0007 declined"}`
	if err == nil || err.Error() != want {
		t.Errorf("error = %v\nwant    %s", err, want)
	}

	base = answering(t, 500, "text/plain", "line 1\r\n\x1b[31mline\x00 2\u202e\n"+strings.Repeat("ü", 600))
	result, err = r.Run(t.Context(), newCall(base, `{}`))
	var wrapped struct {
		Body       string `json:"body"`
		StatusCode int    `json:"status_code"`
	}
	if e := json.Unmarshal(result.Output, &wrapped); e != nil || wrapped.StatusCode != 500 || !strings.HasSuffix(wrapped.Body, "ü") {
		t.Errorf("output = %.80s, %v", result.Output, e)
	}
	_, excerpt, _ := strings.Cut(err.Error(), "Internal Server Error: ")
	if !strings.HasPrefix(excerpt, "line 1 [31mline 2 üüü") || len(excerpt) > 500 || !utf8.ValidString(excerpt) {
		t.Errorf("excerpt of %d bytes = %q", len(excerpt), excerpt)
	}
}

func TestAnAnswerLargerThanMaxResponseSizeIsALimitError(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	body := `{"text": "` + strings.Repeat("x", 1000) + `"}`
	call := newCall(answering(t, 200, "application/json", body), `{}`)
	call.Service.SecurityPolicy.MaxResponseSize = int64(len(body))
	mustRun(t, r, call)

	call.Service.SecurityPolicy.MaxResponseSize--
	result, err := r.Run(t.Context(), call)
	var limit *runners.LimitError
	if !errors.As(err, &limit) || limit.Limit != "max_response_size" || limit.Used != "1012 bytes" {
		t.Errorf("error = %v", err)
	}
	var kept struct {
		Body       string `json:"body"`
		StatusCode int    `json:"status_code"`
		Cut        int    `json:"body_truncated_bytes"`
	}
	if err := json.Unmarshal(result.Output, &kept); err != nil || kept.StatusCode != 200 || kept.Cut != 1 ||
		kept.Body != body[:1011]+"\n[1 more bytes were cut off]" {
		t.Errorf("output %s, %v", result.Output, err)
	}
	if err != nil && !strings.HasPrefix(err.Error(), "Resource limit: ") {
		t.Errorf("error = %v", err)
	}

	// A failed answer is cut instead: its status says more than its size.
	call = newCall(answering(t, 500, "text/plain", "the disk is full"+strings.Repeat("x", 1000)), `{}`)
	call.Service.SecurityPolicy.MaxResponseSize = 100
	result, err = r.Run(t.Context(), call)
	if err == nil || !strings.Contains(err.Error(), "500 Internal Server Error: the disk is full") || len(result.Output) > 200 {
		t.Errorf("error = %v, output %s", err, result.Output)
	}
}

func TestGzipIsUnpackedAndCountedUnpacked(t *testing.T) {
	// packed answers with gzip of what write writes.
	packed := func(write func(*gzip.Writer, http.Flusher) error) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				t.Errorf("Accept-Encoding = %q", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			if write(z, w.(http.Flusher)) == nil {
				z.Close()
			}
		}).URL
	}
	r := newRunner(t, httpapi.Options{})
	small := packed(func(z *gzip.Writer, _ http.Flusher) error {
		_, err := io.WriteString(z, `{"ok": true}`)
		return err
	})
	sameJSON(t, mustRun(t, r, newCall(small, `{}`)).Output, `{"ok": true}`)

	endless := packed(func(z *gzip.Writer, w http.Flusher) error {
		zeros := make([]byte, 64<<10)
		for {
			if _, err := z.Write(zeros); err != nil {
				return err // the runner has had enough
			}
			// So well packed, megabytes would wait in buffers otherwise.
			if err := z.Flush(); err != nil {
				return err
			}
			w.Flush()
		}
	})
	call := newCall(endless, `{}`)
	call.Service.SecurityPolicy.MaxResponseSize = 64 << 10
	// Only a runner that reads on without end comes to this deadline.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := r.Run(ctx, call)
	var limit *runners.LimitError
	if !errors.As(err, &limit) || ctx.Err() != nil {
		t.Errorf("error = %v, context = %v: the answer was read on beyond its limit", err, ctx.Err())
	}
}

func TestAnAnswerThatBreaksOffIsAFailureThatMayBeRetried(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"half": `)
	})
	_, err := newRunner(t, httpapi.Options{}).Run(t.Context(), newCall(server.URL, `{}`))
	if err == nil || !runners.Retryable(err) || !strings.Contains(err.Error(), "broke off after 9 bytes") {
		t.Errorf("error = %v", err)
	}
}

func TestTLSIsCheckedAndRecorded(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the refused handshake below
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	result := mustRun(t, newRunner(t, httpapi.Options{RootCAs: pool}), newCall(server.URL, `{}`))
	if result.Security["tls"] != "1.3" {
		t.Errorf("security = %v", result.Security)
	}

	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
	var waited []time.Duration
	opts := waits(&waited)
	opts.RootCAs = x509.NewCertPool()
	_, err := newRunner(t, opts).Run(t.Context(), call)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error = %v", err)
	}
	if len(waited) != 0 {
		t.Errorf("a certificate that does not hold was tried %d times more", len(waited))
	}
}

// FuzzOutput holds that whatever a service answers becomes an object that
// shows no secret.
func FuzzOutput(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a": "\u0000\ud800"}`, `["sk\u005flive"]`, "sk_live_1", "\xff\x00", `"sk_live_1"`, `1e999`} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("X-Type"))
		io.Copy(w, r.Body)
	}))
	f.Cleanup(server.Close)
	r := newRunner(f, httpapi.Options{LookupEnv: env(map[string]string{"TOKEN": "sk_live_1"})})
	f.Fuzz(func(t *testing.T, body string, isJSON bool) {
		call := newCall(server.URL, "")
		call.Job.Input = json.RawMessage(body)
		call.Service.RunnerConfig.AuthType = "bearer"
		call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "TOKEN"
		call.Service.RunnerConfig.Headers = map[string]string{"X-Type": "text/plain"}
		if isJSON {
			call.Service.RunnerConfig.Headers["X-Type"] = "application/json"
		}
		result := mustRun(t, r, call)
		decoder := json.NewDecoder(bytes.NewReader(result.Output))
		decoder.UseNumber()
		var object map[string]any
		if err := decoder.Decode(&object); err != nil || object == nil {
			t.Fatalf("%v: %q", err, result.Output)
		}
		again, _ := json.Marshal(object)
		if strings.Contains(string(again), "sk_live_1") || strings.Contains(string(again), `\u0000`) && !strings.Contains(string(again), `\\u0000`) || !utf8.Valid(result.Output) {
			t.Fatalf("output = %q", result.Output)
		}
	})
}
