package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
	"github.com/specql/specql-ops/runners/runnertest"
)

func TestConformance(t *testing.T) {
	hanging := make(chan struct{}, 1)
	handle := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/Succeed":
			io.WriteString(w, runnertest.SuccessOutput)
		case "/PlainText":
			io.WriteString(w, runnertest.PlainTextOutput)
		case "/Fail":
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, runnertest.FailureText+" for "+r.Header.Get("Authorization"))
		case "/Crash":
			io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		case "/HugeOutput":
			line := []byte(strings.Repeat("x", 1023) + "\n")
			for n := 0; n < runnertest.HugeOutputBytes; n += len(line) {
				if _, err := w.Write(line); err != nil {
					return // the runner has had enough, as it should
				}
			}
		case "/Hang":
			// The body is read so that the server notices the client leave.
			io.Copy(io.Discard, r.Body)
			hanging <- struct{}{}
			<-r.Context().Done()
		case "/Reveal":
			r.Header.Write(w)
		}
	}
	runnertest.Suite(t, runnertest.Harness{
		New: func(t *testing.T) runners.Runner {
			return newRunner(t, httpapi.Options{})
		},
		Call: func(t *testing.T, b runnertest.Behaviour) runners.Call {
			select {
			case <-hanging: // a Hang that nobody awaited
			default:
			}
			call := newCall(serve(t, handle).URL, `{"items": 3}`)
			call.Job.ID = jobs.NewID()
			call.Operation.Path = "/" + b.String()
			call.Service.RunnerConfig.AuthType = "bearer"
			call.Service.RunnerConfig.AuthConfig = registry.AuthConfig{TokenEnvVar: runnertest.SecretEnv}
			if b == runnertest.Refused {
				call.Service.SecurityPolicy.AllowedDomains = []string{"api.stripe.com"}
			}
			return call
		},
		Hung: func(*testing.T) bool { return len(hanging) > 0 },
		AwaitHang: func(t *testing.T) {
			select {
			case <-hanging:
			case <-time.After(10 * time.Second):
				t.Fatal("the service never got the request")
			}
		},
	})
}
