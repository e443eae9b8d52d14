package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openPath opens a path as a handle (O_PATH), which needs no permission to
// read and cannot be exchanged afterwards, and says where it really is.
func openPath(path string, directory bool) (*os.File, string, error) {
	flags := unix.O_PATH | unix.O_CLOEXEC
	if directory {
		flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	resolved, err := os.Readlink(procPath(f))
	if err != nil {
		f.Close()
		return nil, "", err
	}
	if !directory {
		info, err := f.Stat()
		if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
			err = unix.EACCES
		}
		if err != nil {
			f.Close()
			return nil, "", err
		}
	}
	return f, resolved, nil
}

// openBeneath opens a file that lies within the directory, whatever links and
// ".." its name holds. errEscapes says that it does not.
func openBeneath(dir workDir, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), name), nil
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return nil, errEscapes
	case errors.Is(err, unix.ENOSYS): // before Linux 5.6
		return openResolved(dir, name)
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: err}
}

// openResolved does without openat2: it opens first and then asks where the
// handle leads, so nothing can be exchanged in between.
func openResolved(dir workDir, name string) (*os.File, error) {
	if filepath.IsAbs(name) {
		return nil, errEscapes
	}
	f, err := os.OpenFile(filepath.Join(dir.path, name), unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	resolved, err := os.Readlink(procPath(f))
	if err == nil && !within(dir.path, resolved) {
		err = errEscapes
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// reopen opens a handle's file for reading.
func reopen(f *os.File) (*os.File, error) {
	fd, err := unix.Open(procPath(f), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
