package shell

import (
	"fmt"
	"slices"

	"github.com/specql/specql-ops/runners"
)

// Host is what this machine can give to shell jobs.
type Host struct {
	Isolation   string   // the strongest level: full, process or none
	Namespaces  string   // root (made with privileges), user (by a user namespace) or empty
	Landlock    int      // ABI version; 0: none
	Seccomp     bool     // system call filters
	Cgroup      string   // v1, v2 or none
	Controllers []string // of memory, cpu, pids, cpuacct: those that bound or count a whole attempt
	Lacks       []string // what is missing and why, worded for the operator
}

// bounds tells whether what a whole attempt uses can be bounded.
func (h Host) bounds() bool {
	return slices.Contains(h.Controllers, "memory") && slices.Contains(h.Controllers, "pids")
}

// plan is how one attempt is isolated.
type plan struct {
	isolation    string // what holds: full, process, none
	namespaces   bool   // PID, mount, IPC, UTS
	lend         bool   // the agent is root: the job gets an account of its own, which the working directory is lent to
	netns        bool   // an empty network namespace
	loopback     bool   // with its loopback interface up
	blockSockets bool   // seccomp refuses to make any socket but connected pairs
	network      string // what holds: none, localhost, all
	files        string // none, read, read_write
	landlock     bool
	seccomp      bool
	notEnforced  []string // limits asked for under isolation: none that the host cannot hold
}

// planFor decides how an attempt runs on a host. What the registry or the row
// asks for by name is given or refused; what is only a default falls back to
// the best that the host has.
func planFor(h Host, p policy) (plan, error) {
	lacking := func(rule, asked, what string) error {
		return &runners.PolicyError{Service: p.service, Rule: rule,
			Offered: fmt.Sprintf("%s on a host without %s", asked, what)}
	}
	pl := plan{files: p.files, network: p.network}
	if pl.files == "" {
		pl.files = "read_write"
	}

	switch p.isolation {
	case "full":
		switch {
		case h.Namespaces == "":
			return pl, lacking("isolation", "isolation: full", "namespaces (run the agent as root, or allow user namespaces)")
		case h.Landlock == 0:
			return pl, lacking("isolation", "isolation: full", "Landlock (Linux 5.13 or later, lsm=landlock)")
		case !h.Seccomp:
			return pl, lacking("isolation", "isolation: full", "seccomp filters")
		case !h.bounds():
			return pl, lacking("isolation", "isolation: full", "memory and pids cgroups that the agent may write (delegate some to its service)")
		case p.asRoot && h.Namespaces == "root":
			return pl, configErrorf(p.service, "isolation: full runs jobs as an unprivileged user, and runner_config.user says root; take one of the two away")
		}
		pl.namespaces, pl.landlock, pl.seccomp = true, true, true
	case "process":
		if !h.Seccomp {
			return pl, lacking("isolation", "isolation: process", "seccomp filters")
		}
		pl.landlock, pl.seccomp = h.Landlock > 0, true
	case "none":
	default:
		if !h.Seccomp {
			return pl, lacking("isolation", "a shell job without isolation: none", "seccomp filters (write isolation: none to run it unprotected)")
		}
		pl.namespaces, pl.landlock, pl.seccomp = h.Namespaces != "", h.Landlock > 0, h.Seccomp
	}

	// file_access by name needs Landlock at any level of isolation.
	if p.files != "" && !pl.landlock {
		if h.Landlock == 0 {
			return pl, lacking("file_access", "file_access: "+p.files, "Landlock (Linux 5.13 or later, lsm=landlock)")
		}
		pl.landlock = true
	}
	if !pl.landlock {
		pl.files = "all"
	}
	pl.lend = pl.namespaces && h.Namespaces == "root" && !p.asRoot

	switch p.network {
	case "all":
	case "localhost":
		if h.Namespaces == "" {
			return pl, lacking("network_access", "network_access: localhost", "network namespaces (run the agent as root, or allow user namespaces)")
		}
		pl.netns, pl.loopback = true, true
	case "none", "":
		pl.network = "none"
		switch {
		case p.network == "" && p.isolation == "none":
			pl.network = "all"
		case h.Seccomp:
			// A filter that refuses to make sockets keeps the network away,
			// and the host's sockets in its files; an empty namespace what
			// else a kernel might think of.
			pl.seccomp, pl.blockSockets, pl.netns = true, true, h.Namespaces != ""
		case h.Namespaces != "":
			pl.netns = true
		default:
			return pl, lacking("network_access", "network_access: none", "network namespaces or seccomp filters")
		}
	}

	for _, limit := range []struct {
		asked      bool
		name       string
		value      any
		controller string
	}{
		{p.limits.MemoryMB > 0, "memory_mb", p.limits.MemoryMB, "memory"},
		{p.limits.CPUCores > 0, "cpu_cores", p.limits.CPUCores, "cpu"},
		{p.limits.CPUSeconds > 0, "cpu_seconds", p.limits.CPUSeconds, "cpuacct"},
	} {
		if !limit.asked || slices.Contains(h.Controllers, limit.controller) {
			continue
		}
		if p.isolation != "none" {
			return pl, lacking("resource_limits."+limit.name, fmt.Sprintf("%s: %v", limit.name, limit.value),
				"a "+limit.controller+" cgroup that the agent may write (delegate one to its service, or write isolation: none)")
		}
		pl.notEnforced = append(pl.notEnforced, limit.name)
	}

	switch {
	case pl.namespaces && pl.landlock && pl.seccomp && h.bounds() && (pl.lend || h.Namespaces == "user"):
		pl.isolation = "full"
	case pl.namespaces || pl.seccomp && p.isolation != "none":
		pl.isolation = "process"
	default:
		pl.isolation = "none"
	}
	return pl, nil
}
