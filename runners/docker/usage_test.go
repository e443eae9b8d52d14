package docker

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a program really uses, plus what starting any container takes.
func TestUsageIsThatOfTheContainer(t *testing.T) {
	r := newRunner(t, Options{})
	if r.accounting() == nil {
		t.Skip("this host's cgroups cannot be read")
	}
	idle := mustRun(t, r, newCall("exit", "0"))
	start := *idle.Usage.CPUUsagePercent / 100 * idle.Usage.DurationSeconds
	if *idle.Usage.PeakMemoryMB <= 0 || *idle.Usage.PeakMemoryMB > 40 {
		t.Errorf("a program that does nothing had %.1f MiB at its peak", *idle.Usage.PeakMemoryMB)
	}

	busy := mustRun(t, r, newCall("cpu", "1500"))
	used := *busy.Usage.CPUUsagePercent / 100 * busy.Usage.DurationSeconds
	if used < 1.5 || used > 1.5*1.1+2*start+0.05 {
		t.Errorf("1.5 s of processor time were counted as %.3f s (%.3f s for a program that does nothing)", used, start)
	}

	big := mustRun(t, r, newCall("memory", "200"))
	if peak := *big.Usage.PeakMemoryMB; peak < 200 || peak > 220 {
		t.Errorf("200 MiB were counted as %.1f MiB", peak)
	}
	if big.Security["usage"] != "cgroup" {
		t.Errorf("marked as %v", big.Security["usage"])
	}

	failed := newCall("exit", "4")
	result, err := r.Run(t.Context(), failed)
	if err == nil || result.Usage.CPUUsagePercent == nil || result.Usage.PeakMemoryMB == nil {
		t.Errorf("an attempt that failed: %v, usage %s", err, result.Usage.JSON())
	}
}

// The engine hears of such a kill from containerd, and may miss it where the
// container ends at the same time.
func TestWantOfMemoryIsSeenWhereTheEngineMissedIt(t *testing.T) {
	engine := needEngine(t)
	r := runnerOn(t, engine, Options{Host: "unix://" + unaware(t)})
	if r.accounting() == nil {
		t.Skip("this host's cgroups cannot be read")
	}
	call := newCall("memory", "64")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 32
	_, err := r.Run(t.Context(), call)
	wantLimit(t, err, "memory_mb")
}

// unaware is the socket of an engine that knows of no kill for want of memory.
func unaware(t *testing.T) string {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
		}},
		ModifyResponse: func(r *http.Response) error {
			if !strings.HasSuffix(r.Request.URL.Path, "/json") {
				return nil
			}
			body, err := io.ReadAll(r.Body)
			asked = asked || bytes.Contains(body, []byte(`"OOMKilled":`))
			body = bytes.ReplaceAll(body, []byte(`"OOMKilled":true`), []byte(`"OOMKilled":false`))
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Del("Content-Length")
			return err
		},
	}}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if !asked {
			t.Error("the engine was not asked: this test shows nothing")
		}
	})
	return socket
}

// A remote engine's cgroups are out of reach: what it samples is taken, and
// marked so.
func TestARemoteEnginesUsageIsSampledAndMarkedSo(t *testing.T) {
	r := newRunner(t, Options{})
	r.mu.Lock()
	r.groups = nil // as account leaves it for such an engine
	r.mu.Unlock()
	result := mustRun(t, r, newCall("cpu", "3000"))
	if result.Security["usage"] != "sampled" {
		t.Errorf("marked as %v", result.Security["usage"])
	}
	used := *result.Usage.CPUUsagePercent / 100 * result.Usage.DurationSeconds
	if used <= 0 || used > 3.5 || result.Usage.PeakMemoryMB == nil {
		t.Errorf("3 s of processor time were sampled as %.2f s", used)
	}
	short := mustRun(t, r, newCall("exit", "0"))
	if short.Usage.CPUUsagePercent != nil && *short.Usage.CPUUsagePercent == 0 {
		t.Error("what was not seen is given as nothing")
	}
	call := newCall("cpu", "60000")
	call.Service.SecurityPolicy.ResourceLimits.CPUSeconds = 1
	_, err := r.Run(t.Context(), call)
	wantLimit(t, err, "cpu_seconds")
}

func TestCgroupsAreFoundWhereTheyCanBeRead(t *testing.T) {
	const v1 = `30 22 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 22 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw`
	const v2 = `30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate`
	const inside = `30 22 0:26 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
31 22 0:26 /docker/abc /sys/fs/cgroup/cpuacct ro - cgroup cgroup rw,cpuacct`
	here := facts{local: true, cgroupDriver: "cgroupfs", cgroupVersion: "1"}
	two := facts{local: true, cgroupDriver: "cgroupfs", cgroupVersion: "2"}
	for _, c := range []struct {
		name, mounts string
		f            facts
		found        bool
	}{
		{"version 1", v1, here, true},
		{"version 2", v2, two, true},
		{"version 2 on a host that shows version 1", v1, two, true}, // its tree may be anywhere
		{"version 1 on a host that shows version 2", v2, here, false},
		{"another host", v1, facts{cgroupDriver: "cgroupfs", cgroupVersion: "1"}, false},
		{"systemd's driver", v2, facts{local: true, cgroupDriver: "systemd", cgroupVersion: "2"}, false},
		{"an agent in a container", inside, here, false},
		{"nothing", "", here, false},
	} {
		if got := findCgroups(c.mounts, c.f); (got != nil) != c.found {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestVersion2IsReadWhereItsFilesSay(t *testing.T) {
	dir := t.TempDir()
	g := &group{c: &cgroups{unified: dir, all: []string{dir}}, path: "g"}
	if err := os.Mkdir(filepath.Join(dir, "g"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"cpu.stat":       "usage_usec 1500000\nuser_usec 1400000\nsystem_usec 100000\n",
		"memory.peak":    "209715200\n",
		"memory.current": "1048576\n",
		"memory.events":  "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "g", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if cpu, ok := g.cpu(); !ok || cpu != 1500*time.Millisecond {
		t.Errorf("processor time %s", cpu)
	}
	if peak, ok := g.peak(); !ok || peak != 200*mib {
		t.Errorf("peak %d", peak)
	}
	if now, ok := g.memory(); !ok || now != mib {
		t.Errorf("now %d", now)
	}
	if n := g.oomKills(); n != 1 {
		t.Errorf("%d kills", n)
	}
	if _, ok := (&group{c: g.c, path: "none"}).cpu(); ok {
		t.Error("a cgroup that is not there is read")
	}
}
