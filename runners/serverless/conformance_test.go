package serverless_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/lambdadev"
	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/runnertest"
	"github.com/specql/specql-ops/runners/serverless"
)

func TestConformance(t *testing.T) {
	var server *lambdadev.Server // of one of the suite's tests: with it end the function's processes
	hanging := make(chan struct{}, 1)
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hanging <- struct{}{} }))
	t.Cleanup(gate.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", runnertest.Secret)
	events := map[runnertest.Behaviour]lambdatest.Event{
		runnertest.Succeed:    {},
		runnertest.PlainText:  {Do: lambdatest.Text, Text: runnertest.PlainTextOutput},
		runnertest.Fail:       {Do: lambdatest.Fail, Text: runnertest.FailureText},
		runnertest.HugeOutput: {Do: lambdatest.Huge, Bytes: runnertest.HugeOutputBytes},
		runnertest.Crash:      {Do: lambdatest.Exit},
		runnertest.Hang:       {Do: lambdatest.Hang, Tell: gate.URL},
		runnertest.Reveal:     {Do: lambdatest.Reveal},
	}
	runnertest.Suite(t, runnertest.Harness{
		New: func(t *testing.T) runners.Runner {
			server = lambdatest.Start(t, lambdadev.Options{})
			lambdatest.Create(t, lambdatest.Client(server.URL(), "us-east-1"), "probe", lambdatest.Zip(t), 256, 60)
			return newRunner(t, serverless.Options{})
		},
		Call: func(t *testing.T, b runnertest.Behaviour) runners.Call {
			select {
			case <-hanging: // a Hang that nobody awaited
			default:
			}
			call := newCall(server.URL(), events[b])
			call.Job.ID = jobs.NewID()
			if b == runnertest.HugeOutput {
				call.Operation.InvocationType = "response_stream"
			}
			if b == runnertest.Refused {
				call.Service.SecurityPolicy.AllowedRegions = []string{"eu-west-1"}
			}
			return call
		},
		Hung: func(*testing.T) bool { return len(hanging) > 0 },
		AwaitHang: func(t *testing.T) {
			select {
			case <-hanging:
			case <-time.After(20 * time.Second):
				t.Fatal("the function never began")
			}
		},
		Measures: []string{"memory_mb", "peak_memory_mb", "billed_ms", "cost_usd"},
		Crowd:    20, // each is a process
	})
}
