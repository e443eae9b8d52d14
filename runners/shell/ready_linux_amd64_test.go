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

// fastRunner is a runner that keeps children ready, as every host must have it
// that gives full isolation to a privileged agent.
func fastRunner(t *testing.T) *Runner {
	t.Helper()
	r := newRunner(t)
	if r.Host().Isolation != "full" || r.Host().Namespaces != "root" {
		t.Skip("this host gives no full isolation to a privileged agent")
	}
	if r.sys.fast == nil {
		_, err := newFastStart(&r.sys)
		t.Fatalf("every attempt has a shim: %v", err)
	}
	return r
}

// waiting lists the children that are ready, once there are as many as are kept.
func waiting(t *testing.T, r *Runner) (list []*ready) {
	t.Helper()
	s := &r.sys.fast.shelves
	s.fillers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.of {
		list = append(list, of.waiting...)
	}
	return list
}

func TestReadyChildrenServeOneAttemptEachAndAreReplaced(t *testing.T) {
	r := fastRunner(t)
	call := newCall(t, "argv", "hello")
	mustRun(t, r, call)
	seen := map[int]bool{}
	for range 3 {
		list := waiting(t, r)
		if len(list) != keptReady {
			t.Fatalf("%d children are ready, want %d", len(list), keptReady)
		}
		first := list[0].pid
		if seen[first] {
			t.Error("a child is ready again that served before")
		}
		seen[first] = true
		mustRun(t, r, call)
		r.sys.removals.Wait()
		if _, err := os.Stat("/proc/" + strconv.Itoa(first)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the attempt was given another child than the one that waited longest: %v", err)
		}
	}
}

// Somebody may kill what waits, the kernel for memory among them.
func TestReadyChildThatDiedIsNotGivenAnAttempt(t *testing.T) {
	r := fastRunner(t)
	call := newCall(t, "argv", "hello")
	mustRun(t, r, call)
	for _, child := range waiting(t, r) {
		if err := unix.Kill(child.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := unix.Waitid(unix.P_PID, child.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, r, call)
	wantNothingLeft(t, r)
}

// What waits holds nothing of the agent's: not a file, not its session, not its
// name.
func TestReadyChildHoldsNothingOfTheAgents(t *testing.T) {
	r := fastRunner(t)
	kept, err := os.Create(filepath.Join(t.TempDir(), "the agent's"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	mustRun(t, r, newCall(t, "argv", "hello"))
	for _, child := range waiting(t, r) {
		child.arrived(t)
		proc := "/proc/" + strconv.Itoa(child.pid)
		descriptors := entries(proc+"/fd", "")
		if len(descriptors) != 1 || descriptors[0] != strconv.Itoa(readyFD) {
			t.Errorf("descriptors: %v", descriptors)
		}
		name, _ := os.ReadFile(proc + "/comm")
		if strings.TrimSpace(string(name)) != "specql-ready" {
			t.Errorf("it is named %q", name)
		}
		if session, err := unix.Getsid(child.pid); err != nil || session != child.pid {
			t.Errorf("session %d, %v", session, err)
		}
	}
}

// arrived returns when the child waits.
func (r *ready) arrived(t *testing.T) {
	t.Helper()
	awaitTrue(t, "the child waits for an attempt", func() bool {
		call, _ := os.ReadFile("/proc/" + strconv.Itoa(r.pid) + "/syscall")
		return strings.HasPrefix(string(call), strconv.Itoa(unix.SYS_RECVMSG)+" ")
	})
}

func TestReadyChildrenDieWithTheirAgent(t *testing.T) {
	fastRunner(t)
	dir := shortTemp(t)
	agent := exec.Command(self(t), "-test.run=^TestHangingAgent$")
	agent.Env = append(os.Environ(), hangingAgentDir+"="+dir, "TMPDIR="+dir, "SPECQL_TEST_ISOLATION=full")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(dir, "hanging"))
	var children []int
	awaitTrue(t, "children wait", func() bool {
		children = nil
		files, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, file := range files {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			parent, ok := parentOf(pid)
			name, _ := os.ReadFile(file)
			if ok && parent == agent.Process.Pid && strings.TrimSpace(string(name)) == "specql-ready" {
				children = append(children, pid)
			}
		}
		return len(children) == keptReady
	})
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	for _, pid := range children {
		awaitTrue(t, "a child is gone", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
	}
	r, err := New(Options{TempDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
