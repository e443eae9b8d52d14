//go:build unix

package devdb

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestServerGoesWithItsProcessHoweverThatEnds(t *testing.T) {
	for _, how := range []unix.Signal{0, unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
		name := "exit"
		if how != 0 {
			name = unix.SignalName(how)
		}
		t.Run(name, func(t *testing.T) {
			ownTemp(t)
			p := run(t, "private")
			if !runsOn(p.PID, dataFolder(p.Folder)) {
				t.Fatalf("no server: %+v", p.report)
			}
			p.end(how)
			eventually(t, "the server ends", func() bool { return len(arguments(p.PID)) == 0 })
			eventually(t, "its folder goes", func() bool { return gone(p.Folder) })
		})
	}
}

func TestLeftoverOfAKilledProcessAndGuardIsSweptByTheNextStart(t *testing.T) {
	temp := ownTemp(t)
	p := run(t, "private")
	killGuard(t, p.Folder)
	p.end(unix.SIGKILL)
	if !runsOn(p.PID, dataFolder(p.Folder)) {
		t.Fatal("the server went without its guard: nothing to sweep")
	}
	s := start(t, Options{})
	if len(arguments(p.PID)) > 0 || !gone(p.Folder) {
		t.Errorf("the leftover is there: process %v, folder gone %v", arguments(p.PID), gone(p.Folder))
	}
	if now := folders(t, temp); len(now) != 1 || now[0] != s.cluster.folder {
		t.Errorf("folders %v, want only the new server's", now)
	}
}

func TestSweepLeavesOthersServersAlone(t *testing.T) {
	ownTemp(t)
	other := run(t, "private")
	for range 2 {
		if err := start(t, Options{}).Stop(); err != nil {
			t.Fatal(err)
		}
	}
	query[int](t, other.URL, "SELECT 1")
}

func TestStrangerThatAStalePidFileNamesIsNotSignalled(t *testing.T) {
	temp := ownTemp(t)
	start(t, Options{}) // makes the base
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer stranger.Wait()
	defer stranger.Process.Kill()

	bases, err := filepath.Glob(filepath.Join(temp, "specql-devdb-*"))
	if err != nil || len(bases) != 1 {
		t.Fatal(bases, err)
	}
	folder := filepath.Join(bases[0], privatePrefix+"1")
	data := subfolder(t, dataFolder(folder))
	pid := fmt.Sprintf("%d\n%s\n", stranger.Process.Pid, data)
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(pid), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Options{})
	if !gone(folder) {
		t.Error("the leftover folder is there")
	}
	if len(arguments(stranger.Process.Pid)) == 0 {
		t.Error("the stranger was killed")
	}
}
