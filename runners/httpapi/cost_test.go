package httpapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// serveCanned answers each request with the same object, and takes no memory
// for it.
func serveCanned(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\r\n" + `{"ok": true, "id": "ch_0123456789"}`)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				// A request of these tests ends with its body's brace.
				var request [8 << 10]byte
				for n := 0; ; {
					got, err := conn.Read(request[n:])
					if err != nil {
						return
					}
					if n += got; request[n-1] != '}' || !bytes.Contains(request[:n], []byte("\r\n\r\n")) {
						continue
					}
					n = 0
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// bareCall is the least that a client does for a job: a request that can be
// cancelled, its answer read whole.
func bareCall(ctx context.Context, client *http.Client, url string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// agentCall makes a call as the agent does: with a deadline and a log.
func agentCall(ctx context.Context, r *httpapi.Runner, call runners.Call) error {
	ctx, cancel := context.WithTimeout(ctx, call.Timeout)
	defer cancel()
	call.Log = runners.NewLog()
	_, err := r.Run(ctx, call)
	return err
}

func BenchmarkBareClient(b *testing.B) {
	url := serveCanned(b) + "/create_charge"
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	body := []byte(`{"amount": 5}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := bareCall(b.Context(), client, url, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRunner(b *testing.B) {
	r := newRunner(b, httpapi.Options{})
	call := newCall(serveCanned(b), `{"amount": 5}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := agentCall(b.Context(), r, call); err != nil {
			b.Fatal(err)
		}
	}
}

// TestACallTakesLittleMoreMemoryThanABareClient keeps the budget of
// allocations: what the runner adds to a bare client's. Both are counted here,
// so that what another version of net/http takes falls on both.
func TestACallTakesLittleMoreMemoryThanABareClient(t *testing.T) {
	const budget = 14
	url := serveCanned(t)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	body := []byte(`{"amount": 5}`)
	bare := testing.AllocsPerRun(500, func() {
		if err := bareCall(t.Context(), client, url+"/create_charge", body); err != nil {
			t.Fatal(err)
		}
	})
	r := newRunner(t, httpapi.Options{})
	call := newCall(url, string(body))
	call.Job.CorrelationID, call.Job.TenantID, call.Job.IdempotencyKey = "order-7", "6f0cbb1e-4f0e-4d1e-8f5e-1c6f6d1f2a3b", "charge-7"
	ours := testing.AllocsPerRun(500, func() {
		if err := agentCall(t.Context(), r, call); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("bare client %.0f, runner %.0f", bare, ours)
	if ours > bare+budget {
		t.Errorf("a call takes %.0f allocations, a bare client %.0f: more than %d more", ours, bare, budget)
	}
	r = newRunner(t, httpapi.Options{LookupEnv: env(map[string]string{"TOKEN": "sk_live_0123456789"})})
	call.Service.RunnerConfig.AuthType, call.Service.RunnerConfig.AuthConfig.TokenEnvVar = "bearer", "TOKEN"
	with := testing.AllocsPerRun(500, func() {
		if err := agentCall(t.Context(), r, call); err != nil {
			t.Fatal(err)
		}
	})
	if with > ours+5 {
		t.Errorf("credentials take %.0f allocations", with-ours)
	}
}
