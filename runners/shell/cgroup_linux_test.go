package shell

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestCgroupsAreFoundWhereTheAgentIs(t *testing.T) {
	v1 := t.TempDir()
	for _, dir := range []string{"memory/agent", "cpu,cpuacct", "unified/agent.service"} {
		if err := os.MkdirAll(filepath.Join(v1, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mounts := fmt.Sprintf(`24 1 0:22 / %[1]s/unified rw - cgroup2 cgroup2 rw
25 1 0:23 / %[1]s/memory rw - cgroup cgroup rw,memory
26 1 0:24 /docker/abc %[1]s/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
27 1 0:25 / %[1]s/systemd rw - cgroup cgroup rw,name=systemd
28 1 0:26 / / rw - ext4 /dev/vda rw
`, v1)
	own := "9:name=systemd:/x\n4:memory:/agent\n2:cpu,cpuacct:/docker/abc\n0::/agent.service\n"
	got := cgroupMounts(mounts, own)
	want := []cgroupMount{
		{dir: v1 + "/memory/agent", controllers: []string{"memory"}},
		{dir: v1 + "/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{dir: v1 + "/unified/agent.service", unified: true},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestLimitsAreWrittenAsEachVersionWantsThem(t *testing.T) {
	var p policy
	p.limits.MemoryMB, p.limits.CPUCores, p.maxProcesses = 512, 1.5, 64
	v1 := group{h: &hierarchy{version: "v1", unified: "/u", dirs: map[string]string{"memory": "/m", "cpu": "/c", "cpuacct": "/a", "pids": "/p"}}}
	v2 := group{h: &hierarchy{version: "v2", unified: "/u", dirs: map[string]string{"memory": "/u", "cpu": "/u", "pids": "/u"}}}
	none := group{h: &hierarchy{version: "v2", unified: "/u"}}
	for _, c := range []struct {
		g    group
		want string
	}{
		{v1, "[{memory memory.limit_in_bytes 536870912 false} {memory memory.memsw.limit_in_bytes 536870912 true} {cpu cpu.cfs_quota_us 150000 false} {pids pids.max 65 false}]"},
		{v2, "[{memory memory.max 536870912 false} {memory memory.swap.max 0 true} {cpu cpu.max 150000 100000 false} {pids pids.max 76 false}]"},
		{none, "[]"},
	} {
		if got := fmt.Sprint(c.g.limits(p)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.g.h.version, got, c.want)
		}
	}
}

func TestKernelCountersAreRead(t *testing.T) {
	for _, c := range []struct {
		content, key string
		want         int64
		ok           bool
	}{
		{"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill", 2, true},               // v1 memory.oom_control
		{"low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n", "oom_kill", 1, true}, // v2 memory.events
		{"usage_usec 12345\nuser_usec 12000\nsystem_usec 345\n", "usage_usec", 12345, true},  // v2 cpu.stat
		{"max 3\n", "max", 3, true}, // pids.events
		{"", "max", 0, false},
		{"max x\n", "max", 0, false},
	} {
		if got, ok := numberOf(c.content, c.key); got != c.want || ok != c.ok {
			t.Errorf("%s of %q = %d, %v", c.key, c.content, got, ok)
		}
	}
}

// Version 2 without controllers still counts processor time and kills a whole
// tree.
func TestUnifiedTreeAloneCountsAndKills(t *testing.T) {
	r := newRunner(t)
	if r.sys.h.unified == "" {
		t.Skip("this host has no version 2 tree that the agent may write")
	}
	whole := r.sys.h
	r.sys.h = &hierarchy{version: "v2", dirs: map[string]string{}, unified: whole.unified}
	r.host.Cgroup, r.host.Controllers = "v2", nil
	t.Cleanup(func() { r.sys.h = whole })

	cpu := mustRun(t, r, newCall(t, "cpu", "1000"))
	if used := *cpu.Usage.CPUUsagePercent / 100 * cpu.Usage.DurationSeconds; used < 0.9 || used > 1.1 {
		t.Errorf("processor time = %.3f s, the program used 1", used)
	}
	if cpu.Usage.PeakMemoryMB != nil {
		t.Errorf("peak_memory_mb = %v where nothing measures it", *cpu.Usage.PeakMemoryMB)
	}

	g, err := r.sys.h.newGroup("kill")
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self(t), helperArg, "hang")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.join[0].WriteString(fmt.Sprint(child.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(g.processes(), child.Process.Pid) {
		t.Error("the tree does not list its process")
	}
	g.kill()
	if err := child.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	if err := g.remove(); err != nil {
		t.Error(err)
	}
}

// Without cgroup.kill the processes are killed one by one.
func TestVersionOneAloneKills(t *testing.T) {
	r := newRunner(t)
	if r.sys.h.dirs["pids"] == "" || r.sys.h.dirs["pids"] == r.sys.h.unified {
		t.Skip("this host has no version 1 tree that the agent may write")
	}
	whole := r.sys.h
	r.sys.h = &hierarchy{version: "v1", dirs: whole.dirs}
	t.Cleanup(func() { r.sys.h = whole })
	for _, level := range levels(t, r) {
		call := newCall(t)
		call.Service.SecurityPolicy.Isolation = level
		daemon := filepath.Join(call.Service.RunnerConfig.WorkingDirectory, "daemon")
		call.Operation.Command = []string{self(t), helperArg, "daemon", daemon}
		mustRun(t, r, call)
		if left := processesWith(daemon); len(left) > 0 {
			t.Errorf("%s: still running: %v", level, left)
		}
	}
	wantNothingLeft(t, r)
}
