//go:build unix

package devdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	privatePrefix = "run-"
	sharedPrefix  = "shared-"

	// A socket's path may have 107 bytes on Linux and 103 on macOS (unix(7),
	// sun_path less the closing zero). The longest name below a base is
	// shared-, 8 digits of the fingerprint, -, 10 random ones, /pg/ and the
	// socket's own name; half-way through, PostgreSQL adds ".lock" to it.
	maxSocketPath = 103
	belowBase     = "/shared-01234567-0123456789/pg/.s.PGSQL.65535"

	pollInterval = 10 * time.Millisecond
)

// base is the folder below a temporary one that holds an account's servers.
// The caller owns it and nobody else may write there; when the server runs as
// another account, that one may pass through. It stays when it is empty: to
// remove it would race with a process that is about to add to it.
type base struct {
	path string
	mode os.FileMode
}

// candidates are the possible bases, best first.
func candidates(a account) []base { return basesIn(a, os.TempDir(), "/tmp", "/var/tmp") }

// basesIn are the account's bases in those of the folders that there are.
func basesIn(a account, folders ...string) []base {
	mode := os.FileMode(0o700)
	if a.drop {
		mode = 0o711
	}
	var all []base
	for _, tmp := range folders {
		real, err := filepath.EvalSymlinks(tmp)
		if err != nil || !filepath.IsAbs(real) {
			continue
		}
		b := base{filepath.Join(real, "specql-devdb-"+strconv.Itoa(os.Geteuid())), mode}
		if !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	return all
}

// chooseBase returns the first of them in which the account can run a server,
// and creates it.
func chooseBase(a account, among []base) (base, error) {
	var faults []error
	for _, b := range among {
		err := a.reach(filepath.Dir(b.path))
		if err == nil && len(b.path)+len(belowBase) > maxSocketPath {
			err = fmt.Errorf("%s is too long for a unix socket", b.path)
		}
		if err == nil {
			err = b.create()
		}
		if err == nil {
			return b, nil
		}
		faults = append(faults, err)
	}
	if len(among) == 0 {
		faults = append(faults, os.ErrNotExist)
	}
	return base{}, fmt.Errorf("no folder will do for a private PostgreSQL (set TMPDIR to a short one that user %s may enter): %w", a.name, errors.Join(faults...))
}

func (b base) create() error {
	if err := os.Mkdir(b.path, b.mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return b.verify()
}

// verify refuses a folder that somebody else made in a public place.
func (b base) verify() error {
	info, err := os.Lstat(b.path)
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if !info.IsDir() || owner != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a private folder of user %d: remove it", b.path, os.Geteuid())
	}
	if info.Mode().Perm() != b.mode {
		return os.Chmod(b.path, b.mode) // umask
	}
	return nil
}

// lock keeps other processes from adding to the base or sweeping it. The
// caller closes the file to let them go on.
func (b base) lock(ctx context.Context) (*os.File, error) { return lockFolder(ctx, b.path) }

// lockFolder takes an exclusive lock on a folder. The error is
// os.ErrNotExist when the folder is gone or goes while waiting.
func lockFolder(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		f, err := tryLockFolder(path)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another process's lock on %s: %w", path, context.Cause(ctx))
		}
	}
}

// tryLockFolder is lockFolder without the wait: the error is
// unix.EWOULDBLOCK when another process has the lock.
func tryLockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	locked, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(locked, there) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, os.ErrNotExist)
	}
	return f, nil
}

// newFolder makes a server's folder with a guard, held by this process. The
// caller has locked the base: until the folder is held it looks like a
// leftover.
//
//	owners     the named pipe that users hold open
//	turn.N     see guard.sh
//	guard.sh
//	state.json port and password, once the server runs
//	log        the server's log
//	pg/        the server account's: its sockets
//	pg/data/   the cluster
func (b base) newFolder(a account, prefix string) (folder string, h hold, err error) {
	folder, err = os.MkdirTemp(b.path, prefix)
	if err != nil {
		return "", hold{}, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(folder)
		}
	}()
	pg := filepath.Join(folder, "pg")
	steps := []func() error{
		func() error { return os.Chmod(folder, b.mode) },
		func() error { return os.Mkdir(pg, 0o700) },
		func() error { return os.Chmod(pg, 0o700) },
		func() error {
			if a.drop {
				return os.Lchown(pg, a.uid, a.gid)
			}
			return nil
		},
		func() error { return os.WriteFile(turnFile(folder, 0), nil, 0o600) },
		func() error { return unix.Mkfifo(ownersPipe(folder), 0o600) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return "", hold{}, fmt.Errorf("make the server's folder %s: %w", folder, err)
		}
	}
	h, err = guard(folder)
	return folder, h, err
}

// sweep removes what killed processes left in any base, and the servers that
// still run there. What it cannot remove it names on log, which may be nil,
// and leaves to the next time.
func (h host) sweep(ctx context.Context, log io.Writer) error {
	for _, b := range candidates(h.as) {
		if b.verify() != nil {
			continue // not there, or not ours
		}
		lock, err := b.lock(ctx)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(b.path)
		for _, entry := range entries {
			folder := filepath.Join(b.path, entry.Name())
			if err := sweepFolder(folder); err != nil && log != nil {
				fmt.Fprintf(log, "cannot remove what a killed process left in %s: %v\n", folder, err)
			}
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepFolder removes a folder that neither a user nor a guard looks after.
func sweepFolder(folder string) error {
	name := filepath.Base(folder)
	if !strings.HasPrefix(name, privatePrefix) && !strings.HasPrefix(name, sharedPrefix) {
		return nil
	}
	lock, err := tryLockFolder(folder)
	if err != nil {
		return nil // in somebody's hands
	}
	defer lock.Close()
	if held(folder) || guarded(folder) {
		return nil
	}
	return errors.Join(shutdown(folder, unix.SIGQUIT), removeAll(folder))
}

// removeAll removes a folder. A server process that outlived its postmaster
// may still write for a moment, so it tries more than once.
func removeAll(folder string) (err error) {
	for range 200 {
		if err = os.RemoveAll(folder); err == nil {
			return nil
		}
		time.Sleep(pollInterval)
	}
	return fmt.Errorf("remove the server's folder: %w", err)
}
