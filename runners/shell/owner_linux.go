package shell

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// owner names this process in what it makes on the host, so that what a
// killed agent left can be told from what a living one uses: PID namespace,
// PID and start time.
var owner = sync.OnceValue(func() string {
	start, _ := startTime(os.Getpid())
	return fmt.Sprintf("%d-%d-%d", pidNamespace(), os.Getpid(), start)
})

// pidNamespace is the number of the namespace that PIDs are counted in.
func pidNamespace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// startTime is when a process began, in the kernel's ticks (proc(5), the 22nd
// field of stat).
func startTime(pid int) (uint64, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0, false
	}
	t, err := strconv.ParseUint(fields[19], 10, 64)
	return t, err == nil
}

// abandoned tells whether a name's owner is a process of this PID namespace
// that is gone. Of other namespaces nothing can be known.
func abandoned(name string) bool {
	var namespace, start uint64
	var pid int
	if n, _ := fmt.Sscanf(name, "%d-%d-%d", &namespace, &pid, &start); n != 3 || namespace != pidNamespace() {
		return false
	}
	now, alive := startTime(pid)
	return !alive || now != start
}

// removeLeftovers takes away what agents left that were killed: cgroups with
// whatever still runs in them, and temporary directories.
func removeLeftovers(h *hierarchy, tempDir string, log *slog.Logger) (removed int, failed error) {
	for _, root := range h.roots() {
		parent := filepath.Dir(root)
		for _, name := range entries(parent, groupsPrefix) {
			if !abandoned(strings.TrimPrefix(name, groupsPrefix)) {
				continue
			}
			dir := filepath.Join(parent, name)
			left := hierarchy{unified: dir} // any one tree; processes and kill are looked for by file
			for _, attempt := range entries(dir, "") {
				if isDir(filepath.Join(dir, attempt)) {
					_ = (&group{h: &left, name: attempt}).remove()
				}
			}
			if err := unix.Rmdir(dir); err != nil {
				log.Warn("a cgroup of an agent that was killed could not be removed", "cgroup", dir, "error", err)
				failed = errors.Join(failed, fmt.Errorf("remove cgroup %s: %w", dir, err))
				continue
			}
			removed++
		}
	}
	for _, name := range entries(tempDir, tempPrefix) {
		path := filepath.Join(tempDir, name)
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || !abandoned(strings.TrimPrefix(name, tempPrefix)) {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue // in a directory for all, a name proves nothing
		}
		if err := removeTree(path); err != nil {
			log.Warn("a temporary directory of an agent that was killed could not be removed", "path", path, "error", err)
			failed = errors.Join(failed, err)
			continue
		}
		removed++
	}
	return removed, failed
}
