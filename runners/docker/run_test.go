package docker

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

func TestLogsAreStreamedWhileTheContainerRuns(t *testing.T) {
	r := newRunner(t, Options{})
	call := newCall("hang")
	done := make(chan struct{})
	ctx, cancel := contextWithCancel(t)
	go func() {
		defer close(done)
		_, _ = r.Run(ctx, call)
	}()
	awaitLine(t, call.Log, "hanging") // and it runs still
	select {
	case <-done:
		t.Error("the line came with the end")
	default:
	}
	cancel()
	<-done

	call = newCall("speak")
	mustRun(t, r, call)
	lines, _ := call.Log.Tail()
	got := map[string]string{}
	for _, l := range lines {
		got[l.Stream] += l.Text
	}
	if want := map[string]string{"stdout": "to stdout", "stderr": "to stderr"}; !maps.Equal(got, want) {
		t.Errorf("log %v, want %v", got, want)
	}
}

func TestSecretsStayOutOfTheLog(t *testing.T) {
	r := newRunner(t, Options{})
	call := newCall("env")
	call.Service.RunnerConfig.Environment = map[string]string{"API_TOKEN": "sesame-street", "LEVEL": "debug"}
	mustRun(t, r, call)
	lines, _ := call.Log.Tail()
	text := ""
	for _, l := range lines {
		text += l.Text + "\n"
	}
	if strings.Contains(text, "sesame") || !strings.Contains(text, "API_TOKEN=***") || !strings.Contains(text, "LEVEL=debug") {
		t.Errorf("the log says:\n%s", text)
	}
}

func TestTheProgramGetsInputArgumentsAndVariables(t *testing.T) {
	t.Setenv("AGENT_ONLY", "must stay with the agent")
	r := newRunner(t, Options{})
	call := newCall("argv", "$input.name", "--", "$input.dash", "$input.list", "; rm -rf /", "$(id)")
	call.Job.Input = []byte(`{"name": "a b\n$HOME", "dash": "-x", "list": [1, "two"]}`)
	if got, want := stdout(t, mustRun(t, r, call)), `["a b\n$HOME" "--" "-x" "[1,\"two\"]" "; rm -rf /" "$(id)"]`; got != want {
		t.Errorf("arguments %s, want %s", got, want)
	}

	call = newCall("env")
	call.Service.RunnerConfig.Environment = map[string]string{"LEVEL": "debug", "SPECQL_ATTEMPT": "99"}
	call.Job.CorrelationID, call.Job.TenantID, call.Job.IdempotencyKey = "corr", "tenant", "key-1"
	env := strings.Split(stdout(t, mustRun(t, r, call)), "\n")
	for _, want := range []string{"LEVEL=debug", "FROM_IMAGE=yes", "SPECQL_JOB_ID=" + call.Job.ID.String(), "SPECQL_ATTEMPT=1",
		"SPECQL_CORRELATION_ID=corr", "SPECQL_TENANT_ID=tenant", "SPECQL_IDEMPOTENCY_KEY=key-1", "SPECQL_TIMEOUT_SECONDS=300"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	if strings.Contains(strings.Join(env, "\n"), "AGENT_ONLY") {
		t.Error("the agent's own environment is there")
	}

	call = newCall("stdin")
	if got := string(mustRun(t, r, call).Output); got != "{}" {
		t.Errorf("a job without input reads %s, want {}", got)
	}

	call = newCall("argv", "$input.name")
	call.Job.Input = []byte(`{"name": "--privileged"}`)
	_, err := r.Run(t.Context(), call)
	wantConfig(t, err, "would be an option")
}

func wantConfig(t *testing.T, err error, part string) {
	t.Helper()
	var config *runners.ConfigError
	if !errors.As(err, &config) || !strings.Contains(err.Error(), part) {
		t.Errorf("%v: want a configuration error that says %q", err, part)
	}
}

func TestContainersHaveNoMoreThanTheyNeed(t *testing.T) {
	r := newRunner(t, Options{})
	status := stdout(t, mustRun(t, r, newCall("status")))
	for name, want := range map[string]string{"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"} {
		if got := statusField(status, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := stdout(t, mustRun(t, r, newCall("interfaces"))); got != "lo\n" {
		t.Errorf("network interfaces: %q", got)
	}
	if _, err := r.Run(t.Context(), newCall("mount")); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("a mount inside: %v", err)
	}

	call := newCall("status")
	call.Service.RunnerConfig.User = "1234:5678"
	result := mustRun(t, r, call)
	if got := statusField(stdout(t, result), "Uid"); got != "1234\t1234\t1234\t1234" || result.Security["user"] != "1234:5678" {
		t.Errorf("as user %q, recorded %v", got, result.Security["user"])
	}

	call = newCall("write", "/file", "1")
	call.Service.RunnerConfig.ReadOnly = true
	if _, err := r.Run(t.Context(), call); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("read_only: %v", err)
	}
	call = newCall("write", "/scratch/file", "1")
	call.Service.RunnerConfig.ReadOnly = true
	call.Service.RunnerConfig.Tmpfs = map[string]string{"/scratch": "size=4m"}
	mustRun(t, r, call)
	call.Operation.Command = []string{"write", "/scratch/file", "5"}
	if _, err := r.Run(t.Context(), call); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("a full tmpfs: %v", err)
	}
}

func statusField(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestVolumesAreMountedAsTheRegistrySays(t *testing.T) {
	r := newRunner(t, Options{})
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/model", []byte("weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	call := newCall("read", "/models/model")
	call.Service.RunnerConfig.Volumes = []registry.Volume{{HostPath: dir, ContainerPath: "/models"}}
	if got := stdout(t, mustRun(t, r, call)); got != "weights" {
		t.Errorf("read %q", got)
	}
	call.Operation.Command = []string{"write", "/models/new", "1"}
	if _, err := r.Run(t.Context(), call); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("writing without mode: rw: %v", err)
	}
	call.Service.RunnerConfig.Volumes[0].Mode = "rw"
	mustRun(t, r, call)
	if _, err := os.Stat(dir + "/new"); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeStartedIsAConfigurationError(t *testing.T) {
	r := newRunner(t, Options{})
	call := newCall("argv")
	call.Service.RunnerConfig.Image = "sha256:" + strings.Repeat("0", 64)
	call.Service.SecurityPolicy.AllowedImages = nil
	_, err := r.Run(t.Context(), call)
	wantConfig(t, err, "does not have the image")

	call = newCall("argv")
	call.Service.RunnerConfig.WorkingDir = "/helper"
	_, err = r.Run(t.Context(), call)
	wantConfig(t, err, "cannot be started")

	off := false
	call = newCall("argv")
	call.Service.SecurityPolicy.NetworkIsolation = &off
	call.Service.RunnerConfig.NetworkMode = "no-such-network"
	_, err = r.Run(t.Context(), call)
	wantConfig(t, err, "no-such-network")
}
