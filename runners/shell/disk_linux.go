package shell

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// diskWatch looks whether an attempt fills the filesystem of its working
// directory by more than it may. No kernel bounds a directory, so it watches:
// cheaply, by what the filesystem has free, and only when that has shrunk by
// as much as the attempt may use, by what of the directory has changed since
// the attempt began. Each single file the kernel bounds.
type diskWatch struct {
	dir   workDir
	most  int64 // bytes
	files int64
	began time.Time
	free  unix.Statfs_t // at the beginning
}

const diskLook = 50 * time.Millisecond

func newDiskWatch(dir workDir, most int64) *diskWatch {
	w := &diskWatch{dir: dir, most: most, files: int64(tmpFiles(int(most >> 20))), began: time.Now()}
	_ = unix.Fstatfs(int(dir.Fd()), &w.free)
	return w
}

// watch tells, once, what the attempt has filled the directory with, when that is
// too much.
func (w *diskWatch) watch(done <-chan struct{}, filled chan<- string) {
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true // and looked at once more
		case <-tick.C:
		}
		if used := w.look(); used != "" {
			filled <- used
			return
		}
	}
}

// look returns what is too much; empty: nothing is.
func (w *diskWatch) look() string {
	var now unix.Statfs_t
	if unix.Fstatfs(int(w.dir.Fd()), &now) != nil {
		return ""
	}
	grown := (int64(w.free.Bfree) - int64(now.Bfree)) * now.Bsize
	made := int64(w.free.Ffree) - int64(now.Ffree)
	if grown <= w.most && made <= w.files {
		return ""
	}
	switch bytes, files := w.changed(); {
	case files > w.files:
		return fmt.Sprintf("more than %d files in the working directory", w.files)
	case bytes > w.most:
		return fmt.Sprintf("%d MiB in the working directory", (bytes+1<<20-1)>>20)
	}
	return ""
}

// changed adds up the files of the directory that were changed since the
// attempt began, as the kernel's coarse clock has it. More than there may be are
// not looked at: the attempt goes on meanwhile.
func (w *diskWatch) changed() (bytes, files int64) {
	since := w.began.Add(-10 * time.Millisecond)
	for dirs := []string{w.dir.path}; len(dirs) > 0 && files <= w.files; {
		path := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue // it is gone
		}
		for files <= w.files {
			entries, err := dir.ReadDir(512)
			for _, e := range entries {
				if e.IsDir() {
					dirs = append(dirs, filepath.Join(path, e.Name()))
				}
				var st unix.Stat_t
				if unix.Fstatat(int(dir.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && time.Unix(st.Ctim.Unix()).After(since) {
					files++
					bytes += st.Blocks * 512
				}
			}
			if err != nil { // io.EOF
				break
			}
		}
		dir.Close()
	}
	return bytes, files
}
