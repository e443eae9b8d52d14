package docker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/runners"
)

// The end of a container's life is told apart: want of memory, a kill from
// outside, and a program that ends with the same number.
func TestWantOfMemoryIsToldFromAKillAndFromExitStatus137(t *testing.T) {
	engine := needEngine(t)
	r := runnerOn(t, engine, Options{})

	oom := newCall("memory", "64")
	oom.Service.SecurityPolicy.ResourceLimits.MemoryMB = 32
	_, err := r.Run(t.Context(), oom)
	wantLimit(t, err, "memory_mb")
	if _, used, ok := runners.Violation(err); !ok || used == "" {
		t.Errorf("not counted as a violation: %v", err)
	}

	fits := newCall("memory", "24")
	fits.Service.SecurityPolicy.ResourceLimits.MemoryMB = 64
	mustRun(t, r, fits)

	own := newCall("exit", "137", "my own number")
	own.Service.SecurityPolicy.ResourceLimits.MemoryMB = 32
	_, err = r.Run(t.Context(), own)
	wantNoLimit(t, err, "137", "my own number")

	killed := newCall("hang")
	killed.Service.SecurityPolicy.ResourceLimits.MemoryMB = 64
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), killed)
		done <- err
	}()
	awaitLine(t, killed.Log, "hanging")
	if _, err := engine.ContainerKill(t.Context(), ofJob(t, engine, killed), client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil {
		t.Fatal(err)
	}
	wantNoLimit(t, <-done, "137", "SIGKILL from outside")
}

func wantNoLimit(t *testing.T, err error, parts ...string) {
	t.Helper()
	var limit *runners.LimitError
	if err == nil || errors.As(err, &limit) || !runners.Retryable(err) {
		t.Errorf("%v: want a failure that is no limit and may be retried", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// ofJob finds the job's container by its label.
func ofJob(t *testing.T, engine *client.Client, call runners.Call) string {
	t.Helper()
	list, err := engine.ContainerList(context.Background(), client.ContainerListOptions{All: true,
		Filters: make(client.Filters).Add("label", labelJob+"="+call.Job.ID.String())})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v: %d containers carry the job's id, want 1", err, len(list.Items))
	}
	return list.Items[0].ID
}

func TestLimitsHoldAndAreNamed(t *testing.T) {
	r := newRunner(t, Options{})
	t.Run("processor time, of the whole tree", func(t *testing.T) {
		call := newCall("cpu", "60000")
		call.Service.SecurityPolicy.ResourceLimits.CPUSeconds = 0.3
		result, err := r.Run(t.Context(), call)
		wantLimit(t, err, "cpu_seconds")
		if took := result.Usage.DurationSeconds; took > 20 {
			t.Errorf("it ran for %.1f s", took)
		}
	})
	t.Run("processes", func(t *testing.T) {
		call := newCall("fork")
		var children int
		if err := json.Unmarshal([]byte(stdout(t, mustRun(t, r, call))), &children); err != nil {
			t.Fatal(err)
		}
		if children == 0 || children >= maxProcesses {
			t.Errorf("%d children beside the program, with a bound of %d processes and threads", children, maxProcesses)
		}
	})
	t.Run("disk", func(t *testing.T) {
		call := newCall("write", "/tmp/file", "20")
		call.Service.SecurityPolicy.ResourceLimits.DiskMB = 8
		_, err := r.Run(t.Context(), call)
		wantLimit(t, err, "disk_mb")
		call = newCall("write", "/tmp/file", "4")
		call.Service.SecurityPolicy.ResourceLimits.DiskMB = 8
		mustRun(t, r, call)
		call = newCall("write", "/file", "1")
		call.Service.SecurityPolicy.ResourceLimits.DiskMB = 8
		if _, err := r.Run(t.Context(), call); err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("a file beside the sized directories: %v", err)
		}
	})
	t.Run("output", func(t *testing.T) {
		_, err := r.Run(t.Context(), newCall("huge", "4096"))
		wantLimit(t, err, "output_bytes")
	})
	t.Run("processors", func(t *testing.T) {
		call := newCall("cpu", "400")
		call.Service.SecurityPolicy.ResourceLimits.CPUCores = 0.25
		result := mustRun(t, r, call)
		if used := *result.Usage.CPUUsagePercent; used > 45 {
			t.Errorf("a quarter of a processor gave %.0f %%", used)
		}
	})
}

func TestTimeoutStopsThenKills(t *testing.T) {
	r := newRunner(t, Options{Grace: 10 * time.Second})
	call := newCall("obey")
	call.Timeout = 3 * time.Second
	result, err := r.Run(t.Context(), call)
	wantLimit(t, err, "timeout_seconds")
	if !strings.Contains(string(result.Output), "ended in order") {
		t.Errorf("the program was not asked to stop before it was killed: %s", result.Output)
	}

	deaf := newRunner(t, Options{Grace: time.Second})
	call = newCall("hang")
	call.Timeout = 3 * time.Second
	began := time.Now()
	_, err = deaf.Run(t.Context(), call)
	wantLimit(t, err, "timeout_seconds")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("a program that heeds no signal held on for %s", took)
	}
}

func TestARowMayNarrowLimits(t *testing.T) {
	r := newRunner(t, Options{})
	call := newCall("memory", "64")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 256
	call.Job.SecurityContext = []byte(`{"resource_limits": {"memory_mb": 32}}`)
	_, err := r.Run(t.Context(), call)
	wantLimit(t, err, "memory_mb")

	call = newCall("memory", "64")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 32
	call.Job.SecurityContext = []byte(`{"resource_limits": {"memory_mb": 1024}}`)
	_, err = r.Run(t.Context(), call)
	wantLimit(t, err, "memory_mb")

	call = newCall("hang")
	call.Job.RunnerConfig = []byte(`{"timeout": 1}`)
	_, err = r.Run(t.Context(), call)
	wantLimit(t, err, "timeout_seconds")
}
