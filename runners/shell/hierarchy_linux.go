package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// groupsPrefix begins the name of the directory, below the agent's own cgroup,
// that holds one cgroup an attempt; the process that owns it follows. agentDir
// is where the agent itself goes on version 2, whose inner cgroups hold no
// processes.
const (
	groupsPrefix = "specql-jobs-"
	agentDir     = "specql-agent"
)

// hierarchy is where attempts' cgroups are made: on version 1 one directory a
// controller, on version 2 the same for all. A controller that the agent
// cannot use is missing. Version 1 often comes with an empty version 2 tree
// beside it, which still kills and counts a whole tree at once.
type hierarchy struct {
	version string            // v1, v2 or none
	dirs    map[string]string // by controller: memory, cpu, cpuacct, pids
	unified string            // the version 2 directory; empty without one
}

// The runners of a process share its hierarchy; the last one removes it.
var shared struct {
	sync.Mutex
	users int
	h     *hierarchy
	lacks []string
}

// acquireHierarchy makes the process's directories, and says what the host
// lacks. release takes them away again.
func acquireHierarchy() (*hierarchy, []string) {
	shared.Lock()
	defer shared.Unlock()
	if shared.users == 0 {
		shared.h, shared.lacks = findHierarchy()
	}
	shared.users++
	return shared.h, shared.lacks
}

func (h *hierarchy) release() {
	shared.Lock()
	defer shared.Unlock()
	if shared.users--; shared.users > 0 {
		return
	}
	for _, dir := range h.roots() {
		_ = unix.Rmdir(dir) // one that is still in use is for the next start
	}
}

// bounding are the controllers of which Host.Controllers tells.
var bounding = []string{"memory", "cpu", "pids"}

// controllers lists those that can bound an attempt.
func (h *hierarchy) controllers() []string {
	var list []string
	for _, c := range bounding {
		if h.dirs[c] != "" {
			list = append(list, c)
		}
	}
	if h.dirs["cpuacct"] != "" || h.unified != "" {
		list = append(list, "cpuacct") // version 2 counts without a controller
	}
	return list
}

// roots lists every directory that holds attempts' cgroups, once each.
func (h *hierarchy) roots() []string {
	var list []string
	for _, dir := range h.dirs {
		list = append(list, dir)
	}
	if h.unified != "" {
		list = append(list, h.unified)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// findHierarchy looks at what is mounted and what the agent may write.
func findHierarchy() (*hierarchy, []string) {
	h := &hierarchy{version: "none", dirs: map[string]string{}}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err := errors.Join(err, err2); err != nil {
		return h, []string{"cgroups: " + err.Error()}
	}
	var lacks []string
	for _, m := range cgroupMounts(string(mounts), string(own)) {
		if m.unified {
			dir, controllers, err := prepareUnified(m.dir)
			if err != nil {
				lacks = append(lacks, "cgroup v2: "+err.Error())
				continue
			}
			h.unified = dir
			for _, c := range controllers {
				h.dirs[c] = dir
			}
			if h.dirs["memory"] == dir {
				h.version = "v2"
			}
			continue
		}
		for _, c := range m.controllers {
			dir := filepath.Join(m.dir, groupsPrefix+owner())
			if err := makeGroupDir(dir); err != nil {
				lacks = append(lacks, fmt.Sprintf("cgroup v1 %s: %v", c, err))
				continue
			}
			h.dirs[c] = dir
			h.version = "v1"
		}
	}
	if h.version == "none" && h.unified != "" {
		h.version = "v2" // no controller is delegated, but killing and counting work
	}
	for _, c := range bounding {
		if h.dirs[c] == "" {
			lacks = append(lacks, "the "+c+" cgroup controller")
		}
	}
	return h, lacks
}

// cgroupMount is one mounted tree, at the agent's own place in it.
type cgroupMount struct {
	dir         string
	controllers []string // version 1
	unified     bool
}

// cgroupMounts reads /proc/self/mountinfo and /proc/self/cgroup (proc(5),
// cgroups(7)). Version 1 trees come first.
func cgroupMounts(mountinfo, own string) []cgroupMount {
	paths := map[string]string{} // by controller; "" is version 2
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			paths[c] = parts[2]
		}
	}
	var list []cgroupMount
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, point := fields[3], fields[4]
		place := func(path string) string {
			// In a container the path may be the host's and lie outside of
			// what is mounted; the mount's root is the container's then.
			if within(root, path) {
				if rel, err := filepath.Rel(root, path); err == nil {
					if dir := filepath.Join(point, rel); isDir(dir) {
						return dir
					}
				}
			}
			return point
		}
		switch kind[0] {
		case "cgroup2":
			list = append(list, cgroupMount{dir: place(paths[""]), unified: true})
		case "cgroup":
			m := cgroupMount{}
			for c := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains([]string{"memory", "cpu", "cpuacct", "pids"}, c) {
					m.controllers = append(m.controllers, c)
					m.dir = place(paths[c])
				}
			}
			if len(m.controllers) > 0 {
				list = append(list, m)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b cgroupMount) int {
		switch {
		case a.unified == b.unified:
			return 0
		case a.unified:
			return 1
		}
		return -1
	})
	return list
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// makeGroupDir makes the directory and proves that cgroups can be made in it.
func makeGroupDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return unix.Access(dir, unix.W_OK)
}

// prepareUnified makes the attempts' directory in a version 2 tree and hands
// it the controllers that the agent's own cgroup has. Under systemd this
// needs Delegate=yes.
func prepareUnified(own string) (dir string, controllers []string, err error) {
	if filepath.Base(own) == agentDir {
		own = filepath.Dir(own) // an earlier call moved the agent
	}
	dir = filepath.Join(own, groupsPrefix+owner())
	if err := makeGroupDir(dir); err != nil {
		return "", nil, err
	}
	available, err := os.ReadFile(filepath.Join(own, "cgroup.controllers"))
	if err != nil {
		return "", nil, err
	}
	for _, c := range strings.Fields(string(available)) {
		if !slices.Contains(bounding, c) {
			continue
		}
		err := writeFile(filepath.Join(own, "cgroup.subtree_control"), "+"+c)
		if errors.Is(err, unix.EBUSY) {
			leaf := filepath.Join(own, agentDir)
			if err = makeGroupDir(leaf); err == nil {
				err = writeFile(filepath.Join(leaf, "cgroup.procs"), "0")
			}
			if err == nil {
				err = writeFile(filepath.Join(own, "cgroup.subtree_control"), "+"+c)
			}
		}
		if err == nil && writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+c) == nil {
			controllers = append(controllers, c)
		}
	}
	return dir, controllers, nil
}

// writeFile writes to a file of the kernel's, which is never created.
func writeFile(path, value string) error {
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	// A cgroup's limit is refused for as long as a signal waits for the thread.
	if _, err = again(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// again makes a call until no signal interrupts it.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}
