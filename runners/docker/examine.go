package docker

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/specql/specql-ops/runners"
)

// Examine finds what this host can do for docker jobs. It starts no container
// and changes nothing.
func Examine(ctx context.Context) []runners.Check {
	e, err := connect("")
	if err != nil {
		return []runners.Check{{Name: "engine", Found: err.Error(), Advice: "correct DOCKER_HOST, or unset it for the local socket"}}
	}
	defer e.Close()
	f, err := e.ready(ctx)
	if err != nil {
		return []runners.Check{{Name: "engine", Found: err.Error(), Advice: engineAdvice(e, err)}}
	}
	checks := []runners.Check{{Name: "engine", OK: true,
		Found: fmt.Sprintf("Docker %s at %s, API %s, %s/%s, %d processors, %d MiB", f.version, e.host, f.api, f.os, f.arch, f.cpus, f.memory/mib)}}
	checks = append(checks, transportCheck(e, f), usageCheck(f), seccompCheck(f))
	return append(checks, aheadCheck(f))
}

func engineAdvice(e *engine, err error) string {
	switch {
	case strings.Contains(err.Error(), "permission denied") && e.socket() != "":
		return "let the agent's user use the socket: add it to the group docker (which is as good as root on that host), or run a rootless engine"
	case e.socket() != "":
		return "start Docker, or set DOCKER_HOST to an engine on another host"
	}
	return "see that the engine runs and listens there, and that this host may reach it"
}

func transportCheck(e *engine, f facts) runners.Check {
	c := runners.Check{Name: "transport", OK: !f.insecureTransport, Found: "local socket"}
	switch {
	case f.insecureTransport:
		c.Found = "tcp without TLS: whoever reaches " + e.host + " rules that host"
		c.Advice = "use ssh://, or TLS: DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH"
	case strings.HasPrefix(e.host, "tcp://"):
		c.Found = "tcp with TLS"
	case strings.HasPrefix(e.host, "ssh://"):
		c.Found = "ssh"
	}
	return c
}

func usageCheck(f facts) runners.Check {
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // none on other systems: then it is sampled
	c := runners.Check{Name: "usage", OK: true, Found: "exact: read from each container's cgroup, version " + f.cgroupVersion}
	if findCgroups(string(mounts), f) == nil {
		c.OK = false
		c.Found = fmt.Sprintf("sampled by the engine about once a second (driver %s, cgroup version %s); jobs shorter than that show none", f.cgroupDriver, f.cgroupVersion)
		c.Advice = "for exact figures run the agent on the engine's host, outside of a container, with the engine's cgroup driver cgroupfs"
	}
	return c
}

func seccompCheck(f facts) runners.Check {
	for _, option := range f.securityOptions {
		if strings.Contains(option, "name=seccomp") && !strings.Contains(option, "profile=unconfined") {
			return runners.Check{Name: "seccomp", OK: true, Found: "on, with the engine's profile"}
		}
	}
	return runners.Check{Name: "seccomp", Found: "off: containers may use every system call", Advice: "use an engine and a kernel with seccomp, and no unconfined profile"}
}

func aheadCheck(f facts) runners.Check {
	c := runners.Check{Name: "ahead", OK: true, Found: "containers can be started ahead of jobs"}
	path, err := os.Executable()
	if err == nil {
		err = runsAnywhere(path, f.arch)
	}
	if err != nil {
		c.OK, c.Found = false, "no container can be started ahead: "+err.Error()
		c.Advice = "each job starts a container of its own, some 200 ms; the released Linux program can do both"
	}
	return c
}
