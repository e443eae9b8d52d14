package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// What is asked for by name is given or refused; only defaults fall back.
func TestPlanGivesWhatIsAskedOrRefuses(t *testing.T) {
	full := Host{Isolation: "full", Namespaces: "root", Landlock: 7, Seccomp: true, Cgroup: "v2", Controllers: []string{"memory", "cpu", "pids", "cpuacct"}}
	filters := Host{Isolation: "process", Landlock: 3, Seccomp: true, Cgroup: "none"}
	unbounded := Host{Isolation: "process", Namespaces: "root", Landlock: 7, Seccomp: true, Cgroup: "none"}
	old := Host{Isolation: "none", Cgroup: "none"}
	other := Host{Cgroup: "none"} // not Linux
	for _, c := range []struct {
		host    Host
		ask     string // security_policy
		want    string // isolation network files
		refused string // rule
	}{
		{full, `{}`, "full none read_write", ""},
		{full, `{"isolation":"full","network":"localhost","files":"none"}`, "full localhost none", ""},
		{full, `{"isolation":"process"}`, "process none read_write", ""},
		{full, `{"isolation":"none"}`, "none all all", ""},
		{full, `{"isolation":"none","files":"read"}`, "none all read", ""},
		{full, `{"isolation":"none","network":"none"}`, "none none all", ""},
		{full, `{"network":"all","memory":64,"cores":1}`, "full all read_write", ""},
		{filters, `{}`, "process none read_write", ""},
		{filters, `{"network":"none"}`, "process none read_write", ""},
		{filters, `{"network":"localhost"}`, "", "network_access"},
		{filters, `{"isolation":"full"}`, "", "isolation"},
		{filters, `{"memory":64}`, "", "resource_limits.memory_mb"},
		{filters, `{"cores":0.5}`, "", "resource_limits.cpu_cores"},
		{filters, `{"seconds":0.5}`, "", "resource_limits.cpu_seconds"},
		{filters, `{"isolation":"none","memory":64,"cores":0.5,"seconds":1}`, "none all all", ""},
		{old, `{}`, "", "isolation"}, // unprotected only where the registry says so
		{old, `{"isolation":"none"}`, "none all all", ""},
		{old, `{"isolation":"none","files":"read_write"}`, "", "file_access"},
		{old, `{"isolation":"none","network":"none"}`, "", "network_access"},
		{unbounded, `{}`, "process none read_write", ""},
		{unbounded, `{"isolation":"full"}`, "", "isolation"},
		{old, `{"isolation":"process"}`, "", "isolation"},
		{other, `{}`, "", "isolation"},
		{other, `{"isolation":"none","memory":64}`, "none all all", ""},
	} {
		var ask struct {
			Isolation, Network, Files string
			Memory                    int
			Cores, Seconds            float64
		}
		if err := json.Unmarshal([]byte(c.ask), &ask); err != nil {
			t.Fatal(err)
		}
		p := policy{service: "s", isolation: ask.Isolation, network: ask.Network, files: ask.Files}
		p.limits.MemoryMB, p.limits.CPUCores, p.limits.CPUSeconds = ask.Memory, ask.Cores, ask.Seconds
		got, err := planFor(c.host, p)
		if c.refused != "" {
			var refusal *runners.PolicyError
			if !errors.As(err, &refusal) || refusal.Rule != c.refused || !strings.Contains(err.Error(), "not allowed") || !strings.Contains(err.Error(), "without") {
				t.Errorf("%+v %s: %v, want a refusal by %s that says what the host lacks", c.host, c.ask, err, c.refused)
			}
			continue
		}
		if held := fmt.Sprintf("%s %s %s", got.isolation, got.network, got.files); err != nil || held != c.want {
			t.Errorf("%+v %s: %s, %v, want %s", c.host, c.ask, held, err, c.want)
		}
	}
}

func TestRowNarrowsAndNeverWidens(t *testing.T) {
	for _, c := range []struct{ registry, row, want string }{
		{`all`, `none`, `none`},
		{`all`, `localhost`, `localhost`},
		{`localhost`, `all`, `localhost`},
		{`none`, `all`, `none`},
		{``, `all`, ``},
		{``, `none`, `none`},
		{`all`, ``, `all`},
	} {
		if got := stronger(networkLevels, c.registry, c.row, "none"); got != c.want {
			t.Errorf("registry %q and row %q give %q, want %q", c.registry, c.row, got, c.want)
		}
	}
	call := runners.Call{Job: &jobs.Job{}, Service: &registry.Service{Name: "s"}}
	call.Service.SecurityPolicy.ResourceLimits = registry.ResourceLimits{MemoryMB: 100, CPUCores: 2}
	call.Job.SecurityContext = []byte(`{"user": "alice", "file_access": "read", "isolation": "none",
		"resource_limits": {"memory_mb": 200, "cpu_cores": 0.5, "cpu_seconds": 3, "disk_mb": -1}}`)
	p, err := effectivePolicy(call)
	want := registry.ResourceLimits{MemoryMB: 100, CPUCores: 0.5, CPUSeconds: 3}
	if err != nil || p.limits != want || p.files != "read" || p.isolation != "" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, row := range []string{`{"network_access": "everything"}`, `{"resource_limits": 5}`} {
		call.Job.SecurityContext = []byte(row)
		_, err := effectivePolicy(call)
		wantConfigError(t, err, "")
	}
	for _, row := range []string{``, `null`, `[1]`, `"x"`, `{"unknown": 1}`} {
		call.Job.SecurityContext = []byte(row)
		if _, err := effectivePolicy(call); err != nil {
			t.Errorf("%s: %v", row, err)
		}
	}
}
