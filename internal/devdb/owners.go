//go:build unix

package devdb

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

//go:embed guard.sh
var guardScript []byte

// errClosing says that a server's last user has gone and it is being stopped.
var errClosing = errors.New("the server is being stopped")

// errNoGuard says that nobody waits for the end of a folder's pipe.
var errNoGuard = errors.New("the folder has no guard")

// hold is one process's use of a folder: the pipe's writing end. It is a bare
// descriptor, since an *os.File that became garbage would close it.
type hold struct{ fd int }

func (h hold) release() { _ = unix.Close(h.fd) }

func ownersPipe(folder string) string { return filepath.Join(folder, "owners") }

// takeHold opens the pipe of a folder that has a guard.
func takeHold(folder string) (hold, error) {
	fd, err := openRetry(ownersPipe(folder), unix.O_WRONLY)
	if errors.Is(err, unix.ENXIO) {
		return hold{}, errNoGuard
	}
	if err != nil {
		return hold{}, fmt.Errorf("open %s: %w", ownersPipe(folder), err)
	}
	return hold{fd}, nil
}

// guard opens the pipe of a folder without a guard and starts one.
func guard(folder string) (hold, error) {
	pipe := ownersPipe(folder)
	reader, err := openRetry(pipe, unix.O_RDONLY) // a writer is let in only where there is a reader
	if err != nil {
		return hold{}, fmt.Errorf("open %s: %w", pipe, err)
	}
	defer unix.Close(reader)
	h, err := takeHold(folder)
	if err != nil {
		return hold{}, err
	}
	script := filepath.Join(folder, "guard.sh")
	if err := os.WriteFile(script, guardScript, 0o600); err != nil {
		h.release()
		return hold{}, fmt.Errorf("write the guard: %w", err)
	}
	// The shell goes into the background by itself once it has the pipe, so
	// there is no child to wait for and no goroutine that waits.
	cmd := exec.Command("/bin/sh", script, folder)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		h.release()
		return hold{}, fmt.Errorf("start the guard of %s: %w", folder, err)
	}
	return h, nil
}

// held tells whether any process uses the folder. The kernel knows: reading a
// pipe that nobody holds for writing comes to its end at once.
func held(folder string) bool {
	fd, err := openRetry(ownersPipe(folder), unix.O_RDONLY)
	if err != nil {
		return false // a folder left before it had a pipe
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Read(fd, make([]byte, 1))
		if !errors.Is(err, unix.EINTR) {
			return errors.Is(err, unix.EAGAIN)
		}
	}
}

// guarded tells whether a guard waits on the folder.
func guarded(folder string) bool {
	h, err := takeHold(folder)
	if err != nil {
		return false
	}
	h.release()
	return true
}

func openRetry(path string, mode int) (int, error) {
	for {
		fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// takeTurn tells the guard that somebody joined after reading ended, or
// reports errClosing when the guard was first. The caller holds the pipe.
func takeTurn(folder string) error {
	turns, err := filepath.Glob(filepath.Join(folder, "turn.*"))
	if err != nil || len(turns) != 1 {
		return errClosing
	}
	n, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(turns[0]), "."))
	if err != nil {
		return errClosing
	}
	if err := os.Rename(turns[0], turnFile(folder, n+1)); err != nil {
		return errClosing
	}
	return nil
}

func turnFile(folder string, n int) string {
	return filepath.Join(folder, "turn."+strconv.Itoa(n))
}
