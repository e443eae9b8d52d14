package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/runners"
)

// needController skips a test on a host where no cgroup holds that limit.
func needController(t *testing.T, r *Runner, name string) {
	t.Helper()
	if !slices.Contains(r.Host().Controllers, name) {
		t.Skipf("this host gives the agent no %s cgroup: %v", name, r.Host().Lacks)
	}
}

func wantLimit(t *testing.T, err error, limit, part string) {
	t.Helper()
	var e *runners.LimitError
	if !errors.As(err, &e) || e.Limit != limit || !strings.Contains(err.Error(), part) {
		t.Errorf("error = %v, want %s broken and %q in its text", err, limit, part)
	}
}

func TestMemoryOverTheLimitIsNamed(t *testing.T) {
	r := newRunner(t)
	needController(t, r, "memory")
	call := newCall(t, "memory", "256")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 64
	result, err := r.Run(t.Context(), call)
	wantLimit(t, err, "memory_mb", "Resource limit: memory_mb: asked more than 64 MiB, allowed 64 MiB")
	if result.Usage.PeakMemoryMB == nil || *result.Usage.PeakMemoryMB > 64.1 {
		t.Errorf("peak = %v, want at most the limit of 64", result.Usage.PeakMemoryMB)
	}

	row := newCall(t, "memory", "128")
	row.Service.SecurityPolicy.ResourceLimits.MemoryMB = 512
	row.Job.SecurityContext = []byte(`{"resource_limits": {"memory_mb": 48}}`)
	_, err = r.Run(t.Context(), row)
	wantLimit(t, err, "memory_mb", "allowed 48 MiB")
}

func TestProcessorTimeOverTheLimitIsNamed(t *testing.T) {
	r := newRunner(t)
	needController(t, r, "cpuacct")
	call := newCall(t, "cpu", "20000")
	call.Service.SecurityPolicy.ResourceLimits.CPUSeconds = 0.3
	result, err := r.Run(t.Context(), call)
	wantLimit(t, err, "cpu_seconds", "allowed 0.3 s")
	if used := *result.Usage.CPUUsagePercent / 100 * result.Usage.DurationSeconds; used > 0.6 {
		t.Errorf("it used %.2f s before it was stopped", used)
	}

	// The limit is the tree's, not each process's.
	need(t, bash)
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	call.Operation.Command = []string{bash, "-c", fmt.Sprintf("for i in 1 2 3 4 5 6 7 8; do %s %s cpu 150; done", self(t), helperArg)}
	_, err = r.Run(t.Context(), call)
	wantLimit(t, err, "cpu_seconds", "allowed 0.3 s")
}

func TestProcessorsAreShared(t *testing.T) {
	r := newRunner(t)
	needController(t, r, "cpu")
	call := newCall(t, "cpu", "300")
	call.Service.SecurityPolicy.ResourceLimits.CPUCores = 0.25
	result := mustRun(t, r, call)
	if p := *result.Usage.CPUUsagePercent; p > 40 {
		t.Errorf("used %.0f %% of a processor, allowed 25 %%", p)
	}
}

func TestForkBombIsBounded(t *testing.T) {
	r := newRunner(t)
	_, err := r.Run(t.Context(), newCall(t, "spawn", "200"))
	switch {
	case slices.Contains(r.Host().Controllers, "pids"):
		wantLimit(t, err, "processes", "allowed 64")
	case r.Host().Namespaces == "user": // RLIMIT_NPROC of its own user namespace
		if err == nil {
			t.Error("200 processes were started")
		}
	default:
		t.Skip("this host cannot bound processes")
	}

	need(t, bash)
	bomb := newCall(t)
	bomb.Service.SecurityPolicy.AllowedCommands = []string{bash}
	bomb.Operation.Command = []string{bash, "-c", "f() { f | f & }; f; sleep 600"}
	bomb.Timeout = time.Second
	if _, err := r.Run(t.Context(), bomb); err == nil {
		t.Error("no error from a fork bomb")
	}
	wantNothingLeft(t, r)
}

func TestFilesAreBounded(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	call := newCall(t)
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	call.Service.SecurityPolicy.ResourceLimits.DiskMB = 1
	for script, part := range map[string]string{
		`head -c 2000000 /dev/zero > "$TMPDIR/f"`:                          "", // head dies of SIGXFSZ
		`head -c 2000000 /dev/zero > f; exit 1`:                            "",
		`exec head -c 1500000 /dev/zero > f`:                               "a file of more than 1 MiB",
		`for i in 1 2 3; do head -c 600000 /dev/zero > "$TMPDIR/$i"; done`: "Resource limit: disk_mb: asked ",
	} {
		call.Operation.Command = []string{bash, "-c", script}
		_, err := r.Run(t.Context(), call)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error = %v, want %q", script, err, part)
		}
	}
	info, err := os.Stat(call.Service.RunnerConfig.WorkingDirectory + "/f")
	if err != nil || info.Size() > 1<<20 {
		t.Errorf("a file grew to %v", info)
	}
}

func TestOpenFilesAreBoundedAndCoreDumpsOff(t *testing.T) {
	out := stdout(t, mustRun(t, newRunner(t), newCall(t, "limits")))
	if !strings.HasPrefix(out, "1024\n0\n") {
		t.Errorf("limits on files and core dumps: %.20q", out)
	}
}

func TestTimeoutOfTheRowOnlyNarrows(t *testing.T) {
	r := newRunner(t)
	call := newCall(t, "hang")
	call.Job.RunnerConfig = []byte(`{"timeout": 1, "working_directory": "/", "environment": {"X": "y"}}`)
	_, err := r.Run(t.Context(), call)
	wantLimit(t, err, "timeout_seconds", "allowed 1s")

	call.Job.RunnerConfig = []byte(`{"timeout": 3600}`)
	call.Timeout = 300 * time.Millisecond
	_, err = r.Run(t.Context(), call)
	wantLimit(t, err, "timeout_seconds", "allowed 300ms")
}

func TestUsageIsWhatTheProgramReallyUsed(t *testing.T) {
	r := newRunner(t)
	needController(t, r, "memory")
	near := func(got, want float64) bool { return got > want*0.9 && got < want*1.1 }

	memory := mustRun(t, r, newCall(t, "memory", "128"))
	var out struct {
		Stdout string `json:"stdout"`
	}
	if err := json.Unmarshal(memory.Output, &out); err != nil {
		t.Fatal(err)
	}
	kb, err := strconv.ParseFloat(out.Stdout, 64)
	if err != nil {
		t.Fatal(err)
	}
	if peak := *memory.Usage.PeakMemoryMB; !near(peak, kb/1024) {
		t.Errorf("peak_memory_mb = %.1f, the program held %.1f", peak, kb/1024)
	}

	cpu := mustRun(t, r, newCall(t, "cpu", "1500"))
	if used := *cpu.Usage.CPUUsagePercent / 100 * cpu.Usage.DurationSeconds; !near(used, 1.5) {
		t.Errorf("processor time = %.3f s, the program used 1.5", used)
	}
}

func TestTheWatchLooksAtNoMoreFilesThanThereMayBe(t *testing.T) {
	dir := t.TempDir()
	before := filepath.Join(dir, "before")
	if err := os.WriteFile(before, make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "file"), make([]byte, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // the watch allows for a coarse clock
	handle, path, err := openPath(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	w := newDiskWatch(workDir{File: handle, path: path}, 1<<20)
	most := int(w.files)
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(deep, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(deep, "file"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if bytes, files := w.changed(); files != 4 || bytes < 2<<20 || bytes > 3<<20 {
		t.Errorf("%d bytes in %d files, want some 2 MiB in 2 directories, a link and a file", bytes, files)
	}
	for n := range 2 * most {
		if err := os.WriteFile(filepath.Join(deep, fmt.Sprint(n)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, files := w.changed(); files <= w.files || files > w.files+512 {
		t.Errorf("%d files were looked at, at most %d are allowed", files, w.files)
	}
	if used := w.look(); used != fmt.Sprintf("more than %d files in the working directory", most) {
		t.Errorf("used: %q", used)
	}
}
