package shell

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// newRunner makes a runner with a temporary directory of its own, which must
// be empty when the test is over.
func newRunner(t *testing.T) *Runner {
	t.Helper()
	temp := shortTemp(t)
	r, err := New(Options{TempDir: temp, Grace: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left := entries(temp, ""); len(left) > 0 {
			t.Errorf("left behind in the temporary directory: %v", left)
		}
	})
	return r
}

// outside is where tests have their files: not in /tmp, which is another one
// for a job with mounts of its own.
const outside = "/var/tmp"

// shortTemp is a directory that jobs of every user can reach.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(outside, "shelltest")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// self is a copy of the test binary that jobs of every user can execute.
func self(t *testing.T) string {
	t.Helper()
	path, err := ownCopy()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ownCopy is removed by TestMain.
var ownCopy = sync.OnceValues(func() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(outside, "shelltest")
	if err != nil {
		return "", err
	}
	copied := filepath.Join(dir, "helper")
	return copied, errors.Join(os.Chmod(dir, 0o755), os.WriteFile(copied, b, 0o755))
})

var jobNumber atomic.Uint32

// newCall is a job of a service that may run the test binary, in a working
// directory of its own.
func newCall(t *testing.T, args ...string) runners.Call {
	t.Helper()
	var command []string
	if len(args) > 0 {
		command = append([]string{self(t), helperArg}, args...)
	}
	return callIn(shortTemp(t), self(t), command)
}

// callIn is a job of a service that may run one program in a directory.
func callIn(dir, program string, command []string) runners.Call {
	n := jobNumber.Add(1)
	id := jobs.ID{15: byte(n), 14: byte(n >> 8), 13: byte(n >> 16)}
	service := &registry.Service{
		Name:           "helper",
		ExecutionType:  jobs.Shell,
		RunnerConfig:   registry.RunnerConfig{WorkingDirectory: dir},
		SecurityPolicy: registry.SecurityPolicy{AllowedCommands: []string{program}},
		Operations:     []registry.Operation{{Name: "run", Command: command}},
	}
	return runners.Call{
		Job:       &jobs.Job{ID: id, Identifier: "job-" + id.String(), Service: "helper", Operation: "run", Attempt: 1, MaxAttempts: 3},
		Service:   service,
		Operation: &service.Operations[0],
		Timeout:   3 * time.Minute,
	}
}

// write makes a file in the call's working directory.
func write(t *testing.T, call runners.Call, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(call.Service.RunnerConfig.WorkingDirectory, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRun(t *testing.T, r *Runner, call runners.Call) runners.Result {
	t.Helper()
	result, err := r.Run(t.Context(), call)
	if err != nil {
		t.Fatalf("%v\noutput: %s", err, result.Output)
	}
	return result
}

// stdout is the text that a job wrote.
func stdout(t *testing.T, result runners.Result) string {
	t.Helper()
	var out struct {
		Stdout string `json:"stdout"`
	}
	if err := json.Unmarshal(result.Output, &out); err != nil {
		t.Fatalf("%v: %s", err, result.Output)
	}
	return out.Stdout
}

// awaitTrue returns once something holds that nobody tells of.
func awaitTrue(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}

// awaitFile returns once the file is there.
func awaitFile(t *testing.T, path string) {
	t.Helper()
	w, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Add(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(20 * time.Second)
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-w.Events:
		case err := <-w.Errors:
			t.Fatal(err)
		case <-deadline:
			t.Fatalf("%s never came", path)
		}
	}
}
