package shell

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// hangingAgentDir names the directory in which TestHangingAgent, run as a
// process of its own, runs a job that never ends. It is no test of its own:
// without the variable it has nothing to do.
const hangingAgentDir = "SPECQL_TEST_HANGING_AGENT"

func TestHangingAgent(t *testing.T) {
	dir := os.Getenv(hangingAgentDir)
	if dir == "" {
		return
	}
	r, err := New(Options{TempDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	call := newCall(t)
	call.Service.RunnerConfig.WorkingDirectory = dir
	call.Service.SecurityPolicy.Isolation = os.Getenv("SPECQL_TEST_ISOLATION")
	call.Operation.Command = []string{self(t), helperArg, "hang", filepath.Join(dir, "hanging")}
	_, err = r.Run(t.Context(), call)
	t.Fatalf("the job ended: %v", err)
}

func TestKilledAgentLeavesNothingOnceAnotherStarts(t *testing.T) {
	for _, level := range levels(t, newRunner(t)) {
		dir := shortTemp(t)
		agent := exec.Command(self(t), "-test.run=^TestHangingAgent$")
		agent.Env = append(os.Environ(), hangingAgentDir+"="+dir, "TMPDIR="+dir, "SPECQL_TEST_ISOLATION="+level)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		hanging := filepath.Join(dir, "hanging")
		awaitFile(t, hanging)
		pid := processWith(t, hanging)
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = agent.Wait()
		// The job dies with its agent, with nobody there to kill it.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		}
		if n != 1 || err != nil {
			t.Errorf("%s: the job outlived its agent: %v", level, err)
		}
		if len(entries(dir, tempPrefix)) == 0 {
			t.Errorf("%s: the killed agent left no directory, so this shows nothing", level)
		}

		r, err := New(Options{TempDir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if left := entries(dir, tempPrefix); len(left) != 1 || left[0] != filepath.Base(r.base) {
			t.Errorf("%s: temporary directories: %v", level, left)
		}
		for _, root := range r.sys.h.roots() {
			for _, name := range entries(filepath.Dir(root), groupsPrefix) {
				if strings.Contains(name, "-"+strconv.Itoa(agent.Process.Pid)+"-") {
					t.Errorf("%s: cgroup %s is left", level, name)
				}
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// processWith is the process of the helper whose command line holds a text.
func processWith(t *testing.T, text string) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), text) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process with %s", text)
	return 0
}

func TestLivingAgentKeepsWhatItUses(t *testing.T) {
	if abandoned(owner() + "-123") {
		t.Error("a living process counts as gone")
	}
	fields := strings.Split(owner(), "-")
	if !abandoned(fields[0] + "-" + fields[1] + "-1-123") {
		t.Error("a process that was given the PID of another counts as that one")
	}
	if abandoned("1-" + fields[1] + "-1-123") {
		t.Error("a process of another PID namespace counts as gone")
	}
	if abandoned("something-else") {
		t.Error("a foreign name counts as an agent's")
	}
}
