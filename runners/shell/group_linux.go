package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// group is one attempt's own cgroup, in every tree of the hierarchy. It is
// made fresh for the attempt, so that its peaks and counts are the attempt's
// alone.
type group struct {
	h    *hierarchy
	name string
	join []*os.File // the shim enters by writing "0" to each

	directory *os.File       // of version 2
	later     []*os.File     // those of join that are version 1's
	files     map[string]int // its files that were opened ahead, by path
}

const cpuPeriod = 100_000 // microseconds; that of a new cgroup

// newGroup makes a cgroup without limits.
func (h *hierarchy) newGroup(name string) (g *group, err error) {
	g = &group{h: h, name: name}
	defer func() {
		if err != nil {
			g.remove()
			g = nil
		}
	}()
	for _, root := range h.roots() {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return g, fmt.Errorf("make cgroup: %w", err)
		}
		file := "tasks"
		if root == h.unified {
			file = "cgroup.procs"
		}
		f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
		if err != nil {
			return g, fmt.Errorf("open cgroup: %w", err)
		}
		g.join = append(g.join, f)
		if root != h.unified {
			g.later = append(g.later, f)
			continue
		}
		if g.directory, err = os.Open(dir); err != nil {
			return g, fmt.Errorf("open cgroup: %w", err)
		}
	}
	return g, nil
}

// openAhead opens what every attempt writes and reads, so that it need not be
// looked for while somebody waits. What cannot be opened is tried again then.
func (g *group) openAhead() {
	g.files = map[string]int{}
	open := func(path string, flags int) {
		if fd, err := again(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) }); err == nil {
			g.files[path] = fd
		}
	}
	var all policy
	all.limits.MemoryMB, all.limits.CPUCores = 1, 1
	for _, limit := range g.limits(all) {
		open(g.path(limit.controller, limit.file), unix.O_WRONLY)
	}
	for _, path := range []string{g.cpuFile(), g.peakFile(), g.oomFile(), g.forksFile()} {
		if path != "" {
			open(path, unix.O_RDONLY)
		}
	}
}

func (g *group) closeFiles() {
	for path, fd := range g.files {
		unix.Close(fd)
		delete(g.files, path)
	}
}

// write writes to a file of the group.
func (g *group) write(path, value string) error {
	fd, open := g.files[path]
	if !open {
		return writeFile(path, value)
	}
	if _, err := again(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// read reads a file of the group.
func (g *group) read(path string) string {
	if fd, open := g.files[path]; open {
		return readPage(fd)
	}
	return readSmall(path)
}

func (g *group) number(path string) (int64, bool) { return numberIn(g.read(path)) }

// limit sets the attempt's limits.
func (g *group) limit(p policy) error {
	for _, limit := range g.limits(p) {
		err := g.write(g.path(limit.controller, limit.file), limit.value)
		if err != nil && !(limit.optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("set cgroup limit: %w", err)
		}
	}
	return nil
}

// groupLimit is one file to write.
type groupLimit struct {
	controller, file, value string
	optional                bool // a kernel without swap accounting lacks it
}

// limits are the files for the limits that the policy gives.
func (g *group) limits(p policy) []groupLimit {
	var list []groupLimit
	if p.limits.MemoryMB > 0 && g.has("memory") {
		bytes := strconv.Itoa(p.limits.MemoryMB << 20)
		if g.h.v2("memory") {
			list = append(list, groupLimit{"memory", "memory.max", bytes, false}, groupLimit{"memory", "memory.swap.max", "0", true})
		} else {
			list = append(list, groupLimit{"memory", "memory.limit_in_bytes", bytes, false}, groupLimit{"memory", "memory.memsw.limit_in_bytes", bytes, true})
		}
	}
	if p.limits.CPUCores > 0 && g.has("cpu") {
		quota := max(1000, int(p.limits.CPUCores*cpuPeriod))
		if g.h.v2("cpu") {
			list = append(list, groupLimit{"cpu", "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod), false})
		} else {
			list = append(list, groupLimit{"cpu", "cpu.cfs_quota_us", strconv.Itoa(quota), false})
		}
	}
	if g.has("pids") {
		// The shim is in there too: on version 1 with the one thread that
		// entered, on version 2 with all that a Go program has.
		allowed := p.maxProcesses + 1
		if g.h.v2("pids") {
			allowed = p.maxProcesses + shimThreads
		}
		list = append(list, groupLimit{"pids", "pids.max", strconv.Itoa(allowed), false})
	}
	return list
}

// shimThreads is room for the shim's own threads.
const shimThreads = 12

// v2 tells whether version 2 has the controller.
func (h *hierarchy) v2(controller string) bool {
	return h.unified != "" && h.dirs[controller] == h.unified
}

// joinNow is the version 2 cgroup, as a directory, for a child to be made in;
// -1 without one. A process enters it more cheaply by its birth than later.
func (g *group) joinNow() int {
	if g.directory == nil {
		return -1
	}
	return int(g.directory.Fd())
}

// joinLater are the files of version 1's cgroups, which a process enters by
// writing "0" to each.
func (g *group) joinLater() []*os.File {
	if g.directory == nil {
		return g.join
	}
	return g.later
}

func (g *group) has(controller string) bool { return g.h.dirs[controller] != "" }

func (g *group) path(controller, file string) string {
	return filepath.Join(g.h.dirs[controller], g.name, file)
}

// cpu is the processor time that the tree has used; ok is false where no
// cgroup counts it.
func (g *group) cpu() (used time.Duration, ok bool) {
	path := g.cpuFile()
	switch {
	case path == "":
		return 0, false
	case g.has("cpuacct"):
		ns, ok := g.number(path)
		return time.Duration(ns), ok
	}
	us, ok := numberOf(g.read(path), "usage_usec")
	return time.Duration(us) * time.Microsecond, ok
}

// cpuFile counts the processor time: version 2's does without a controller.
func (g *group) cpuFile() string {
	switch {
	case g.has("cpuacct"):
		return g.path("cpuacct", "cpuacct.usage")
	case g.h.unified == "":
		return ""
	}
	return filepath.Join(g.h.unified, g.name, "cpu.stat")
}

// peak is the most memory that the tree held at once, in bytes.
func (g *group) peak() (bytes int64, ok bool) {
	if !g.has("memory") {
		return 0, false
	}
	return g.number(g.peakFile())
}

func (g *group) peakFile() string {
	switch {
	case !g.has("memory"):
		return ""
	case g.h.v2("memory"):
		return g.path("memory", "memory.peak") // since Linux 5.19
	}
	return g.path("memory", "memory.max_usage_in_bytes")
}

// countsPeak tells whether the kernel itself keeps the peak.
func (g *group) countsPeak() bool {
	return g.has("memory") && (!g.h.v2("memory") || unix.Access(g.peakFile(), unix.F_OK) == nil)
}

// memory is what the tree holds now, in bytes.
func (g *group) memory() (bytes int64, ok bool) {
	switch {
	case !g.has("memory"):
		return 0, false
	case g.h.v2("memory"):
		return g.number(g.path("memory", "memory.current"))
	}
	return g.number(g.path("memory", "memory.usage_in_bytes"))
}

// oomKills is how many of the tree's processes the kernel killed for memory.
func (g *group) oomKills() int64 {
	if !g.has("memory") {
		return 0
	}
	n, _ := numberOf(g.read(g.oomFile()), "oom_kill")
	return n
}

func (g *group) oomFile() string {
	switch {
	case !g.has("memory"):
		return ""
	case g.h.v2("memory"):
		return g.path("memory", "memory.events")
	}
	return g.path("memory", "memory.oom_control")
}

// forksRefused is how often the limit on processes stopped a fork.
func (g *group) forksRefused() int64 {
	if !g.has("pids") {
		return 0
	}
	n, _ := numberOf(g.read(g.forksFile()), "max")
	return n
}

func (g *group) forksFile() string {
	if !g.has("pids") {
		return ""
	}
	return g.path("pids", "pids.events")
}

// kill ends every process of the tree. It first forbids more of them, so
// that no fork can outrun it.
func (g *group) kill() {
	if g.has("pids") {
		_ = g.write(g.path("pids", "pids.max"), "0")
	}
	// Dying takes processor time too, which a small share would stretch.
	if g.has("cpu") && g.h.dirs["cpu"] != g.h.unified {
		_ = g.write(g.path("cpu", "cpu.cfs_quota_us"), "-1")
	} else if g.has("cpu") {
		_ = g.write(g.path("cpu", "cpu.max"), "max")
	}
	if g.h.unified != "" && writeFile(filepath.Join(g.h.unified, g.name, "cgroup.kill"), "1") == nil { // since Linux 5.14
		return
	}
	for _, pid := range g.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// processes lists the tree's processes, once each.
func (g *group) processes() []int {
	var pids []int
	for _, root := range g.h.roots() {
		b, _ := os.ReadFile(filepath.Join(root, g.name, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// remove kills what is left and takes the cgroup away. A killed process
// leaves its cgroup only when it is reaped, so this may take a moment.
func (g *group) remove() error {
	for _, f := range g.join {
		f.Close()
	}
	g.join, g.later = nil, nil
	g.closeFiles()
	if g.directory != nil {
		g.directory.Close()
		g.directory = nil
	}
	var failed error
	for _, root := range g.h.roots() {
		dir := filepath.Join(root, g.name)
		wait := 50 * time.Microsecond
		for {
			err := unix.Rmdir(dir)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || wait > time.Second {
				failed = errors.Join(failed, fmt.Errorf("remove cgroup %s: %w", dir, err))
				break
			}
			g.kill()
			time.Sleep(wait)
			wait *= 2
		}
	}
	return failed
}

// readNumber reads a file that holds one number.
func readNumber(path string) (int64, bool) { return numberIn(readSmall(path)) }

func numberIn(content string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(content), 10, 64)
	return n, err == nil
}

// readSmall reads a file of the kernel's that is no longer than a page, with as
// few calls as it takes: every attempt reads several. Empty: it cannot be read.
func readSmall(path string) string {
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	return readPage(fd)
}

// readPage reads a file's beginning, wherever it was read to before.
func readPage(fd int) string {
	var b [4096]byte
	n, err := again(func() (int, error) { return unix.Pread(fd, b[:], 0) })
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func numberOf(content, key string) (int64, bool) {
	for line := range strings.Lines(content) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && name == key {
			n, err := strconv.ParseInt(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
