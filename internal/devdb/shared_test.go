//go:build unix

package devdb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcessesShareOneServerUntilTheLastEnds(t *testing.T) {
	temp := ownTemp(t)
	const count = 4
	var all [count]*process
	var ready [count]func()
	for i := range all { // all at once: one starts it, the others wait for that
		all[i], ready[i] = launch(t, "shared")
	}
	for i := range all {
		ready[i]()
	}
	pid := all[0].PID
	for _, p := range all {
		if p.PID != pid || pid == 0 {
			t.Fatalf("server %d and %d", p.PID, pid)
		}
	}
	if n := len(folders(t, temp)); n != 1 {
		t.Errorf("%d folders", n)
	}
	if n := query[string](t, all[0].URL, "SHOW max_connections"); n != "300" {
		t.Errorf("max_connections is %s", n)
	}
	all[0].end(0)
	all[1].end(unix.SIGKILL)
	all[2].end(unix.SIGINT)
	query[int](t, all[3].URL, "SELECT 1")
	all[3].end(unix.SIGKILL)
	eventually(t, "the server ends", func() bool { return len(arguments(pid)) == 0 })
	eventually(t, "its folder goes", func() bool { return gone(all[3].Folder) })
}

func shared(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := share(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

func TestHealthyServerOfAKilledRunIsTakenOver(t *testing.T) {
	ownTemp(t)
	p := run(t, "shared")
	killGuard(t, p.Folder)
	p.end(unix.SIGKILL)
	s := shared(t, sharedOptions)
	if s.PID() != p.PID {
		t.Errorf("server %d, want the one left behind, %d", s.PID(), p.PID)
	}
	query[int](t, s.TCPURL("postgres"), "SELECT 1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its new guard removes it", func() bool { return gone(p.Folder) && len(arguments(p.PID)) == 0 })
}

func TestServerThatDoesNotAnswerIsReplaced(t *testing.T) {
	ownTemp(t)
	first := shared(t, sharedOptions)
	pid := first.PID()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is dead", func() bool { return len(arguments(pid)) == 0 })
	second := shared(t, sharedOptions)
	if second.cluster.folder == first.cluster.folder || second.PID() == 0 {
		t.Error("the dead server was joined")
	}
	if third := shared(t, sharedOptions); third.PID() != second.PID() {
		t.Errorf("third user on %d, want %d", third.PID(), second.PID())
	}
}

func TestOtherSettingsGetAnotherServer(t *testing.T) {
	ownTemp(t)
	a := shared(t, sharedOptions)
	b := shared(t, Options{Settings: map[string]string{"max_connections": "20"}})
	if a.PID() == b.PID() {
		t.Error("one server for both")
	}
	if n := query[string](t, b.URL("postgres"), "SHOW max_connections"); n != "20" {
		t.Errorf("max_connections is %s", n)
	}
}

func TestServerJoinedAsItsLastUserLeavesStaysUp(t *testing.T) {
	ownTemp(t)
	last := shared(t, sharedOptions)
	for range 6 {
		var next *Server
		var err error
		var wait sync.WaitGroup
		wait.Go(func() { last.Stop() })
		wait.Go(func() { next, err = share(t.Context(), sharedOptions) })
		wait.Wait()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { next.Stop() })
		for range 10 {
			query[int](t, next.URL("postgres"), "SELECT 1")
		}
		last = next
	}
}

// The guard saw the last user leave, and before it acts on that somebody joins.
func TestGuardGivesWayToAUserWhoJoinedBeforeItActed(t *testing.T) {
	ownTemp(t)
	// The guard's mv says that it is about to act, waits at a gate, and acts.
	bin := t.TempDir()
	reached, gate, acted := filepath.Join(bin, "reached"), filepath.Join(bin, "gate"), filepath.Join(bin, "acted")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	mv := fmt.Sprintf("#!/bin/sh\n: >%s\nread -r _ <%s\n/bin/mv \"$@\"\ncode=$?\n: >%s\nexit $code\n", reached, gate, acted)
	if err := os.WriteFile(filepath.Join(bin, "mv"), []byte(mv), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", bin+":"+path)
	first := shared(t, sharedOptions)
	t.Setenv("PATH", path)

	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guard is about to act", func() bool { return !gone(reached) })
	second := shared(t, sharedOptions)
	if err := os.WriteFile(gate, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guard acted", func() bool { return !gone(acted) })
	if !gone(filepath.Join(second.cluster.folder, "closing")) {
		t.Error("the guard closes a server that has a user")
	}
	query[int](t, second.URL("postgres"), "SELECT 1")

	if err := second.Stop(); err != nil { // the guard comes to its mv again
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server goes with its last user", func() bool { return gone(second.cluster.folder) })
}

func TestSharedServerCannotBeRestartedByOneUser(t *testing.T) {
	ownTemp(t)
	if err := shared(t, sharedOptions).Restart(t.Context(), false); !errors.Is(err, ErrShared) {
		t.Errorf("error %v", err)
	}
}
