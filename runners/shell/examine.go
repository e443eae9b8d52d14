package shell

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/specql/specql-ops/runners"
)

// Examine tells what this host gives to shell jobs, and what to change to get
// more. It makes what it tells of and takes it away again. The first finding is
// the level of isolation; that one is not OK where jobs run only if the registry
// says isolation: none.
func Examine(context.Context) []runners.Check { return Probe().checks() }

// Checks are the findings about the runner's host.
func (r *Runner) Checks() []runners.Check { return r.host.checks() }

func (h Host) checks() []runners.Check {
	full := h.Isolation == "full"
	user := "the agent's own user"
	if h.Namespaces == "root" {
		user = "a number of each service's own"
	}
	level := runners.Check{Name: "isolation", OK: h.Isolation == "full" || h.Isolation == "process", Found: cmp.Or(h.Isolation, "none")}
	if !full {
		level.Advice = "mend what is missing below; until then services that demand isolation: full wait for another host"
	}
	namespaces := runners.Check{Name: "namespaces", OK: h.Namespaces != "", Found: cmp.Or(map[string]string{
		"root": "made by the agent's privileges", "user": "within a user namespace"}[h.Namespaces], "none")}
	if !namespaces.OK {
		namespaces.Advice = "run the agent as root with CAP_SYS_ADMIN, or allow user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
	}
	landlock := runners.Check{Name: "landlock", OK: h.Landlock > 0, Found: fmt.Sprintf("ABI %d", h.Landlock)}
	if !landlock.OK {
		landlock.Found, landlock.Advice = "none", "Linux 5.13 or later, with landlock in the kernel's lsm= list"
	}
	seccomp := runners.Check{Name: "seccomp", OK: h.Seccomp, Found: "system call filters"}
	if !h.Seccomp {
		seccomp.Found, seccomp.Advice = "none", "a kernel with CONFIG_SECCOMP_FILTER"
	}
	groups := runners.Check{Name: "cgroups", OK: true, Found: h.Cgroup}
	if len(h.Controllers) > 0 {
		groups.Found += ": " + strings.Join(h.Controllers, ", ")
	}
	var lacking []string
	for _, c := range []string{"memory", "cpu", "pids", "cpuacct"} {
		if !slices.Contains(h.Controllers, c) {
			lacking = append(lacking, c)
		}
	}
	if lacking != nil {
		groups.OK = false
		groups.Advice = "no " + strings.Join(lacking, ", ") + ": under systemd Delegate=yes, in a container a writable cgroup of its own, else run the agent as root"
	}
	account := runners.Check{Name: "user", OK: full, Found: "jobs run as " + user}
	if !full {
		account.Advice = "with full isolation under a privileged agent each service's jobs run as nobody else does"
	}
	list := []runners.Check{level, namespaces, landlock, seccomp, groups, account}
	for _, lack := range h.Lacks {
		list = append(list, runners.Check{Name: "missing", Found: lack})
	}
	return list
}
