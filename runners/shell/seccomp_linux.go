package shell

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// forbiddenCalls are those that a job has no use for and an attacker has:
// looking into other processes, changing mounts and namespaces, loading code
// into the kernel, its keys, its clock, its devices. io_uring is among them
// because its operations pass every filter.
var forbiddenCalls = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd",
	"mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"unshare", "setns",
	"init_module", "finit_module", "delete_module", "create_module", "bpf", "perf_event_open", "userfaultfd",
	"kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
	"add_key", "request_key", "keyctl",
	"acct", "quotactl", "quotactl_fd", "nfsservctl", "lookup_dcookie", "syslog", "vhangup",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname",
	"iopl", "ioperm", "open_by_handle_at", "name_to_handle_at", "fanotify_init", "personality",
	"io_uring_setup", "io_uring_enter", "io_uring_register",
	"move_pages", "migrate_pages", "mbind", "set_mempolicy",
}

// modes are the calls that set a file's mode, and its argument. A set-user-id
// program that a job left in its working directory would be the directory's
// owner's, for anybody on the host.
var modes = map[string]uint32{"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "mknod": 1, "mknodat": 2, "creat": 1}

// creating are those that set it where a flag of the argument before says that
// a file is made.
var creating = map[string]uint32{"open": 2, "openat": 3}

// hidden are calls whose arguments lie in memory, where no filter looks:
// without them programs take older ones.
var hidden = []string{"clone3", "openat2"}

// newNamespaces are clone's flags that make namespaces. CLONE_NEWTIME is not
// among them: clone reads that bit as part of a signal's number.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// A rule of the filter: the calls of one number, all of them or those whose
// arguments have one of the bits of each mask, end with an errno.
type callRule struct {
	number uint32
	errno  syscall.Errno
	masks  []argumentMask
}

type argumentMask struct{ argument, bits uint32 }

// syscallFilter assembles the filter of an attempt. With blockSockets no
// socket can be made but a connected pair.
func syscallFilter(blockSockets bool) ([]unix.SockFilter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	var rules []callRule
	on := func(name string, errno syscall.Errno, masks ...argumentMask) {
		if number, ok := info.SyscallNames[name]; ok {
			rules = append(rules, callRule{uint32(number), errno, masks})
		}
	}
	for _, name := range forbiddenCalls {
		on(name, unix.EPERM)
	}
	if blockSockets {
		on("socket", unix.EPERM)
	}
	on("clone", unix.EPERM, argumentMask{0, newNamespaces})
	const setID = unix.S_ISUID | unix.S_ISGID
	for name, mode := range modes {
		on(name, unix.EPERM, argumentMask{mode, setID})
	}
	for name, mode := range creating {
		on(name, unix.EPERM, argumentMask{mode - 1, unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY}, argumentMask{mode, setID})
	}
	for _, name := range hidden {
		on(name, unix.ENOSYS)
	}
	slices.SortFunc(rules, func(a, b callRule) int { return cmp.Compare(a.number, b.number) })
	program := []bpf.Instruction{
		// Calls of another architecture (int 0x80) would pass a list of this
		// one's numbers, and so would those of x32.
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: 0, Size: 4},
	}
	if info.ID == arch.X86_64.ID {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(arch.X32.SeccompMask), SkipFalse: 1}, refuse(unix.ENOSYS))
	}
	raw, err := bpf.Assemble(append(program, search(spans(rules))...))
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
}

func refuse(errno syscall.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

var permit = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

// span is a run of numbers that are judged alike, up to where the next one begins.
type span struct {
	from  uint32
	judge []bpf.Instruction
}

// spans covers all numbers.
func spans(rules []callRule) []span {
	list := []span{{0, []bpf.Instruction{permit}}}
	for _, r := range rules {
		judge := r.judge()
		switch last := &list[len(list)-1]; {
		case last.from == r.number: // right behind the rule before, so nothing lies between
			last.judge = judge
			if before := len(list) - 2; before >= 0 && slices.Equal(list[before].judge, judge) {
				list = list[:before+1]
			}
		default:
			list = append(list, span{r.number, judge})
		}
		list = append(list, span{r.number + 1, []bpf.Instruction{permit}})
	}
	return list
}

// search finds the span of the loaded number by halves: the kernel tries every
// number there is when it takes a filter, for each attempt anew.
func search(spans []span) []bpf.Instruction {
	if len(spans) == 1 {
		return spans[0].judge
	}
	half := len(spans) / 2
	low, high := search(spans[:half]), search(spans[half:])
	at := spans[half].from
	if len(low) > 255 { // more than a condition can jump
		return slices.Concat([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpLessThan, Val: at, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(low))}}, low, high)
	}
	return slices.Concat([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: at, SkipTrue: uint8(len(low))}}, low, high)
}

// judge is what becomes of a call that the rule is for.
func (r callRule) judge() []bpf.Instruction {
	var program []bpf.Instruction
	for _, m := range r.masks {
		// The bits are among the argument's lower half (little endian).
		program = append(program, bpf.LoadAbsolute{Off: 16 + 8*m.argument, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: m.bits, SkipTrue: 1}, permit)
	}
	return append(program, refuse(r.errno))
}

// applyFilter filters the calling thread and all that it starts, which must
// have no_new_privs set.
func applyFilter(filter []unix.SockFilter) error {
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}
