//go:build linux

package chaos

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// disk is a small file system, in memory, that can be filled up.
type disk struct {
	t    testing.TB
	path string
}

// unmount waits for the end of its standard input, which this process holds
// open, and takes the disk away then: also when the process was killed.
const unmount = `
while read -r _; do :; done
tries=0
until umount "$1" 2>/dev/null || [ "$tries" -ge 100 ]; do
	sleep 0.1
	tries=$((tries + 1))
done
umount -l "$1" 2>/dev/null
rmdir "$1"`

// newDisk makes a disk for the time of the test.
func newDisk(t *testing.T, megabytes int) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a file system of limited size needs root")
	}
	path, err := os.MkdirTemp("", "chaos-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("chaos", path, "tmpfs", 0, "mode=755,size="+strconv.Itoa(megabytes)+"m"); err != nil {
		os.Remove(path)
		t.Fatalf("mount a small file system: %v", err)
	}
	guard := exec.Command("sh", "-c", unmount, "sh", path)
	guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	hold, err := guard.StdinPipe()
	if err == nil {
		err = guard.Start()
	}
	if err != nil {
		t.Fatal(errors.Join(err, syscall.Unmount(path, syscall.MNT_DETACH), os.Remove(path)))
	}
	t.Cleanup(func() {
		hold.Close()
		if err := guard.Wait(); err != nil {
			t.Errorf("take the small file system %s away: %v", path, err)
		}
	})
	return &disk{t, path}
}

func (d *disk) ballast() string { return filepath.Join(d.path, "ballast") }

// fill leaves no byte free.
func (d *disk) fill() {
	d.t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for len(zeros) > 0 {
		if _, err := f.Write(zeros); errors.Is(err, syscall.ENOSPC) {
			zeros = zeros[:len(zeros)/2]
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
}

// free gives the space back.
func (d *disk) free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}
