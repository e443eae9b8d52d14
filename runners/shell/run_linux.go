package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// system is what a runner holds of the host.
type system struct {
	h              *hierarchy
	lender         *lender
	fast           *fastStart        // nil where it cannot be had
	filter         []unix.SockFilter // with sockets
	filterNoSocket []unix.SockFilter
	hide, block    []string // directories and files that no job sees
	removals       sync.WaitGroup
}

func (sys *system) open(r *Runner) error {
	if !shimReady.Load() {
		return errors.New("main must call shell.ShimMain before anything else")
	}
	var lacks []string
	sys.h, lacks = acquireHierarchy()
	r.host = hostWith(sys.h, lacks)
	sys.lender = newLender()
	sys.hide, sys.block = hiddenPaths(r.opts.Hide)
	_, _ = sys.sweep(r)
	var err error
	if r.host.Seccomp {
		var err2 error
		sys.filter, err = syscallFilter(false)
		sys.filterNoSocket, err2 = syscallFilter(true)
		err = errors.Join(err, err2)
	}
	if err == nil {
		r.base, err = makeTempBase(r.opts.TempDir, owner())
	}
	if err != nil {
		sys.h.release()
		return err
	}
	if r.host.Isolation == "full" && r.host.Namespaces == "root" {
		var why error
		if sys.fast, why = newFastStart(sys); why != nil {
			r.opts.Log.Debug("shell jobs start the slow way", "reason", why)
		}
	}
	r.opts.Log.Debug("shell runner is ready", "isolation", r.host.Isolation, "namespaces", r.host.Namespaces,
		"cgroup", r.host.Cgroup, "controllers", r.host.Controllers, "landlock", r.host.Landlock, "lacks", r.host.Lacks)
	return nil
}

func (sys *system) sweep(r *Runner) (int, error) {
	return removeLeftovers(sys.h, r.opts.TempDir, r.opts.Log)
}

func (sys *system) close() {
	sys.removals.Wait()
	if sys.fast != nil {
		sys.fast.close()
	}
	sys.lender.close()
	sys.h.release()
}

// run starts the attempt and returns when nothing of it is left.
func (sys *system) run(ctx context.Context, r *Runner, a *attempt) (outcome, error) {
	s, err := sys.spec(r, a)
	if err != nil {
		return outcome{}, err
	}
	l, err := sys.launchOf(r.host.Namespaces, a, &s)
	if err != nil {
		return outcome{}, err
	}
	g := l.group
	var p *process
	defer func() { sys.takeAway(r, a, g, p) }()
	if err := g.limit(a.policy); err != nil {
		l.drop()
		return outcome{}, err
	}
	pipes, err := openPipes(a)
	if err != nil {
		l.drop()
		return outcome{}, err
	}
	started := time.Now()
	p, err = l.start(pipes.theirs)
	pipes.handOver()
	if err != nil {
		pipes.finish()
		return outcome{}, err
	}
	pipes.copy(a.input(), a.streams)

	supervisor := supervise(ctx, r.opts.Grace, a, p, g)
	report, reported := p.wait()
	o := supervisor.finish()
	o.wall = time.Since(started)
	if !a.plan.namespaces {
		g.kill() // whoever slipped out of the shim's tree
	}
	pipes.finish()

	o.lost = !reported
	o.exitCode = 128 + int(unix.SIGKILL)
	if reported {
		o.cpu = time.Duration(report.CPUNs)
		o.tmpFull = report.TmpFull
		o.exitCode = report.Wait.ExitStatus()
		if report.Wait.Signaled() {
			o.signal = report.Wait.Signal()
			o.exitCode = 128 + int(o.signal)
		}
	}
	o.measure(g)
	if a.policy.limits.DiskMB > 0 && !a.plan.namespaces {
		o.disk = diskUse(a.tmp)
	}
	if reported && report.Step != "" {
		if o.ended != nil {
			return outcome{}, fmt.Errorf("job %s was not started: %w", a.call.Job.ID, o.ended)
		}
		return outcome{}, a.notStarted(report)
	}
	return o, nil
}

// launch is a cgroup for an attempt and the way to start its init there, which
// starts the program: the fast one where that can be had for this attempt, else
// by a shim.
type launch struct {
	group *group
	start func(stdio [3]*os.File) (*process, error)
	drop  func() // when it is not started
}

func (sys *system) launchOf(kind string, a *attempt, s *spec) (l launch, err error) {
	if sys.fast != nil && sys.fast.can(a, s, sys.h) {
		return sys.fast.launchOf(a, s, sys.h)
	}
	if l.group, err = sys.h.newGroup(a.name); err != nil {
		return l, fmt.Errorf("prepare the job's limits: %w", err)
	}
	l.drop = func() {}
	l.start = func(stdio [3]*os.File) (*process, error) {
		return startShim(kind, shimStart{
			spec:    *s,
			pidns:   a.plan.namespaces,
			netns:   a.plan.netns,
			program: a.command.program,
			join:    l.group.join,
			lent:    a.lent,
			stdio:   stdio,
		})
	}
	return l, nil
}

// takeAway sees an attempt's init off, if one was started, and removes its
// cgroup, in which nothing else runs any more. Nobody waits for that but close.
func (sys *system) takeAway(r *Runner, a *attempt, g *group, p *process) {
	sys.removals.Go(func() {
		if p != nil {
			p.reap()
		}
		if err := g.remove(); err != nil {
			r.opts.Log.Warn("a job's cgroup could not be removed", "job", a.call.Job.ID, "error", err)
		}
	})
}

// measure reads what the attempt's own cgroup counted.
func (o *outcome) measure(g *group) {
	if cpu, ok := g.cpu(); ok {
		o.cpu = cpu
	}
	if peak, ok := g.peak(); ok {
		o.peak = peak
	}
	o.oomKills = g.oomKills()
	o.forksRefused = g.forksRefused()
}

// notStarted words the shim's report for the operator.
func (a *attempt) notStarted(r report) error {
	service := a.policy.service
	switch r.Step {
	case "directory":
		return configErrorf(service, "working_directory %s cannot be entered: %s", a.dir.path, r.Error)
	case "start":
		switch r.Errno {
		case unix.EACCES, unix.EPERM, unix.ENOENT, unix.ENOEXEC, unix.ENOTDIR, unix.ELOOP, unix.EISDIR, unix.E2BIG, unix.EINVAL:
			return configErrorf(service, "the command %s cannot be started as %s: %s", a.command.argv[0], a.account.name, r.Error)
		case 0:
			return &runners.PolicyError{Service: service, Rule: "allowed_commands", Offered: r.Error}
		}
	}
	return fmt.Errorf("the job was not started: its isolation could not be set up (%s: %s); specql-agent doctor says what this host can give", r.Step, r.Error)
}

// spec writes down what the shim has to do.
func (sys *system) spec(r *Runner, a *attempt) (s spec, err error) {
	s = spec{
		Argv:       a.command.argv,
		Env:        a.env,
		Hashed:     a.command.hashed,
		Namespaces: a.plan.namespaces,
		Loopback:   a.plan.loopback,
		Confined:   a.plan.isolation != "none",
		Limits:     a.limits(r.host),
	}
	if s.Dir, err = identityOf(a.dir.File, a.dir.path); err != nil {
		return s, err
	}
	if a.command.script != nil {
		if s.Script, err = identityOf(a.command.script, a.command.scriptPath); err != nil {
			return s, err
		}
	}
	if a.account.change {
		s.Credential = &syscall.Credential{Uid: a.account.uid, Gid: a.account.gid, Groups: a.account.groups}
	}
	if a.plan.landlock {
		s.Files = fileRules(a.plan, a.dir.path, a.tmp, a.command.scriptPath, allowedCommands(a.policy))
		s.Confined = true
	}
	if a.plan.seccomp {
		s.Filter = sys.filter
		if a.plan.blockSockets {
			s.Filter = sys.filterNoSocket
		}
		s.Confined = true
	}
	if a.plan.namespaces {
		s.View = sys.viewOf(a, s.Dir)
	}
	return s, nil
}

// limits are the process limits beside the cgroup's.
func (a *attempt) limits(h Host) []rlimit {
	list := []rlimit{
		{unix.RLIMIT_CORE, 0, 0},
		{unix.RLIMIT_NOFILE, a.policy.maxOpenFiles, a.policy.maxOpenFiles},
	}
	if mb := a.policy.limits.DiskMB; mb > 0 {
		size := uint64(mb) << 20
		list = append(list, rlimit{unix.RLIMIT_FSIZE, size, size})
	}
	if s := a.policy.limits.CPUSeconds; s > 0 {
		// The kernel counts it for each process and in whole seconds; the
		// supervisor watches the tree.
		soft := uint64(math.Ceil(s))
		list = append(list, rlimit{unix.RLIMIT_CPU, soft, soft + 1})
	}
	hasPids := false
	for _, c := range h.Controllers {
		hasPids = hasPids || c == "pids"
	}
	if !hasPids && a.plan.namespaces && h.Namespaces == "user" {
		// In a user namespace of its own this counts the job's processes
		// only (since Linux 5.14); elsewhere it would count all of the
		// user's.
		most := uint64(a.policy.maxProcesses + shimThreads)
		list = append(list, rlimit{unix.RLIMIT_NPROC, most, most})
	}
	return list
}

// pipes connect an attempt's standard streams.
type pipes struct {
	theirs [3]*os.File
	ours   [3]*os.File
	copies sync.WaitGroup
}

func openPipes(a *attempt) (*pipes, error) {
	p := &pipes{}
	for i := range p.theirs {
		r, w, err := os.Pipe()
		if err != nil {
			p.handOver()
			p.finish()
			return nil, err
		}
		p.theirs[i], p.ours[i] = w, r
		if i == 0 {
			p.theirs[i], p.ours[i] = r, w
		}
		if a.account.change {
			// So that /dev/stdout can be opened by name.
			_ = p.theirs[i].Chown(int(a.account.uid), int(a.account.gid))
		}
	}
	return p, nil
}

// handOver closes what the shim has now.
func (p *pipes) handOver() {
	for _, f := range p.theirs {
		if f != nil {
			f.Close()
		}
	}
}

func (p *pipes) copy(input []byte, s *program.Streams) {
	p.copies.Go(func() {
		// A program need not read its input.
		_, _ = p.ours[0].Write(input)
		p.ours[0].Close()
	})
	for i, to := range []io.WriteCloser{s.Stdout(), s.Stderr()} {
		p.copies.Go(func() {
			_, _ = io.Copy(to, p.ours[1+i])
			to.Close()
		})
	}
}

// lastOutput bounds the wait for a pipe's end after the tree is gone: a
// process outside of it could have been handed the pipe.
const lastOutput = 2 * time.Second

// finish reads what is left and closes everything.
func (p *pipes) finish() {
	for _, f := range p.ours {
		if f != nil {
			_ = f.SetDeadline(time.Now().Add(lastOutput))
		}
	}
	if p.ours[0] != nil {
		p.ours[0].Close()
	}
	p.copies.Wait()
	for _, f := range p.ours {
		if f != nil {
			f.Close()
		}
	}
}

// supervisor watches one attempt while it runs.
type supervisor struct {
	done    chan struct{}
	over    sync.WaitGroup
	stopped outcome // ended, overCPU
	samples struct{ sum, count, peak int64 }
	filled  chan string // what is too much in the working directory
}

// supervise stops the tree when its context ends or it has used its
// processor time, and samples its memory.
func supervise(ctx context.Context, grace time.Duration, a *attempt, p *process, g *group) *supervisor {
	s := &supervisor{done: make(chan struct{}), filled: make(chan string, 1)}
	exceeded := make(chan struct{})
	s.over.Go(func() { s.watch(a.policy.limits.CPUSeconds, g, exceeded) })
	if a.policy.limits.DiskMB > 0 && a.plan.files != "read" && a.plan.files != "none" {
		disk := newDiskWatch(a.dir, int64(a.policy.limits.DiskMB)<<20)
		s.over.Go(func() { disk.watch(s.done, s.filled) })
	}
	s.over.Go(func() {
		select {
		case <-s.done:
			return
		case <-exceeded:
			s.stopped.overCPU = true
		case <-a.streams.TooMuch():
			s.stopped.overOut = true
		case s.stopped.overDsk = <-s.filled:
		case <-ctx.Done():
			s.stopped.ended = ctx.Err()
			_, _ = p.control.Write([]byte{orderTerminate})
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-s.done:
				return
			case <-timer.C:
			}
		}
		kill(a, p, g)
	})
	return s
}

// kill ends the tree for certain: by its init, by its cgroup, by the shim.
func kill(a *attempt, p *process, g *group) {
	if a.plan.namespaces {
		p.kill()
	} else {
		p.control.Close()
	}
	g.kill()
}

// watch looks at the tree's processor time and memory until the attempt is
// over. It looks as often as the limit could be reached on all processors.
func (s *supervisor) watch(cpuSeconds float64, g *group, exceeded chan<- struct{}) {
	const usual, shortest = time.Second, 10 * time.Millisecond
	exactPeak := g.countsPeak()
	next := func() time.Duration {
		wait := usual
		if g.has("memory") && !exactPeak {
			wait = 50 * time.Millisecond // the samples are all there is (before Linux 5.19)
		}
		if cpuSeconds > 0 {
			if used, ok := g.cpu(); ok {
				left := (cpuSeconds - used.Seconds()) / float64(runtime.NumCPU())
				wait = min(wait, max(shortest, time.Duration(left*float64(time.Second))))
			}
		}
		return wait
	}
	timer := time.NewTimer(next())
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-timer.C:
		}
		if now, ok := g.memory(); ok {
			s.samples.sum += now
			s.samples.count++
			s.samples.peak = max(s.samples.peak, now)
		}
		if cpuSeconds > 0 {
			if used, ok := g.cpu(); ok && used.Seconds() >= cpuSeconds {
				close(exceeded)
				return
			}
		}
		timer.Reset(next())
	}
}

// finish ends the watch and says what it saw.
func (s *supervisor) finish() outcome {
	close(s.done)
	s.over.Wait()
	select {
	case s.stopped.overDsk = <-s.filled: // it had ended by then
	default:
	}
	o := s.stopped
	o.peak = s.samples.peak
	if s.samples.count > 0 {
		o.average = s.samples.sum / s.samples.count
	}
	return o
}
