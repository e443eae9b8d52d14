package shell

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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
// and empty network namespaces, which one attempt at a time uses. And what is
// alike for all is done before there is an attempt (ready).
type fastStart struct {
	init      *os.File
	templates [2]*os.File   // mount namespaces: without names of the network, and with
	networks  chan *os.File // idle ones
	scripts   chan *script  // idle ones
	shelves   shelves       // children that wait for attempts
	covers    view
}

// idleNetworks bounds how many empty network namespaces are kept.
const idleNetworks = 64

// leastFastMB is the least memory_mb of an attempt that starts fast where it
// enters its cgroup before it is a program of its own: its first pages are not
// to be the cgroup's last.
const leastFastMB = 16

func newFastStart(sys *system) (f *fastStart, err error) {
	f = &fastStart{networks: make(chan *os.File, idleNetworks), scripts: make(chan *script, idleNetworks), shelves: shelves{of: map[kind]*shelf{}}}
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

// dismiss ends the children that wait for attempts; none are made ahead any more.
func (f *fastStart) dismiss() { f.shelves.close() }

func (f *fastStart) close() {
	f.dismiss()
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
func (f *fastStart) can(a *attempt, s *spec, h *hierarchy) bool {
	p := &a.plan
	roots := len(h.roots())
	if p.isolation != "full" || !p.lend || p.loopback || roots == 0 || roots > 9 {
		return false
	}
	size := 0
	for _, list := range [][]string{s.Argv, s.Env} {
		for _, t := range list {
			size += len(t) + 16
		}
	}
	if size > scriptBytes/2 || h.v2("memory") && a.policy.limits.MemoryMB > 0 && a.policy.limits.MemoryMB < leastFastMB {
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
	r, err := f.make(kind{h: sys.h})
	if err != nil {
		return err
	}
	defer r.putAway()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := r.start([]*os.File{null, null, null, controlFD: nil, statusFD: nil, programFD: null, joinFD: f.init}, func(s *script) {
		s.step = "probe"
		s.do(unix.SYS_EXECVEAT, joinFD, s.text(""), s.list("-0", "probe"), s.list(), unix.AT_EMPTY_PATH)
	})
	if err != nil {
		return err
	}
	said, ok := p.wait()
	p.reap()
	switch {
	case !ok:
		return errors.New("the init ended without an answer")
	case said.Step != "start" || said.Errno != unix.EACCES:
		return fmt.Errorf("the init answered %+v", said)
	}
	return nil
}

func reapChild(pid int) {
	_, _ = again(func() (int, error) { return unix.Wait4(pid, nil, 0, nil) })
}

// launchOf takes a ready child for the attempt.
func (f *fastStart) launchOf(a *attempt, s *spec, h *hierarchy) (launch, error) {
	r, err := f.take(a.kind(h))
	if err != nil {
		return launch{}, err
	}
	return launch{group: r.group, drop: r.drop,
		start: func(stdio [3]*os.File) (*process, error) { return f.start(a, s, r, stdio) }}, nil
}

// start lets the ready child become the attempt's init. Whether or not it does,
// the child is not ready any more; its cgroup is the caller's.
func (f *fastStart) start(a *attempt, s *spec, r *ready, stdio [3]*os.File) (_ *process, err error) {
	b := &fastBuild{fast: f, attempt: a, spec: s, ready: r}
	defer b.close()
	if err := b.prepare(); err != nil {
		r.drop()
		return nil, err
	}
	b.given = append([]*os.File{stdio[0], stdio[1], stdio[2], controlFD: nil, statusFD: nil, programFD: a.command.program}, r.group.joinLater()...)
	b.kept = len(b.given)
	b.given = append(b.given, f.init, b.rules, b.tmp)
	for _, mount := range []*os.File{b.program, b.work} {
		if mount != nil {
			b.given = append(b.given, mount)
		}
	}
	if err := s.Script.still(); err != nil {
		r.drop()
		var errno syscall.Errno // none where it was exchanged
		errors.As(err, &errno)
		return nil, a.notStarted(report{Step: "start", Error: err.Error(), Errno: errno})
	}
	p, err := r.start(b.given, b.write)
	if err != nil {
		return nil, err
	}
	tmp, said := b.tmp, p.report
	b.tmp = nil // open until the job's end
	p.report = func(bytes []byte) (report, bool) {
		defer tmp.Close()
		r, ok := said(bytes)
		var st unix.Statfs_t
		r.TmpFull = unix.Fstatfs(int(tmp.Fd()), &st) == nil && tmpIsFull(&st)
		return r, ok
	}
	return p, nil
}

// saidTheEnd tells that the init has seen its program's end and nothing of the
// tree is left.
func saidTheEnd(said []byte) bool { return len(said) >= 8 && binary.LittleEndian.Uint32(said) == 2 }

// report reads what the init said, or which step of the script failed.
func (s *script) report(said []byte) (r report, ok bool) {
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
	return r, true
}

// fastBuild is what one attempt's start is made of.
type fastBuild struct {
	fast    *fastStart
	attempt *attempt
	spec    *spec
	ready   *ready
	tmp     *os.File // the private /tmp, a detached mount
	program *os.File // the program's mount, where it lies in /tmp
	work    *os.File // the working directory's mount; the attempt's own where it is lent
	rules   *os.File // the Landlock ruleset
	proc    *ll.PathBeneathAttr
	given   []*os.File // to the child
	kept    int        // of these, the first that the job or its init keep
}

func (b *fastBuild) prepare() (err error) {
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
	return b.landlock()
}

// close closes the agent's own handles of what the child was given.
func (b *fastBuild) close() {
	for _, f := range []*os.File{b.tmp, b.program, b.rules} {
		if f != nil {
			f.Close()
		}
	}
	if b.work != nil && b.work != b.attempt.lent {
		b.work.Close()
	}
}

// number is the child's descriptor of what it is given.
func (b *fastBuild) number(f *os.File) uintptr { return uintptr(slices.Index(b.given, f)) }

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
			b.proc = (*ll.PathBeneathAttr)(b.ready.script.alloc(unsafe.Sizeof(ll.PathBeneathAttr{})))
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

// write writes the rest of the script. What a step needs, a later one may take away.
func (b *fastBuild) write(s *script) {
	a, v := b.attempt, &b.spec.View
	s.step = "namespaces"
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
	s.step = "directory"
	s.do(unix.SYS_CHDIR, s.text(a.dir.path))
	s.step = "limits"
	for _, l := range b.spec.Limits {
		limit := (*unix.Rlimit)(s.alloc(unsafe.Sizeof(unix.Rlimit{})))
		*limit = unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		s.do(unix.SYS_PRLIMIT64, 0, uintptr(l.Resource), uintptr(unsafe.Pointer(limit)), 0)
	}
	s.do(unix.SYS_CLOSE_RANGE, uintptr(b.kept), 1<<32-1, unix.CLOSE_RANGE_CLOEXEC)
	rules := b.number(b.rules)
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
	flag += strconv.Itoa(b.kept - joinFD)
	s.do(unix.SYS_EXECVEAT, b.number(b.fast.init), s.text(""), s.list(append([]string{flag}, b.spec.Argv...)...), s.list(b.spec.Env...), unix.AT_EMPTY_PATH)
}

func (b *fastBuild) show(f *os.File, path string) {
	s := b.ready.script
	at := unix.AT_FDCWD
	s.do(unix.SYS_MOVE_MOUNT, b.number(f), s.text(""), uintptr(at), s.text(path), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// place makes what a mount in the private /tmp needs.
func (b *fastBuild) place(path string, dir bool) {
	if !within(privateTmp, path) {
		return
	}
	s, made := b.ready.script, privateTmp
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
