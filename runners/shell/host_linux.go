package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"
)

// Probe finds out what this host gives to shell jobs, by trying it. Nothing
// that it makes is left behind.
func Probe() Host {
	h, lacks := acquireHierarchy()
	defer h.release()
	return hostWith(h, lacks)
}

func hostWith(h *hierarchy, lacks []string) Host {
	host := probeKernel()
	host.Cgroup = h.version
	host.Controllers = h.controllers()
	host.Lacks = slices.Concat(host.Lacks, lacks)
	if host.Namespaces != "" && host.Landlock > 0 && host.Seccomp && host.bounds() {
		host.Isolation = "full"
	}
	return host
}

// probeKernel tries what does not change while the agent runs.
var probeKernel = sync.OnceValue(func() Host {
	host := Host{Landlock: landlockABI(), Seccomp: seccomp.Supported(), Isolation: "none"}
	if host.Seccomp {
		host.Isolation = "process"
	} else {
		host.Lacks = append(host.Lacks, "seccomp filters: this kernel has none")
	}
	if host.Landlock == 0 {
		host.Lacks = append(host.Lacks, "Landlock: this kernel has none, or it is not in its lsm= list (Linux 5.13 or later)")
	}
	if !shimReady.Load() {
		host.Lacks = append(host.Lacks, "namespaces: unknown, since this program does not call shell.ShimMain first in main")
		return host
	}
	for _, kind := range []string{"root", "user"} {
		if kind == "root" && os.Geteuid() != 0 {
			continue
		}
		err := tryNamespaces(kind)
		if err == nil {
			host.Namespaces = kind
			break
		}
		host.Lacks = append(host.Lacks, fmt.Sprintf("namespaces (%s): %v", kind, err))
	}
	return host
})

// tryNamespaces lets a shim prepare everything that namespaces are used for.
func tryNamespaces(kind string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := startShim(kind, shimStart{
		spec:    spec{Probe: true, Namespaces: true, Loopback: true},
		pidns:   true,
		netns:   true,
		program: null,
		stdio:   [3]*os.File{null, null, null},
	})
	if err != nil {
		return err
	}
	r, ok := p.wait()
	switch {
	case !ok:
		return errors.New("the probe ended without an answer")
	case r.Step != "":
		return fmt.Errorf("%s: %s", r.Step, r.Error)
	}
	return nil
}

// shimStart is what a shim is started with.
type shimStart struct {
	spec         spec
	pidns, netns bool
	program      *os.File
	join         []*os.File
	lent         *os.File // the working directory; nil where it is not lent
	stdio        [3]*os.File
}

// process is the init of an attempt, which started its program: a shim, or the
// small one of a fast start. It takes orders by its control pipe, whose end
// kills the attempt, and says by its status pipe what came of it.
type process struct {
	control *os.File
	status  *os.File
	kill    func()                      // the init
	over    func()                      // waits until it is gone
	reap    func()                      // forgets it, once it is gone; it is not killed any more
	early   func([]byte) bool           // tells from what it said that it alone is left, and ends; nil: it never says so
	report  func([]byte) (report, bool) // what it said
}

// startShim starts this program again as a shim. kind is Host.Namespaces.
func startShim(kind string, s shimStart) (*process, error) {
	controlR, controlW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	statusR, statusW, err := os.Pipe()
	if err != nil {
		controlR.Close()
		controlW.Close()
		return nil, err
	}
	s.spec.Groups = len(s.join)
	attributes := &syscall.SysProcAttr{}
	if s.pidns {
		attributes.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	}
	if s.netns {
		attributes.Cloneflags |= unix.CLONE_NEWNET
	}
	if attributes.Cloneflags != 0 && kind == "user" {
		attributes.Cloneflags |= unix.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		// The namespace's capabilities would be lost when the shim is
		// executed; it gives them up itself once it needs them no more.
		attributes.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP}
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe",
		Args: []string{shimName},
		// One processor's worth of runtime is all that a shim needs. Nothing
		// of the agent's environment goes on.
		Env:         []string{"GOMAXPROCS=1", "GOTRACEBACK=none"},
		Dir:         "/",
		Stdin:       s.stdio[0],
		Stdout:      s.stdio[1],
		Stderr:      s.stdio[2],
		ExtraFiles:  append([]*os.File{controlR, statusW, s.program}, s.join...),
		SysProcAttr: attributes,
	}
	if s.lent != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.lent)
	}
	err = cmd.Start()
	// Only the shim may hold these, or its death would not be seen.
	controlR.Close()
	statusW.Close()
	if err != nil {
		controlW.Close()
		statusR.Close()
		return nil, fmt.Errorf("start the shim: %w", err)
	}
	// A shim that is gone already says why in its status, or by having none.
	_ = sendSpec(controlW, s.spec)
	return &process{control: controlW, status: statusR,
		kill: func() { _ = cmd.Process.Kill() },
		over: func() { _ = cmd.Wait() },
		reap: func() {},
		report: func(b []byte) (r report, ok bool) {
			return r, json.Unmarshal(b, &r) == nil
		}}, nil
}

// wait returns the report once, in a PID namespace, everything that the init
// started is gone, and elsewhere the init itself; ok is false without a report.
func (p *process) wait() (r report, ok bool) {
	b, err := p.hear()
	if p.early == nil || !p.early(b) {
		p.over()
	}
	p.control.Close()
	p.status.Close()
	if err != nil {
		return r, false
	}
	return p.report(b)
}

// hear returns what the init says until it ends, or until what it said tells
// that nothing else is left.
func (p *process) hear() ([]byte, error) {
	if p.early == nil {
		return io.ReadAll(p.status)
	}
	var said []byte
	for {
		var b [64]byte
		n, err := p.status.Read(b[:])
		said = append(said, b[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return said, nil
		case err != nil || p.early(said):
			return said, err
		}
	}
}
