package shell

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tempPrefix begins the name of the directory that holds the temporary
// directories of one runner's attempts; the process that owns it follows.
const tempPrefix = "specql-agent-"

// makeTempBase makes a runner's directory. Jobs of any user pass through it,
// but none can list it.
func makeTempBase(dir, owner string) (string, error) {
	base, err := os.MkdirTemp(dir, tempPrefix+owner+"-")
	if err != nil {
		return "", err
	}
	if base, err = filepath.EvalSymlinks(base); err != nil {
		return "", err
	}
	return base, os.Chmod(base, 0o711)
}

// removeTree removes a directory that a job wrote to; the job may have taken
// the permissions away that this needs.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			// WalkDir reads the directory after this; links are no directories.
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// diskUse is what the files below a directory hold on disk, in bytes.
func diskUse(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			total += blocks(info)
		}
		return nil
	})
	return total
}

// entries lists the names in a directory that begin with prefix; none where
// it cannot be read.
func entries(dir, prefix string) []string {
	list, _ := os.ReadDir(dir)
	var names []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// tmpFiles bounds the number of files in a /tmp of that size.
func tmpFiles(mb int) int { return 4096 + 64*min(mb, 1<<14) }
