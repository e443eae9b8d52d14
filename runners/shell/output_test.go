package shell

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"
	"pgregory.net/rapid"
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

func TestOutputForms(t *testing.T) {
	for _, c := range []struct{ name, stdout, want string }{
		{"an object is the output", ` {"a": 1.50, "b": [true]} ` + "\n", `{"a": 1.50, "b": [true]}`},
		{"text is kept", "done\n", `{"exit_code":0,"stdout":"done\n"}`},
		{"nothing is kept as nothing", "", `{"exit_code":0,"stdout":""}`},
		{"a list is text", `[1]`, `{"exit_code":0,"stdout":"[1]"}`},
		{"two objects are text", `{} {}`, `{"exit_code":0,"stdout":"{} {}"}`},
		{"half an object is text", `{"a":`, `{"exit_code":0,"stdout":"{\"a\":"}`},
		{"bytes that are no UTF-8 are replaced", "a\xffb\x00c", `{"exit_code":0,"stdout":"a` + "\uFFFDb\uFFFD" + `c"}`},
		{"what jsonb refuses is replaced", `{"a\u0000": "\u0000\ud800x", "n": 12345678901234567890}`, `{"a` + "\uFFFD" + `":"` + "\uFFFD\uFFFD" + `x","n":12345678901234567890}`},
		{"an object with bytes that are no UTF-8 is mended", "{\"a\": \"\xff\"}", `{"a":"` + "\uFFFD" + `"}`},
	} {
		s := newStreams(policy{stdoutMaxBytes: maxStdout, stderrKeptBytes: keptStderr}, nil, nil)
		_, _ = s.stdout.Write([]byte(c.stdout))
		if got := string(s.success()); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestAnyOutputBecomesABoundedObjectThatJSONBTakes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 64).Draw(rt, "limit")
		hidden := secrets{"sesame"}
		s := newStreams(policy{stdoutMaxBytes: limit, stderrKeptBytes: limit}, hidden, nil)
		part := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Just([]byte("sesame")), rapid.Just([]byte(`{"a":"\u0000"}`)))
		for _, b := range rapid.SliceOf(part).Draw(rt, "writes") {
			_, _ = s.stdout.Write(b)
			_, _ = s.stderr.Write(b)
		}
		for _, out := range []json.RawMessage{s.success(), s.failure(1, "SIGKILL")} {
			var object map[string]any
			if err := json.Unmarshal(out, &object); err != nil || !utf8.Valid(out) || strings.ContainsRune(fmt.Sprint(object), 0) {
				rt.Fatalf("%v: %s", err, out)
			}
			if strings.Contains(string(out), "same") || strings.Contains(string(out), "sesa") {
				rt.Fatalf("the secret is shown: %s", out)
			}
			for _, name := range []string{"stdout", "stderr"} {
				if text, _ := object[name].(string); len(text) > 3*limit+3*len("sesame")+64 {
					rt.Fatalf("%s has %d bytes with a limit of %d", name, len(text), limit)
				}
			}
		}
		if reason := s.reason(); len(reason) > reasonBytes || strings.ContainsAny(reason, "\n\r\x1b\x00") || strings.Contains(reason, "sesame") {
			rt.Fatalf("reason %q", reason)
		}
	})
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
	if want := 31 << 20; out.Truncated != want || len(out.Stdout) < maxStdout || len(out.Stdout) > maxStdout+100 || out.ExitCode == nil {
		t.Errorf("%d bytes kept and %d cut off, want %d and %d", len(out.Stdout), out.Truncated, maxStdout, want)
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

func TestSecretsOfTheRegistryAreMasked(t *testing.T) {
	call := newCall(t, "env")
	call.Service.RunnerConfig.Environment = map[string]string{"DB_PASSWORD": `p"w<\1`, "AWS_SECRET_ACCESS_KEY": "abc123xyz", "LOG_LEVEL": "INFO", "PIN_TOKEN": "1234567"}
	hidden := secretsOf(call)
	for _, shown := range []string{"abc123xyz", `p"w<\1`, `p\"w`, base64.StdEncoding.EncodeToString([]byte("abc123xyz")), "1234567"} {
		s := newStreams(policy{stdoutMaxBytes: maxStdout, stderrKeptBytes: keptStderr}, hidden, nil)
		b, _ := json.Marshal(map[string]any{"x": shown, shown: 1, "n": json.Number("1234567"), "l": []any{shown}})
		_, _ = s.stdout.Write(b)
		_, _ = s.stderr.Write([]byte(shown))
		out := string(s.success())
		if shown != `p\"w` && (strings.Contains(out, shown) || strings.Contains(s.reason(), shown)) || strings.Contains(out, "1234567") {
			t.Errorf("%q is shown: %s, %s", shown, out, s.reason())
		}
		if !json.Valid([]byte(out)) {
			t.Errorf("masking broke the JSON: %s", out)
		}
	}
	if slices.Contains(hidden, "INFO") {
		t.Error("a value that is no secret is masked")
	}
}
