//go:build unix

package devdb

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// The environment variable turns this test binary into a process that uses a
// server until its standard input ends, or it is killed.
const envHelper = "DEVDB_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(envHelper) {
	case "":
		os.Exit(m.Run())
	case "private":
		helper(func() (*Server, error) { return Start(context.Background(), Options{}) })
	case "shared":
		helper(func() (*Server, error) { return Shared(context.Background()) })
	}
}

// report is what a helper tells of its server.
type report struct {
	Folder string
	PID    int
	URL    string
	Err    string
}

func helper(start func() (*Server, error)) {
	var r report
	s, err := start()
	if err != nil {
		r.Err = err.Error()
	} else {
		r = report{Folder: s.cluster.folder, PID: s.PID(), URL: s.URL("postgres")}
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0) // without Stop, as a test binary ends
}

// process is a running helper.
type process struct {
	report
	cmd   *exec.Cmd
	stdin io.Closer
}

// launch starts a helper. Its report is there when ready says so.
func launch(t *testing.T, mode string) (p *process, ready func()) {
	t.Helper()
	p = &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), envHelper+"="+mode)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(unix.SIGKILL) })
	return p, func() {
		t.Helper()
		line, err := bufio.NewReader(out).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &p.report)
		}
		if err == nil && p.Err != "" {
			err = errors.New(p.Err)
		}
		if err != nil {
			t.Fatalf("helper: %v", err)
		}
	}
}

func run(t *testing.T, mode string) *process {
	t.Helper()
	p, ready := launch(t, mode)
	ready()
	return p
}

// end ends a helper by a signal and waits for its end; 0 lets it exit.
func (p *process) end(signal unix.Signal) {
	if signal != 0 {
		_ = p.cmd.Process.Signal(signal)
	}
	p.stdin.Close()
	_ = p.cmd.Wait() // killed, or ended before
}

// ownTemp gives the test a short temporary folder of its own, which the
// server's account may enter, so that no other test's servers are in sight.
func ownTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "devdb-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "the last server's folder goes", func() bool { return len(folders(t, dir)) == 0 })
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", dir)
	return dir
}

func folders(t *testing.T, temp string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(temp, "specql-devdb-*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 seconds: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// killGuard kills a folder's guard, as a kill of the whole control group does.
func killGuard(t *testing.T, folder string) {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(entries) == 0 {
		t.Skip("needs /proc to find the guard")
	}
	killed := 0
	for _, entry := range entries {
		pid, _ := strconv.Atoi(filepath.Base(entry))
		if slices.Contains(arguments(pid), folder) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, fmt.Sprintf("guard %d ends", pid), func() bool { return len(arguments(pid)) == 0 })
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("%d guards of %s, want 1", killed, folder)
	}
}
