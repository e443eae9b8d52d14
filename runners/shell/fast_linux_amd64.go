package shell

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// fastStart starts attempts at full isolation without a shim: the child that
// clone3 makes sets itself up by a list of system calls and becomes a small
// init (spawn_linux_amd64.s). What does not change from one attempt to the next
// is made once: a mount namespace in which all is covered that no job sees,
// and empty network namespaces, which one attempt at a time uses.
type fastStart struct {
	init      *os.File
	templates [2]*os.File   // mount namespaces: without names of the network, and with
	networks  chan *os.File // idle ones
	scripts   chan *script  // idle ones
	covers    view
}

// idleNetworks bounds how many empty network namespaces are kept.
const idleNetworks = 64

// leastFastMB is the least memory_mb of an attempt that starts fast where it
// enters its cgroup before it is a program of its own: its first pages are not
// to be the cgroup's last.
const leastFastMB = 16

func newFastStart(sys *system) (f *fastStart, err error) {
	f = &fastStart{networks: make(chan *os.File, idleNetworks), scripts: make(chan *script, idleNetworks)}
	defer func() {
		if err != nil {
			f.close()
			f = nil
		}
	}()
	if f.init, err = initFile(); err != nil {
		return f, err
	}
	f.covers = view{Hide: sys.hide, Block: sys.block}
	for i, keep := range [][]string{nil, shownAgain} {
		v := f.covers
		v.Keep = keep
		if f.templates[i], err = namespaceOf("mnt", unix.CLONE_NEWNS|unix.CLONE_FS, func() error { return template(&v) }); err != nil {
			return f, err
		}
	}
	return f, f.try(sys)
}

func (f *fastStart) close() {
	for _, file := range append(f.templates[:], f.init) {
		if file != nil {
			file.Close()
		}
	}
	for {
		select {
		case n := <-f.networks:
			n.Close()
		case s := <-f.scripts:
			s.free()
		default:
			return
		}
	}
}

// namespaceOf makes namespaces on a thread of its own, which ends with it, and
// returns a handle of one.
func namespaceOf(kind string, flags int, prepare func() error) (f *os.File, err error) {
	onThreadOfItsOwn(func() {
		if err = unix.Unshare(flags); err != nil {
			return
		}
		// Before anything is covered: /proc is needed.
		if f, err = os.Open("/proc/thread-self/ns/" + kind); err != nil {
			return
		}
		if prepare != nil {
			err = prepare()
		}
	})
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// onThreadOfItsOwn runs do on a thread that is not used for anything else
// afterwards. It is never the process's first: that one does not end, and what
// it is in is what /proc/self shows.
func onThreadOfItsOwn(do func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThreadOfItsOwn(do) // this thread is taken, so it is another one
			runtime.UnlockOSThread()
			close(done)
			return
		}
		defer close(done) // never unlocked: the thread ends
		do()
	}()
	<-done
}

// template prepares the mounts that all jobs have in common: the host's, less
// what is covered, and without the trees of cgroups, which none needs.
func template(v *view) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := v.cover(); err != nil {
		return err
	}
	if isDir("/sys/fs/cgroup") {
		_ = unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH)
	}
	return nil
}

// network hands out an empty network namespace that nobody else uses.
func (f *fastStart) network() (*os.File, error) {
	select {
	case n := <-f.networks:
		return n, nil
	default:
		return namespaceOf("net", unix.CLONE_NEWNET, nil)
	}
}

// can tells whether an attempt may start the fast way. The exceptions are rare:
// a shim takes them.
func (f *fastStart) can(a *attempt, s *spec, g *group) bool {
	p := &a.plan
	if p.isolation != "full" || !p.lend || p.loopback || len(g.join) == 0 || len(g.join) > 9 {
		return false
	}
	size := 0
	for _, list := range [][]string{s.Argv, s.Env} {
		for _, t := range list {
			size += len(t) + 16
		}
	}
	if size > scriptBytes/2 || g.v2("memory") && a.policy.limits.MemoryMB > 0 && a.policy.limits.MemoryMB < leastFastMB {
		return false
	}
	// What lies in a directory that the template covers would be shown to all.
	for _, path := range []string{a.dir.path, s.View.Program} {
		if f.covers.covered(path) && !within(privateTmp, path) {
			return false
		}
	}
	return true
}

// try starts nothing but the init, with a program that does not exist.
func (f *fastStart) try(sys *system) error {
	s, err := newScript()
	if err != nil {
		return err
	}
	defer s.free()
	s.step = "probe"
	s.do(unix.SYS_SETNS, f.templates[0].Fd(), unix.CLONE_NEWNS)
	s.do(unix.SYS_UNSHARE, unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer statusR.Close()
	controlR, controlW, err := os.Pipe()
	if err != nil {
		statusW.Close()
		return err
	}
	defer controlR.Close()
	var moved []int
	for to, f := range []*os.File{controlFD: controlR, statusFD: statusW, programFD: null} {
		if f != nil {
			s.do(unix.SYS_DUP3, uintptr(high(f, &moved)), uintptr(to), 0)
		}
	}
	s.do(unix.SYS_EXECVEAT, uintptr(high(f.init, &moved)), s.text(""), s.list("-0", "probe"), s.list(), unix.AT_EMPTY_PATH)
	pid, err := s.run(unix.CLONE_NEWPID, -1)
	statusW.Close()
	closeAll(moved)
	if err != nil {
		controlW.Close()
		return fmt.Errorf("clone3: %w", err)
	}
	p := &process{control: controlW, status: statusR, reap: func() { reapChild(pid) }, report: s.report(nil)}
	r, ok := p.wait()
	switch {
	case !ok:
		return errors.New("the init ended without an answer")
	case r.Step != "start" || r.Errno != unix.EACCES:
		return fmt.Errorf("the init answered %+v", r)
	}
	return nil
}

// high is a descriptor of the file above those that a job has. One that had to
// be made for it is added to moved.
func high(f *os.File, moved *[]int) int {
	fd := int(f.Fd())
	if fd > joinFD+10 {
		return fd
	}
	// Only in a process that has hardly opened anything.
	up, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, joinFD+11)
	if err != nil {
		return fd
	}
	*moved = append(*moved, up)
	return up
}

func closeAll(descriptors []int) {
	for _, fd := range descriptors {
		unix.Close(fd)
	}
}

func reapChild(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// start makes the attempt's init.
func (f *fastStart) start(a *attempt, s *spec, g *group, stdio [3]*os.File) (_ *process, err error) {
	b := &fastBuild{fast: f, attempt: a, spec: s}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if err := b.prepare(); err != nil {
		return nil, err
	}
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
	descriptors := append([]*os.File{stdio[0], stdio[1], stdio[2], controlR, statusW, a.command.program}, g.joinLater()...)
	b.write(descriptors)
	if err := s.Script.still(); err != nil {
		closeAll(b.moved)
		controlW.Close()
		statusR.Close()
		var errno syscall.Errno // none where it was exchanged
		errors.As(err, &errno)
		return nil, a.notStarted(report{Step: "start", Error: err.Error(), Errno: errno})
	}
	pid, err := b.script.run(unix.CLONE_NEWPID, g.joinNow())
	closeAll(b.moved)
	if err != nil {
		controlW.Close()
		statusR.Close()
		return nil, fmt.Errorf("start the job: clone3: %w", err)
	}
	answer := b.script.report(b.tmp)
	return &process{control: controlW, status: statusR,
		kill: func() { _ = unix.Kill(pid, unix.SIGKILL) },
		reap: func() { reapChild(pid) },
		report: func(said []byte) (r report, ok bool) {
			defer b.release()
			return answer(said)
		}}, nil
}

// report reads what the init said, or which step of the script failed.
func (s *script) report(tmp *os.File) func([]byte) (report, bool) {
	return func(said []byte) (r report, ok bool) {
		if step, errno, failed := s.failure(); failed {
			return report{Step: step, Error: errno.Error(), Errno: errno}, true
		}
		if len(said) < 8 { // the first of what is said counts
			return r, false
		}
		what, value := binary.LittleEndian.Uint32(said), binary.LittleEndian.Uint32(said[4:])
		switch what {
		case 1:
			r.Step, r.Errno = "start", syscall.Errno(value)
			r.Error = r.Errno.Error()
		case 2:
			r.Wait = syscall.WaitStatus(value)
		case 3:
			r.Step, r.Errno = "cgroup", syscall.Errno(value)
			r.Error = r.Errno.Error()
		}
		var st unix.Statfs_t
		r.TmpFull = tmp != nil && unix.Fstatfs(int(tmp.Fd()), &st) == nil && tmpIsFull(&st)
		return r, true
	}
}

// fastBuild is what one attempt's start is made of.
type fastBuild struct {
	fast    *fastStart
	attempt *attempt
	spec    *spec
	script  *script
	network *os.File // of the attempt's alone; nil: the host's
	tmp     *os.File // the private /tmp, a detached mount
	program *os.File // the program's mount, where it lies in /tmp
	work    *os.File // the working directory's mount; the attempt's own where it is lent
	rules   *os.File // the Landlock ruleset
	proc    *ll.PathBeneathAttr
	moved   []int
}

func (b *fastBuild) prepare() (err error) {
	if b.attempt.plan.netns {
		if b.network, err = b.fast.network(); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
	}
	v := &b.spec.View
	if b.tmp, err = newTmpfs(v.TmpMB, v.TmpFiles); err != nil {
		return fmt.Errorf("make a private %s: %w", privateTmp, err)
	}
	if v.Program != "" {
		if b.program, err = cloneMount(b.attempt.command.program, nil); err != nil {
			return err
		}
	}
	switch {
	case v.Lent:
		b.work = b.attempt.lent
	case v.Work.Path != "":
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if v.ReadOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if b.work, err = cloneMount(b.attempt.dir.File, &attr); err != nil {
			return err
		}
	}
	select {
	case b.script = <-b.fast.scripts:
		b.script.reset()
	default:
		if b.script, err = newScript(); err != nil {
			return err
		}
	}
	return b.landlock()
}

// release gives back what the attempt used, once its init is gone.
func (b *fastBuild) release() {
	for _, f := range []*os.File{b.tmp, b.program, b.rules} {
		if f != nil {
			f.Close()
		}
	}
	if b.work != nil && b.work != b.attempt.lent {
		b.work.Close()
	}
	if b.network != nil {
		select {
		case b.fast.networks <- b.network:
		default:
			b.network.Close()
		}
	}
	if b.script != nil {
		select {
		case b.fast.scripts <- b.script:
		default:
			b.script.free()
		}
	}
}

// newTmpfs is a temporary filesystem that is mounted nowhere yet.
func newTmpfs(mb, files int) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	for _, set := range [][2]string{{"size", strconv.Itoa(mb) + "m"}, {"nr_inodes", strconv.Itoa(files)}, {"mode", "1777"}} {
		if err := unix.FsconfigSetString(fs, set[0], set[1]); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), privateTmp), nil
}

// landlock makes the attempt's ruleset. A rule is about a file, whatever mounts
// it is reached by, so it can be made here; only the job's own /proc is not
// there yet.
func (b *fastBuild) landlock() error {
	files, scopes := handledRights(b.attempt.host.Landlock)
	fd, err := ll.LandlockCreateRuleset(&ll.RulesetAttr{HandledAccessFS: files, Scoped: scopes}, 0)
	if err != nil {
		return fmt.Errorf("create ruleset: %w", err)
	}
	b.rules = os.NewFile(uintptr(fd), "ruleset")
	handle := func(f *os.File, directory bool, access uint64) error {
		if !directory {
			access &= forFiles
		}
		return ll.LandlockAddPathBeneathRule(fd, &ll.PathBeneathAttr{ParentFd: int(f.Fd()), AllowedAccess: access & files}, 0)
	}
	if err := handle(b.fast.init, false, mayExecute|mayReadFile); err != nil {
		return fmt.Errorf("landlock: the init: %w", err)
	}
	for _, rule := range b.spec.Files {
		switch rule.Path {
		case privateTmp:
			err = handle(b.tmp, true, rule.Access)
		case programPath:
			err = handle(b.attempt.command.program, false, rule.Access)
		case b.attempt.dir.path:
			err = handle(b.attempt.dir.File, true, rule.Access)
		case "/proc":
			b.proc = (*ll.PathBeneathAttr)(b.script.alloc(unsafe.Sizeof(ll.PathBeneathAttr{})))
			*b.proc = ll.PathBeneathAttr{AllowedAccess: rule.Access & files}
		default:
			err = addRule(fd, rule, files)
		}
		if err != nil {
			return fmt.Errorf("landlock: %s: %w", rule.Path, err)
		}
	}
	return nil
}

// write writes the script. What a step needs, a later one may take away.
func (b *fastBuild) write(descriptors []*os.File) {
	s, a, v := b.script, b.attempt, &b.spec.View
	s.step = "namespaces"
	template := b.fast.templates[0]
	if a.plan.network == "all" {
		template = b.fast.templates[1]
	}
	s.do(unix.SYS_SETNS, template.Fd(), unix.CLONE_NEWNS)
	s.do(unix.SYS_UNSHARE, unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS)
	s.do(unix.SYS_SETHOSTNAME, s.text(jobHost), uintptr(len(jobHost)))
	s.do(unix.SYS_MOUNT, s.text("proc"), s.text("/proc"), s.text("proc"), quietMount|unix.MS_RDONLY, 0)
	b.show(b.tmp, privateTmp)
	s.do(unix.SYS_MOUNT, s.text(privateTmp), s.text("/dev/shm"), 0, unix.MS_BIND, 0).mode = may
	if b.program != nil {
		b.place(v.Program, false)
		b.show(b.program, v.Program)
	}
	if b.work != nil {
		b.place(v.Work.Path, true)
		b.show(b.work, v.Work.Path)
	}
	if b.network != nil {
		s.step = "network"
		s.do(unix.SYS_SETNS, b.network.Fd(), unix.CLONE_NEWNET)
	}
	s.step = "directory"
	s.do(unix.SYS_CHDIR, s.text(a.dir.path))
	s.step = "limits"
	for _, l := range b.spec.Limits {
		limit := (*unix.Rlimit)(s.alloc(unsafe.Sizeof(unix.Rlimit{})))
		*limit = unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		s.do(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(limit)), 0)
	}
	s.step = "start"
	for to, f := range descriptors {
		s.do(unix.SYS_DUP3, uintptr(high(f, &b.moved)), uintptr(to), 0)
	}
	s.do(unix.SYS_CLOSE_RANGE, uintptr(len(descriptors)), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	s.do(unix.SYS_SETSID)

	s.step = "capabilities"
	s.do(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	for c := uintptr(0); c <= lastCapability(); c++ {
		s.do(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	// From here on the job's descriptors have taken the low numbers.
	rules := uintptr(high(b.rules, &b.moved))
	s.step = "landlock"
	if b.proc != nil {
		open := s.do(unix.SYS_OPEN, s.text("/proc"), unix.O_PATH|unix.O_CLOEXEC)
		open.mode, open.into = store, uintptr(unsafe.Pointer(&b.proc.ParentFd))
		s.do(unix.SYS_LANDLOCK_ADD_RULE, rules, ll.RuleTypePathBeneath, uintptr(unsafe.Pointer(b.proc)), 0)
	}
	s.do(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0)
	s.step = "user"
	groups := s.alloc(uintptr(4 * (len(a.account.groups) + 1)))
	copy(unsafe.Slice((*uint32)(groups), len(a.account.groups)), a.account.groups)
	s.do(unix.SYS_SETGROUPS, uintptr(len(a.account.groups)), uintptr(groups))
	gid, uid := uintptr(a.account.gid), uintptr(a.account.uid)
	s.do(unix.SYS_SETRESGID, gid, gid, gid)
	s.do(unix.SYS_SETRESUID, uid, uid, uid)
	s.step = "seccomp"
	filter := s.alloc(uintptr(len(b.spec.Filter)) * unsafe.Sizeof(unix.SockFilter{}))
	copy(unsafe.Slice((*unix.SockFilter)(filter), len(b.spec.Filter)), b.spec.Filter)
	program := (*unix.SockFprog)(s.alloc(unsafe.Sizeof(unix.SockFprog{})))
	*(*uint16)(unsafe.Pointer(program)) = uint16(len(b.spec.Filter))
	*(*uintptr)(unsafe.Add(unsafe.Pointer(program), unsafe.Offsetof(program.Filter))) = uintptr(filter)
	s.do(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(program)))
	s.step = "start"
	flag := "-"
	if b.spec.Hashed {
		flag = "h"
	}
	flag += strconv.Itoa(len(descriptors) - joinFD)
	s.do(unix.SYS_EXECVEAT, uintptr(high(b.fast.init, &b.moved)), s.text(""), s.list(append([]string{flag}, b.spec.Argv...)...), s.list(b.spec.Env...), unix.AT_EMPTY_PATH)
}

func (b *fastBuild) show(f *os.File, path string) {
	s := b.script
	at := unix.AT_FDCWD
	s.do(unix.SYS_MOVE_MOUNT, f.Fd(), s.text(""), uintptr(at), s.text(path), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// place makes what a mount in the private /tmp needs.
func (b *fastBuild) place(path string, dir bool) {
	if !within(privateTmp, path) {
		return
	}
	s, made := b.script, privateTmp
	names := strings.Split(strings.TrimPrefix(path, privateTmp+"/"), "/")
	for i, name := range names {
		made = filepath.Join(made, name)
		if i < len(names)-1 || dir {
			s.do(unix.SYS_MKDIR, s.text(made), 0o755).mode = may
		} else {
			s.do(unix.SYS_MKNOD, s.text(made), unix.S_IFREG|0o644, 0).mode = may
		}
	}
}

// lastCapability is the kernel's highest capability.
var lastCapability = sync.OnceValue(func() uintptr {
	if n, ok := readNumber("/proc/sys/kernel/cap_last_cap"); ok {
		return uintptr(n)
	}
	return unix.CAP_LAST_CAP
})
