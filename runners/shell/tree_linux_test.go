package shell

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// anInit is how the command line of an attempt's init begins; then comes the
// program's.
var anInit = regexp.MustCompile("^[-h][0-9]\x00")

// processesWith lists the processes of this host whose command line holds a text,
// but for inits: one that has said that nothing of its tree is left may still be
// ending when the result is there.
func processesWith(text string) []string {
	var list []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), text) && !anInit.Match(b) {
			list = append(list, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return list
}

// wantNothingLeft fails the test where a runner without running jobs has
// left something.
func wantNothingLeft(t *testing.T, r *Runner) {
	t.Helper()
	r.sys.removals.Wait()
	if r.sys.fast != nil {
		r.sys.fast.dismiss() // what waits for attempts is no leftover
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("children are left: %q", left)
	}
	for _, root := range r.sys.h.roots() {
		for _, name := range entries(root, "") {
			if isDir(filepath.Join(root, name)) {
				t.Errorf("cgroup %s is left", filepath.Join(root, name))
			}
		}
	}
	if left := entries(r.base, ""); len(left) > 0 {
		t.Errorf("temporary directories are left: %v", left)
	}
}

// children lists the command lines of this process's children.
func children(t *testing.T) []string {
	t.Helper()
	var list []string
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		pids, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, pid := range strings.Fields(string(pids)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			list = append(list, pid+" "+string(line))
		}
	}
	return list
}

// levels are the isolations that the tree must die at.
func levels(t *testing.T, r *Runner) []string {
	t.Helper()
	list := []string{"process", "none"}
	if r.Host().Isolation == "full" {
		list = append(list, "full")
	}
	return list
}

func TestDaemonsDieWithTheProgram(t *testing.T) {
	r := newRunner(t)
	for _, level := range levels(t, r) {
		call := newCall(t)
		call.Service.SecurityPolicy.Isolation = level
		daemon := filepath.Join(call.Service.RunnerConfig.WorkingDirectory, "daemon")
		call.Operation.Command = []string{self(t), helperArg, "daemon", daemon}
		mustRun(t, r, call)
		if left := processesWith(daemon); len(left) > 0 {
			t.Errorf("%s: still running: %v", level, left)
		}
	}
	wantNothingLeft(t, r)
}

// Nothing of the attempt's pipes is held by what is left here: nothing else waits
// for its end.
func TestNothingOfTheTreeIsLeftWhenTheResultIsThere(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	for i, level := range levels(t, r) {
		call := newCall(t)
		call.Service.SecurityPolicy.Isolation = level
		call.Service.SecurityPolicy.AllowedCommands = []string{bash}
		seconds := fmt.Sprintf("8639%d.%d", i, os.Getpid())
		write(t, call, "run.sh", "for i in {1..40}; do setsid sleep "+seconds+" <&- >&- 2>&- & done; exit 0", 0o644)
		for range 5 {
			mustRun(t, r, call)
			if left := processesWith("sleep\x00" + seconds); len(left) > 0 {
				t.Errorf("%s: %d processes are left, %q among them", level, len(left), left[0])
			}
		}
	}
	wantNothingLeft(t, r)
}

func TestWholeTreeDiesWhenTheAttemptIsStopped(t *testing.T) {
	r := newRunner(t)
	for _, level := range levels(t, r) {
		call := newCall(t)
		call.Service.SecurityPolicy.Isolation = level
		dir := call.Service.RunnerConfig.WorkingDirectory
		daemon, parent := filepath.Join(dir, "daemon"), filepath.Join(dir, "parent")
		write(t, call, "run.sh", fmt.Sprintf("%[1]s %[2]s daemon %[3]s\ntrap '' TERM\n%[1]s %[2]s hang %[4]s", self(t), helperArg, daemon, parent), 0o644)
		call.Service.SecurityPolicy.AllowedCommands = []string{bash}
		need(t, bash)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := r.Run(ctx, call)
			done <- err
		}()
		awaitFile(t, daemon)
		awaitFile(t, parent)
		cancel()
		if err := <-done; err == nil {
			t.Errorf("%s: no error from a cancelled attempt", level)
		}
		if left := processesWith(dir); len(left) > 0 {
			t.Errorf("%s: still running: %v", level, left)
		}
	}
	wantNothingLeft(t, r)
}

func TestProgramMayEndByItselfInTheGracePeriod(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	r.opts.Grace = time.Minute
	for _, level := range levels(t, r) {
		call := newCall(t)
		dir := call.Service.RunnerConfig.WorkingDirectory
		call.Service.SecurityPolicy.Isolation = level
		call.Service.SecurityPolicy.AllowedCommands = []string{bash}
		write(t, call, "run.sh", "trap 'echo ended > ended; exit 0' TERM\n: > ready\nsleep 600 & wait", 0o644)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := r.Run(ctx, call)
			done <- err
		}()
		awaitFile(t, filepath.Join(dir, "ready"))
		cancel()
		if err := <-done; err == nil || !strings.Contains(err.Error(), "stopped") {
			t.Errorf("%s: error = %v", level, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ended")); err != nil {
			t.Errorf("%s: the program had no chance to end by itself", level)
		}
	}
}

func TestTwoHundredJobsAtOnceLeaveNothing(t *testing.T) {
	r := newRunner(t)
	marker := filepath.Join(shortTemp(t), "marker")
	var jobs sync.WaitGroup
	for i := range 200 {
		call := newCall(t, "argv", marker, fmt.Sprint(i))
		jobs.Go(func() {
			result, err := r.Run(t.Context(), call)
			if want := fmt.Sprintf(`"stdout":"[\"%s\" \"%d\"]"`, marker, i); err != nil || !strings.Contains(string(result.Output), want) {
				t.Errorf("job %d: %v, %s", i, err, result.Output)
			}
		})
	}
	jobs.Wait()
	wantNothingLeft(t, r)
	if left := processesWith(marker); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func TestClosedRunnerStartsNothing(t *testing.T) {
	r := newRunner(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Run(t.Context(), newCall(t, "argv")); err == nil {
		t.Error("a closed runner ran a job")
	}
}

func TestTwoRunnersOfAProcessDoNotMeetInTheirGroups(t *testing.T) {
	var all sync.WaitGroup
	for range 2 {
		r := newRunner(t)
		for range 20 {
			all.Go(func() {
				if _, err := r.Run(t.Context(), newCall(t, "argv")); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
}

func BenchmarkJob(b *testing.B) {
	r, err := New(Options{TempDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for _, level := range []string{"full", "process", "none"} {
		b.Run(level, func(b *testing.B) {
			call := callIn(b.TempDir(), "/usr/bin/true", []string{"/usr/bin/true"})
			call.Service.SecurityPolicy.Isolation = level
			for b.Loop() {
				if _, err := r.Run(b.Context(), call); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBareForkAndExec(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("/usr/bin/true")
		if _, err := cmd.Output(); err != nil {
			b.Fatal(err)
		}
	}
}
