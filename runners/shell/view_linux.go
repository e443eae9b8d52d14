package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// privateTmp is where a job with mounts of its own has its temporary files.
const privateTmp = "/tmp"

// shownAgain are directories in /run that a job with the host's network needs
// to find names.
var shownAgain = []string{"/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/run/nscd"}

// view is what of the host's files a job with mounts of its own sees: all of
// them, but for some that are covered and some that are put in place anew.
type view struct {
	Hide  []string // directories, covered by empty ones
	Block []string // files, covered by /dev/null
	Keep  []string // directories within hidden ones that are shown

	TmpMB    int // the private /tmp, which is /dev/shm too
	TmpFiles int

	ReadOnly bool     // the working directory
	Lent     bool     // the working directory comes as a detached mount
	Work     identity // the working directory, where it is put in place anew; else without a path
	Program  string   // the program's path, where that is covered
}

// covered tells whether the path lies in a directory that the view covers.
func (v *view) covered(path string) bool {
	return within(privateTmp, path) || slices.ContainsFunc(v.Hide, func(dir string) bool { return within(dir, path) })
}

// viewOf decides what an attempt sees.
func (sys *system) viewOf(a *attempt, work identity) view {
	v := view{Hide: sys.hide, Block: sys.block, TmpMB: a.policy.tmpMB, TmpFiles: tmpFiles(a.policy.tmpMB), Lent: a.lent != nil,
		ReadOnly: a.plan.files == "read" || a.plan.files == "none"}
	if a.plan.network == "all" {
		v.Keep = shownAgain
	}
	if v.Lent || v.covered(a.dir.path) {
		v.Work = work
	}
	if v.covered(a.command.path) && !within(a.dir.path, a.command.path) {
		v.Program = a.command.path
	}
	return v
}

// hiddenPaths sorts what is to be hidden from jobs into directories and files.
// /run holds the sockets of container engines, message buses and databases.
func hiddenPaths(more []string) (dirs, files []string) {
	for _, path := range append([]string{"/run", "/var/run"}, more...) {
		path, err := filepath.EvalSymlinks(path)
		if err != nil || path == "/" {
			continue
		}
		if isDir(path) {
			dirs = append(dirs, path)
		} else {
			files = append(files, path)
		}
	}
	slices.Sort(dirs)
	slices.Sort(files)
	return slices.Compact(dirs), slices.Compact(files)
}

const quietMount = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// cover hides what the view hides.
func (v *view) cover() error {
	kept := map[string]*os.File{}
	for _, dir := range v.Keep {
		if f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			defer f.Close()
			kept[dir] = f
		}
	}
	for _, dir := range v.Hide {
		if !isDir(dir) {
			continue
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", quietMount, "size=64k,mode=755"); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	for _, file := range v.Block {
		if err := unix.Mount("/dev/null", file, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", file, err)
		}
	}
	for dir, f := range kept {
		if err := bindAt(int(f.Fd()), dir, true); err != nil {
			return err
		}
	}
	return nil
}

// mount gives the job its own view, a /proc that shows only its own
// processes, and temporary files among nobody else's.
func (s *shim) mount() error {
	if !s.spec.Namespaces {
		return nil
	}
	// Nothing done here may reach the host's mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	v := &s.spec.View
	work := joinFD + s.spec.Groups
	if v.Work.Path != "" && !v.Lent {
		fd, err := unix.Open(v.Work.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", v.Work.Path, err)
		}
		work = fd
		defer unix.Close(fd)
	}
	program := -1
	if v.Program != "" {
		// A handle of the agent's belongs to its mounts and cannot be shown
		// among these.
		var err error
		if program, err = reach(v.Program, programFD); err != nil {
			return err
		}
		defer unix.Close(program)
	}
	if err := v.cover(); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", quietMount|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if v.TmpMB > 0 {
		options := fmt.Sprintf("size=%dm,nr_inodes=%d,mode=1777", v.TmpMB, v.TmpFiles)
		if err := unix.Mount("tmpfs", privateTmp, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount %s: %w", privateTmp, err)
		}
		if isDir("/dev/shm") {
			if err := unix.Mount(privateTmp, "/dev/shm", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount /dev/shm: %w", err)
			}
		}
	}
	if v.Program != "" {
		if err := bindAt(program, v.Program, false); err != nil {
			return err
		}
	}
	switch {
	case v.Work.Path == "":
	case v.Lent:
		if err := makePlace(v.Work.Path, true); err != nil {
			return err
		}
		if err := unix.MoveMount(work, "", unix.AT_FDCWD, v.Work.Path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", v.Work.Path, err)
		}
	default:
		if err := bindAt(work, v.Work.Path, true); err != nil {
			return err
		}
		// Landlock adds up what is granted on the way, and /tmp is writable.
		if v.ReadOnly {
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(unix.AT_FDCWD, v.Work.Path, unix.AT_RECURSIVE, &attr); err != nil {
				return fmt.Errorf("bar writing in %s: %w", v.Work.Path, err)
			}
		}
	}
	return unix.Sethostname([]byte(jobHost))
}

// reach opens a path that must mean the same file as a handle does.
func reach(path string, handle int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return -1, err
	}
	if err := (identity{path, uint64(st.Dev), st.Ino}).still(); err != nil {
		return -1, err
	}
	return unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
}

// jobHost is the name of the host that a job believes to be on.
const jobHost = "specql-job"

// bindAt shows what a handle means at a path.
func bindAt(fd int, path string, dir bool) error {
	if err := makePlace(path, dir); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", path, err)
	}
	return nil
}

// makePlace makes what a mount at the path needs, where it is not there.
func makePlace(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// tmpIsFull tells whether a temporary filesystem has no room left.
func tmpIsFull(st *unix.Statfs_t) bool { return st.Bfree == 0 || st.Ffree == 0 }
