package shell

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
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

// watch tells, once, how many bytes the attempt has written when they are too
// many, or its files are.
func (w *diskWatch) watch(done <-chan struct{}, filled chan<- int64) {
	tick := time.NewTicker(diskLook)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true // and looked at once more
		case <-tick.C:
		}
		if bytes, over := w.look(); over {
			filled <- bytes
			return
		}
	}
}

func (w *diskWatch) look() (bytes int64, over bool) {
	var now unix.Statfs_t
	if unix.Fstatfs(int(w.dir.Fd()), &now) != nil {
		return 0, false
	}
	grown := (int64(w.free.Bfree) - int64(now.Bfree)) * now.Bsize
	made := int64(w.free.Ffree) - int64(now.Ffree)
	if grown <= w.most && made <= w.files {
		return 0, false
	}
	bytes, files := w.changed()
	return max(bytes, 1), bytes > w.most || files > w.files
}

// changed adds up the files of the directory that were changed since the
// attempt began, as the kernel's coarse clock has it.
func (w *diskWatch) changed() (bytes, files int64) {
	since := w.began.Add(-10 * time.Millisecond)
	_ = filepath.WalkDir(w.dir.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && time.Unix(st.Ctim.Unix()).After(since) {
			files++
			bytes += st.Blocks * 512
		}
		return nil
	})
	return bytes, files
}
