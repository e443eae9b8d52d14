package shell

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/runnertest"
)

func TestConformance(t *testing.T) {
	hanging := ""
	runnertest.Suite(t, runnertest.Harness{
		New: func(t *testing.T) runners.Runner { return newRunner(t) },
		Call: func(t *testing.T, b runnertest.Behaviour) runners.Call {
			var call runners.Call
			switch b {
			case runnertest.Succeed:
				call = newCall(t, "stdin")
				call.Job.Input = []byte(runnertest.SuccessOutput)
			case runnertest.PlainText:
				call = newCall(t, "stdin")
				call.Job.Input = []byte(runnertest.PlainTextOutput)
			case runnertest.Fail:
				call = newCall(t, "exit", "3", runnertest.FailureText)
			case runnertest.HugeOutput:
				call = newCall(t, "huge")
			case runnertest.Crash:
				call = newCall(t, "panic")
			case runnertest.Hang:
				call = newCall(t)
				hanging = filepath.Join(call.Service.RunnerConfig.WorkingDirectory, "hanging")
				call.Operation.Command = []string{self(t), helperArg, "hang", hanging}
			case runnertest.Refused:
				call = newCall(t, "argv")
				call.Service.SecurityPolicy.AllowedCommands = []string{"/usr/bin/true"}
			case runnertest.Reveal:
				call = newCall(t, "env")
				call.Service.RunnerConfig.Environment = map[string]string{"API_TOKEN": os.Getenv(runnertest.SecretEnv)}
			}
			return call
		},
		AwaitHang: func(t *testing.T) { awaitFile(t, hanging) },
		Hung: func(*testing.T) bool {
			_, err := os.Stat(hanging)
			return err == nil
		},
		Measures: measured(),
	})
}

// measured is what this host measures of every job, short ones too.
func measured() []string {
	host := Probe()
	if runtime.GOOS == "linux" && slices.Contains(host.Controllers, "memory") {
		return []string{"cpu_usage_percent", "memory_mb", "peak_memory_mb"}
	}
	return []string{"cpu_usage_percent"}
}
