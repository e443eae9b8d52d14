package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimName is argv[0] of a process that is a shim.
const shimName = "specql-shim"

var shimReady atomic.Bool

// ShimMain must be called first in main of every program that runs shell
// jobs, and in TestMain. It returns at once, unless the process was started
// as the shim of an attempt: then it never returns.
func ShimMain() {
	if len(os.Args) == 0 || os.Args[0] != shimName {
		shimReady.Store(true)
		return
	}
	// Credentials, filters and a version 1 cgroup belong to a thread; the
	// program is started from this one.
	runtime.LockOSThread()
	s := shim{control: os.NewFile(controlFD, "control"), status: os.NewFile(statusFD, "status")}
	s.main()
	// Nothing of the program around the shim has begun, so nothing of it
	// needs to end.
	syscall.Exit(0)
}

// shim is the parent and init of one attempt's program.
type shim struct {
	control, status *os.File
	spec            spec
	pid             int // the program's
}

// stepError names the step of the preparation that failed.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

func (s *shim) main() {
	// A signal must never end the init: with it would end the job. Handlers,
	// unlike ignored signals, are not inherited by the program.
	signal.Notify(make(chan os.Signal, 1))
	if err := s.start(); err != nil {
		r := report{Step: "start", Error: err.Error()}
		var step *stepError
		if errors.As(err, &step) {
			r.Step, r.Error = step.step, step.err.Error()
		}
		errors.As(err, &r.Errno)
		s.tell(r)
		return
	}
	if s.spec.Probe {
		s.tell(report{})
		return
	}
	go s.obey()
	wait := s.reap()
	var tmp unix.Statfs_t
	full := s.spec.View.TmpMB > 0 && unix.Statfs(privateTmp, &tmp) == nil && tmpIsFull(&tmp)
	s.tell(report{Wait: wait, CPUNs: childrenCPU(), TmpFull: full})
}

func (s *shim) tell(r report) {
	if b, err := json.Marshal(r); err == nil {
		_, _ = s.status.Write(b)
	}
}

// start prepares the confinement step by step, each of which may need what
// the next takes away, and starts the program.
func (s *shim) start() (err error) {
	if s.spec, err = receiveSpec(s.control); err != nil {
		return err
	}
	for fd := controlFD; fd <= joinFD+s.spec.Groups; fd++ {
		if fd != programFD || !s.spec.Hashed {
			unix.CloseOnExec(fd)
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"protect", s.protect},
		{"cgroup", s.joinGroups},
		{"namespaces", s.mount},
		{"network", s.network},
		{"directory", s.enter},
		{"limits", s.limit},
		{"capabilities", s.confine},
		{"landlock", s.landlock},
		{"seccomp", s.filter},
		{"start", s.exec},
	} {
		if err := step.do(); err != nil {
			return &stepError{step.name, err}
		}
		if s.spec.Probe && step.name == "network" {
			return nil
		}
	}
	return nil
}

// protect keeps the job from looking into the shim, and makes orphans of the
// tree its children.
func (s *shim) protect() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// joinGroups enters the cgroups. On version 1 only this thread does, which
// its children inherit; the agent's writing the process's number instead
// would wait for a grace period of the kernel's.
func (s *shim) joinGroups() error {
	for i := range s.spec.Groups {
		if _, err := unix.Write(joinFD+i, []byte("0")); err != nil {
			return err
		}
	}
	return nil
}

// enter goes to the working directory by its path, since a descriptor would
// lead out of the private mounts, and checks that it is still the same.
func (s *shim) enter() error {
	if err := unix.Chdir(s.spec.Dir.Path); err != nil {
		return err
	}
	return identity{".", s.spec.Dir.Dev, s.spec.Dir.Ino}.still()
}

func (s *shim) limit() error {
	for _, l := range s.spec.Limits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(l.Resource, &now); err != nil {
			return err
		}
		hard := min(l.Hard, now.Max)
		// The syscall package's own call, so that the Go runtime does not
		// put the limit on files back for the program.
		if err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: min(l.Soft, hard), Max: hard}); err != nil {
			return fmt.Errorf("rlimit %d: %w", l.Resource, err)
		}
	}
	return nil
}

// confine makes sure that the program has no capabilities and can never gain
// any, even as root.
func (s *shim) confine() error {
	if !s.spec.Confined {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) // before Linux 4.3 there are none
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	// The bounding set can only be lowered by who may; for anyone else an
	// empty inheritable set and no_new_privs are enough.
	if caps[unix.CAP_SETPCAP>>5].Effective&(1<<(unix.CAP_SETPCAP&31)) != 0 {
		for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) == nil; c++ {
		}
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	return unix.Capset(&header, &caps[0])
}

func (s *shim) landlock() error {
	if len(s.spec.Files) == 0 {
		return nil
	}
	return restrictFiles(s.spec.Files)
}

func (s *shim) filter() error {
	if len(s.spec.Filter) == 0 {
		return nil
	}
	return applyFilter(s.spec.Filter)
}

// exec starts the program by its descriptor, after a last look at the script.
func (s *shim) exec() (err error) {
	if err := s.spec.Script.still(); err != nil {
		return err
	}
	s.pid, err = syscall.ForkExec(programPath, s.spec.Argv, &syscall.ProcAttr{
		Env:   s.spec.Env,
		Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: s.spec.Credential,
			Pdeathsig:  syscall.SIGKILL,
		},
	})
	if err == nil {
		// Only the tree may hold the job's pipes, or their ends would never
		// come.
		for fd := range 3 {
			unix.Close(fd)
		}
	}
	return err
}

// obey carries out the agent's orders. When the agent is gone or closes the
// pipe, the tree is killed.
func (s *shim) obey() {
	var order [1]byte
	for {
		n, err := s.control.Read(order[:])
		if n == 1 && order[0] == orderTerminate {
			s.signalTree(unix.SIGTERM)
		}
		if err != nil {
			break
		}
	}
	if s.isInit() {
		syscall.Exit(0) // the kernel kills a namespace with its init
	}
	s.signalTree(unix.SIGKILL)
}

// isInit tells whether the shim is PID 1 of the job's own namespace. Only
// then is "every process" the job's.
func (s *shim) isInit() bool { return s.spec.Namespaces && os.Getpid() == 1 }

func (s *shim) signalTree(sig unix.Signal) {
	if s.isInit() {
		_ = unix.Kill(-1, sig)
		return
	}
	for _, pid := range descendants(os.Getpid()) {
		_ = unix.Kill(pid, sig)
	}
}

// reap waits for the program and for every orphan on the way. When the
// program has ended, whatever it left running is killed: an attempt is over
// with its program.
func (s *shim) reap() (program syscall.WaitStatus) {
	ended := false
	for {
		options := 0
		if ended {
			options = syscall.WNOHANG
		}
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, options, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // no child is left
			return program
		case pid == s.pid:
			program, ended = status, true
			if s.isInit() {
				return program
			}
		case pid == 0: // some live on; each of them is a child of the shim or will be
			s.killTree()
			s.awaitChild()
		}
	}
}

// killTree kills from another thread: this one has given up the right to
// signal other users' processes, which the job's may be.
func (s *shim) killTree() {
	done := make(chan struct{})
	go func() {
		s.signalTree(unix.SIGKILL)
		close(done)
	}()
	<-done
}

// awaitChild returns when a child has ended, and leaves it to be reaped.
func (s *shim) awaitChild() {
	_ = unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
}

// childrenCPU is the processor time of all that was reaped, in nanoseconds.
func childrenCPU() int64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &usage) != nil {
		return 0
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// descendants lists all processes below pid.
func descendants(pid int) []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	children := map[int][]int{}
	for {
		names, err := proc.Readdirnames(512)
		for _, name := range names {
			if child, err := strconv.Atoi(name); err == nil {
				if parent, ok := parentOf(child); ok {
					children[parent] = append(children[parent], child)
				}
			}
		}
		if err == io.EOF || len(names) == 0 {
			break
		}
	}
	list := children[pid]
	for i := 0; i < len(list); i++ {
		list = append(list, children[list[i]]...)
	}
	return list
}

// parentOf reads a process's parent (proc(5): the fourth field of stat; the
// second may hold blanks and parentheses).
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	_, after, ok := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	fields := strings.Fields(after)
	if !ok || len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}
