package docker

import (
	"os"
	"slices"
	"testing"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/runnertest"
)

func TestConformance(t *testing.T) {
	needEngine(t)
	suite(t, Options{})
}

func suite(t *testing.T, opts Options) {
	var hanging runners.Call
	runnertest.Suite(t, runnertest.Harness{
		New: func(t *testing.T) runners.Runner { return newRunner(t, opts) },
		Call: func(t *testing.T, b runnertest.Behaviour) runners.Call {
			var call runners.Call
			switch b {
			case runnertest.Succeed:
				call = newCall("stdin")
				call.Job.Input = []byte(runnertest.SuccessOutput)
			case runnertest.PlainText:
				call = newCall("stdin")
				call.Job.Input = []byte(runnertest.PlainTextOutput)
			case runnertest.Fail:
				call = newCall("exit", "3", runnertest.FailureText)
			case runnertest.HugeOutput:
				call = newCall("huge", "32")
			case runnertest.Crash:
				call = newCall("crash")
			case runnertest.Hang:
				call = newCall("hang")
				hanging = call
			case runnertest.Refused:
				call = newCall("argv")
				call.Service.SecurityPolicy.AllowedImages = []string{"debian:12"}
			case runnertest.Reveal:
				call = newCall("env")
				call.Service.RunnerConfig.Environment = map[string]string{"API_TOKEN": os.Getenv(runnertest.SecretEnv)}
			}
			return call
		},
		AwaitHang: func(t *testing.T) { awaitLine(t, hanging.Log, "hanging") },
		Hung: func(*testing.T) bool {
			lines, _ := hanging.Log.Tail()
			return slices.ContainsFunc(lines, func(l runners.LogLine) bool { return l.Text == "hanging" })
		},
		Measures: []string{"cpu_usage_percent", "memory_mb", "peak_memory_mb"},
	})
}
