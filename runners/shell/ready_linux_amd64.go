package shell

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kind is what decides how far children go that no attempt has been found for.
type kind struct {
	h        *hierarchy
	template int  // of fastStart.templates
	netns    bool // in an empty network namespace
}

func (a *attempt) kind(h *hierarchy) kind {
	k := kind{h: h, netns: a.plan.netns}
	if a.plan.network == "all" {
		k.template = 1
	}
	return k
}

// ready is a child that has gone the way that all attempts of its kind go, into
// its namespaces and an empty cgroup, and waits for the descriptors of one
// attempt, with which it goes on. It serves that one and none after it.
type ready struct {
	fast    *fastStart
	group   *group
	network *os.File // its own; nil: the host's
	script  *script
	socket  int // to the child
	pid     int // 0: none
}

const (
	// readyFD is the child's socket. What it is given takes the numbers from 0 on.
	readyFD = 100
	// mostGiven bounds the descriptors of an attempt.
	mostGiven = 32
	// keptReady is how many children of a kind wait for attempts.
	keptReady = 4
)

// shelf holds the children of a kind.
type shelf struct {
	waiting []*ready
	filling bool
}

// take hands out a ready child, and sees to it that there is one for the next
// attempt. A child that is not ready yet serves as well: what it is given waits.
func (f *fastStart) take(k kind) (*ready, error) {
	for {
		r := f.shelves.take(f, k)
		if r == nil {
			return f.make(k)
		}
		if r.alive() {
			return r, nil
		}
		r.putAway()
	}
}

// shelves are those of all kinds that attempts have asked for.
type shelves struct {
	mu      sync.Mutex
	of      map[kind]*shelf
	closed  bool
	fillers sync.WaitGroup
}

func (s *shelves) take(f *fastStart, k kind) (r *ready) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of[k]
	if of == nil {
		of = &shelf{}
		s.of[k] = of
	}
	if len(of.waiting) > 0 {
		r, of.waiting = of.waiting[0], of.waiting[1:]
	}
	if !of.filling && !s.closed {
		of.filling = true
		s.fillers.Go(func() { s.fill(f, k, of) })
	}
	return r
}

// fill makes children until there are enough. Why one cannot be made is said to
// the attempt that needs it.
func (s *shelves) fill(f *fastStart, k kind, of *shelf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { of.filling = false }()
	for !s.closed && len(of.waiting) < keptReady {
		s.mu.Unlock()
		r, err := f.make(k)
		s.mu.Lock()
		if err != nil {
			return
		}
		of.waiting = append(of.waiting, r)
	}
}

func (s *shelves) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.fillers.Wait()
	for _, of := range s.of {
		for _, r := range of.waiting {
			r.putAway()
		}
	}
	clear(s.of)
}

// make starts a child of the kind.
func (f *fastStart) make(k kind) (_ *ready, err error) {
	r := &ready{fast: f, socket: -1}
	defer func() {
		if err != nil {
			r.putAway()
		}
	}()
	if r.group, err = k.h.newGroup(strconv.FormatUint(attempts.Add(1), 10)); err != nil {
		return nil, fmt.Errorf("prepare the job's limits: %w", err)
	}
	r.group.openAhead()
	if k.netns {
		if r.network, err = f.network(); err != nil {
			return nil, fmt.Errorf("make a network namespace: %w", err)
		}
	}
	select {
	case r.script = <-f.scripts:
		r.script.reset()
	default:
		if r.script, err = newScript(); err != nil {
			return nil, err
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	r.socket = pair[0]
	defer unix.Close(pair[1])
	r.write(f.templates[k.template], pair[1])
	if r.pid, err = r.script.run(unix.CLONE_NEWPID, r.group.joinNow()); err != nil {
		r.pid = 0
		return nil, fmt.Errorf("start the job: clone3: %w", err)
	}
	return r, nil
}

// write writes the script up to the point at which the child waits.
func (r *ready) write(template *os.File, socket int) {
	s := r.script
	s.step = "namespaces"
	s.do(unix.SYS_SETNS, template.Fd(), unix.CLONE_NEWNS)
	if r.network != nil {
		s.step = "network"
		s.do(unix.SYS_SETNS, r.network.Fd(), unix.CLONE_NEWNET)
	}
	s.step = "start"
	if socket != readyFD {
		s.do(unix.SYS_DUP3, uintptr(socket), readyFD, 0)
	}
	// Others' pipes would not end, and what is given is to find its numbers free.
	s.do(unix.SYS_CLOSE_RANGE, 0, readyFD-1, 0)
	s.do(unix.SYS_CLOSE_RANGE, readyFD+1, 1<<32-1, 0)
	s.do(unix.SYS_PRCTL, unix.PR_SET_NAME, s.text("specql-ready"), 0, 0, 0)
	s.do(unix.SYS_SETSID)
	s.step = "namespaces"
	s.do(unix.SYS_UNSHARE, unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	s.do(unix.SYS_SETHOSTNAME, s.text(jobHost), uintptr(len(jobHost)))
	s.do(unix.SYS_MOUNT, s.text("proc"), s.text("/proc"), s.text("proc"), quietMount|unix.MS_RDONLY, 0)
	s.step = "capabilities"
	s.do(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	for c := uintptr(0); c <= lastCapability(); c++ {
		s.do(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	s.step = "start"
	message := (*unix.Msghdr)(s.alloc(unsafe.Sizeof(unix.Msghdr{})))
	part := (*unix.Iovec)(s.alloc(unsafe.Sizeof(unix.Iovec{})))
	*part = unix.Iovec{Base: (*byte)(s.alloc(1))}
	part.SetLen(1)
	*message = unix.Msghdr{Iov: part, Iovlen: 1, Control: (*byte)(s.alloc(uintptr(unix.CmsgSpace(4 * mostGiven))))}
	message.SetControllen(unix.CmsgSpace(4 * mostGiven))
	// Nothing comes when the agent is gone: the child must not go on then.
	s.do(unix.SYS_RECVMSG, readyFD, uintptr(unsafe.Pointer(message)), 0).mode = some
}

// start gives the child the files, with pipes of the init's own at controlFD and
// statusFD, and lets it go on with what rest writes.
func (r *ready) start(files []*os.File, rest func(*script)) (_ *process, err error) {
	defer func() {
		if err != nil {
			r.drop()
		}
	}()
	controlR, controlW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer controlR.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		controlW.Close()
		return nil, err
	}
	defer statusW.Close()
	files[controlFD], files[statusFD] = controlR, statusW
	rest(r.script)
	if err := r.give(files); err != nil {
		controlW.Close()
		statusR.Close()
		if step, errno, failed := r.ended(); failed {
			return nil, fmt.Errorf("the job was not started: its isolation could not be set up (%s: %w)", step, errno)
		}
		return nil, fmt.Errorf("start the job: %w", err)
	}
	pid := r.pid
	r.pid = 0 // the process's from here on
	return &process{control: controlW, status: statusR,
		kill: func() { _ = unix.Kill(pid, unix.SIGKILL) },
		over: func() {
			_, _ = again(func() (int, error) { return 0, unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) })
		},
		reap:  func() { reapChild(pid) },
		early: saidTheEnd,
		report: func(said []byte) (report, bool) {
			defer r.release()
			return r.script.report(said)
		}}, nil
}

// give sends the child what the rest of its script needs, and with it on its way:
// each file takes the number of its place in the list.
func (r *ready) give(files []*os.File) error {
	descriptors := make([]int, len(files))
	for i, f := range files {
		descriptors[i] = int(f.Fd())
	}
	_, err := again(func() (int, error) {
		return unix.SendmsgN(r.socket, []byte{0}, unix.UnixRights(descriptors...), nil, unix.MSG_NOSIGNAL)
	})
	r.hangUp()
	return os.NewSyscallError("sendmsg", err)
}

func (r *ready) hangUp() {
	if r.socket >= 0 {
		unix.Close(r.socket)
		r.socket = -1
	}
}

// alive tells whether the child can still be given something.
func (r *ready) alive() bool {
	var ended unix.Siginfo
	err := unix.Waitid(unix.P_PID, r.pid, &ended, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && ended.Signo == 0 // it does not wait, so nothing interrupts it
}

// ended waits for a child that takes nothing any more, and returns where its
// script failed.
func (r *ready) ended() (step string, errno syscall.Errno, failed bool) {
	_ = unix.Kill(r.pid, unix.SIGKILL)
	reapChild(r.pid)
	r.pid = 0
	return r.script.failure()
}

// drop ends a child that no attempt needs; its cgroup stays.
func (r *ready) drop() {
	r.hangUp()
	if r.pid != 0 {
		_ = unix.Kill(r.pid, unix.SIGKILL)
		reapChild(r.pid)
		r.pid = 0
	}
	r.release()
}

// putAway ends a child that no attempt has taken.
func (r *ready) putAway() {
	r.drop()
	if r.group != nil {
		_ = r.group.remove() // what is left is for the next start
	}
}

// release gives back what the child used, once it is gone.
func (r *ready) release() {
	if r.network != nil {
		select {
		case r.fast.networks <- r.network:
		default:
			r.network.Close()
		}
		r.network = nil
	}
	if r.script != nil {
		select {
		case r.fast.scripts <- r.script:
		default:
			r.script.free()
		}
		r.script = nil
	}
}
