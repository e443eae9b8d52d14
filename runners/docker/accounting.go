package docker

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroups is where this host's cgroups are. A container gets a parent cgroup
// of its own, which outlives it: what the container used is read there after
// its end. Accounting in a parent includes all that ever was below it.
type cgroups struct {
	unified string            // version 2's mount; empty with version 1
	v1      map[string]string // version 1: controller → mount
	all     []string          // every mount, for removing
	dir     string            // of this runner below every mount: /specql-docker-…
}

// groupPrefix begins the name of each agent's directory.
const groupPrefix = "specql-docker-"

// findCgroups reads where cgroups are mounted; nil where the container's own
// cannot be read after its end: another host, systemd's driver, or a
// namespace in which the host's paths mean something else.
func findCgroups(mountinfo string, f facts) *cgroups {
	if !f.local || f.cgroupDriver != "cgroupfs" {
		return nil
	}
	c := &cgroups{v1: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		// proc(5): id parent major:minor root point options … - type source super
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || left[3] != "/" {
			continue
		}
		switch right[0] {
		case "cgroup2":
			c.all = append(c.all, left[4])
			if f.cgroupVersion == "2" {
				c.unified = left[4]
			}
		case "cgroup":
			c.all = append(c.all, left[4])
			for option := range strings.SplitSeq(right[2], ",") {
				c.v1[option] = left[4]
			}
		}
	}
	if f.cgroupVersion == "2" {
		if c.unified == "" {
			return nil
		}
	} else if c.v1["memory"] == "" || c.v1["cpuacct"] == "" {
		return nil
	}
	return c
}

// group is one container's parent cgroup.
type group struct {
	c     *cgroups
	path  string   // below every mount
	kills *os.File // version 1: counts kills for want of memory
}

// group makes a container's parent, with the container's memory limit in bytes;
// 0: none. The engine makes it where we don't.
func (c *cgroups) group(name string, limit int64) (*group, error) {
	g := &group{c: c, path: filepath.Join(c.dir, name)}
	for _, mount := range c.counting() {
		if err := os.MkdirAll(filepath.Join(mount, g.path), 0o755); err != nil {
			g.remove()
			return nil, err
		}
	}
	if mount := c.v1["memory"]; c.unified == "" {
		// Kernels before 5.11 count below a cgroup only where they are told.
		for _, dir := range []string{c.dir, g.path} {
			_ = os.WriteFile(filepath.Join(mount, dir, "memory.use_hierarchy"), []byte("1"), 0)
		}
	}
	if err := g.bound(limit); err != nil {
		g.remove()
		return nil, err
	}
	return g, nil
}

func (c *cgroups) counting() []string {
	if c.unified != "" {
		return nil // runc makes it, with the controllers
	}
	return []string{c.v1["memory"], c.v1["cpuacct"]}
}

// cpu is the processor time that was used below the group so far.
func (g *group) cpu() (time.Duration, bool) {
	if g.c.unified != "" {
		usec, ok := field(filepath.Join(g.c.unified, g.path, "cpu.stat"), "usage_usec")
		return time.Duration(usec) * time.Microsecond, ok
	}
	ns, ok := number(filepath.Join(g.c.v1["cpuacct"], g.path, "cpuacct.usage"))
	return time.Duration(ns), ok
}

// peak is the most memory that was in use below the group at a time, in bytes.
func (g *group) peak() (int64, bool) {
	if g.c.unified != "" {
		return number(filepath.Join(g.c.unified, g.path, "memory.peak")) // from Linux 5.19 on
	}
	return number(filepath.Join(g.c.v1["memory"], g.path, "memory.max_usage_in_bytes"))
}

// memory is what is in use now, in bytes.
func (g *group) memory() (int64, bool) {
	if g.c.unified != "" {
		return number(filepath.Join(g.c.unified, g.path, "memory.current"))
	}
	return number(filepath.Join(g.c.v1["memory"], g.path, "memory.usage_in_bytes"))
}

// forget begins the peak anew, where the kernel can.
func (g *group) forget() {
	if g.c.unified == "" {
		_ = os.WriteFile(filepath.Join(g.c.v1["memory"], g.path, "memory.max_usage_in_bytes"), []byte("0"), 0)
	}
}

// oomKills counts the kernel's kills for want of memory, once.
func (g *group) oomKills() int64 {
	if g.c.unified == "" {
		return g.told()
	}
	n, _ := field(filepath.Join(g.c.unified, g.path, "memory.events"), "oom_kill")
	return n
}

// remove takes the group away under every mount; one that is still in use
// stays for the next sweep.
func (g *group) remove() {
	if g.kills != nil {
		g.kills.Close()
	}
	for _, mount := range g.c.all {
		removeGroup(filepath.Join(mount, g.path))
	}
}

// removeGroup removes an empty cgroup with empty ones below it.
func removeGroup(dir string) {
	if err := os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}

// removeLeft takes away the directories of agents that are dead.
func (c *cgroups) removeLeft(isDead func(owner string) bool) {
	for _, mount := range c.all {
		entries, err := os.ReadDir(mount)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if owner, ok := strings.CutPrefix(e.Name(), groupPrefix); ok && isDead(owner) {
				removeGroup(filepath.Join(mount, e.Name()))
			}
		}
	}
}

// number reads a file that holds one.
func number(path string) (int64, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// field reads a number from a file of names and numbers.
func field(path, name string) (int64, bool) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), " "); ok && key == name {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
