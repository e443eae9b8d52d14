//go:build unix && !linux

package shell

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// openPath opens a path and says where it really is.
func openPath(path string, directory bool) (*os.File, string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, "", err
	}
	f, err := os.Open(resolved)
	if err != nil {
		return nil, "", err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case directory && !info.IsDir():
		err = errors.New("it is not a directory")
	case !directory && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0):
		err = fs.ErrPermission
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, resolved, nil
}

// openBeneath opens a file that lies within the directory. errEscapes says
// that it does not.
func openBeneath(dir workDir, name string) (*os.File, error) {
	if filepath.IsAbs(name) {
		return nil, errEscapes
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(dir.path, name))
	if err != nil {
		return nil, err
	}
	if !within(dir.path, resolved) {
		return nil, errEscapes
	}
	return os.Open(resolved)
}

// reopen opens a handle's file for reading.
func reopen(f *os.File) (*os.File, error) { return os.Open(f.Name()) }
