package shell

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/specql/specql-ops/runners/program"
)

func TestEnvironmentIsExactlyTheRegistrysPlusSpecql(t *testing.T) {
	t.Setenv("AGENT_ONLY", "must stay with the agent")
	r := newRunner(t)
	call := newCall(t, "env")
	call.Service.RunnerConfig.Environment = map[string]string{"LOG_LEVEL": "INFO", "EMPTY": "", "SPECQL_ATTEMPT": "99", "TWO_LINES": "a b"}
	call.Timeout = 30 * time.Second
	call.Job.Attempt, call.Job.MaxAttempts = 2, 5
	call.Job.CorrelationID, call.Job.TenantID, call.Job.IdempotencyKey = "corr", "tenant", "key-1"
	got := map[string]string{}
	for line := range strings.Lines(stdout(t, mustRun(t, r, call))) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		got[name] = value
	}
	private := got["HOME"] == privateTmp
	if r.Host().Namespaces == "" {
		private = strings.HasPrefix(got["HOME"], r.base+"/")
	}
	if !private || got["HOME"] != got["TMPDIR"] {
		t.Errorf("HOME = %q and TMPDIR = %q are not the private directory", got["HOME"], got["TMPDIR"])
	}
	want := map[string]string{
		"LOG_LEVEL": "INFO", "EMPTY": "", "TWO_LINES": "a b", "PATH": "/usr/bin:/bin", "HOME": got["HOME"], "TMPDIR": got["HOME"],
		"SPECQL_JOB_ID": call.Job.ID.String(), "SPECQL_IDENTIFIER": call.Job.Identifier, "SPECQL_SERVICE": "helper", "SPECQL_OPERATION": "run",
		"SPECQL_ATTEMPT": "2", "SPECQL_MAX_ATTEMPTS": "5", "SPECQL_IDEMPOTENCY_KEY": "key-1", "SPECQL_CORRELATION_ID": "corr",
		"SPECQL_TENANT_ID": "tenant", "SPECQL_TIMEOUT_SECONDS": "30",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestTheTraceGoesAlongInTheEnvironment(t *testing.T) {
	r := newRunner(t)
	carried := propagation.MapCarrier{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1"}
	result, err := r.Run(propagation.TraceContext{}.Extract(t.Context(), carried), newCall(t, "env"))
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Split(stdout(t, result), "\n")
	for _, want := range []string{"SPECQL_TRACEPARENT=" + carried["traceparent"], "SPECQL_TRACESTATE=" + carried["tracestate"]} {
		if !slices.Contains(env, want) {
			t.Errorf("%q is missing in %q", want, env)
		}
	}
}

func TestOutputOverTheBoundIsCutAndCounted(t *testing.T) {
	r := newRunner(t)
	var out struct {
		Stdout    string `json:"stdout"`
		ExitCode  *int   `json:"exit_code"`
		Truncated int    `json:"stdout_truncated_bytes"`
	}
	if err := json.Unmarshal(mustRun(t, r, newCall(t, "huge")).Output, &out); err != nil {
		t.Fatal(err)
	}
	if want := 31 << 20; out.Truncated != want || len(out.Stdout) < program.Usual.Stdout || len(out.Stdout) > program.Usual.Stdout+100 || out.ExitCode == nil {
		t.Errorf("%d bytes kept and %d cut off, want %d and %d", len(out.Stdout), out.Truncated, program.Usual.Stdout, want)
	}
}

func TestFailureGivesStatusAndLastWords(t *testing.T) {
	r := newRunner(t)
	result, err := r.Run(t.Context(), newCall(t, "exit", "3", "first line\n\x1b[31mlast\r line\x1b[0m\n"))
	if err == nil || err.Error() != "exit status 3: first line [31mlast  line[0m" {
		t.Errorf("error = %v", err)
	}
	var out struct {
		Stderr   string `json:"stderr"`
		ExitCode int    `json:"exit_code"`
	}
	if err := json.Unmarshal(result.Output, &out); err != nil || out.ExitCode != 3 || !strings.HasPrefix(out.Stderr, "first line\n") {
		t.Errorf("output = %s", result.Output)
	}

	need(t, bash)
	killed := newCall(t)
	killed.Service.SecurityPolicy.AllowedCommands = []string{bash}
	killed.Operation.Command = []string{bash, "-c", "kill -SEGV $$"}
	result, err = r.Run(t.Context(), killed)
	if err == nil || err.Error() != "killed by signal SIGSEGV" {
		t.Errorf("error = %v", err)
	}
	if !strings.Contains(string(result.Output), `"signal":"SIGSEGV"`) || !strings.Contains(string(result.Output), `"exit_code":139`) {
		t.Errorf("output = %s", result.Output)
	}
}
