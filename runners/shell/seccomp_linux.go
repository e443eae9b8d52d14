package shell

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
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

// syscallFilter assembles the filter of an attempt. With blockSockets no
// socket can be made but a connected pair.
func syscallFilter(blockSockets bool) ([]unix.SockFilter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	denied := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM)}
	for _, name := range forbiddenCalls {
		if _, ok := info.SyscallNames[name]; ok {
			denied.Names = append(denied.Names, name)
		}
	}
	conditional := seccomp.SyscallGroup{Action: denied.Action, NamesWithCondtions: []seccomp.NameWithConditions{
		{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: newNamespaces}}},
	}}
	on := func(name string, conditions ...seccomp.Condition) {
		if _, ok := info.SyscallNames[name]; ok {
			conditional.NamesWithCondtions = append(conditional.NamesWithCondtions,
				seccomp.NameWithConditions{Name: name, Conditions: conditions})
		}
	}
	const setID = unix.S_ISUID | unix.S_ISGID
	for _, name := range slices.Sorted(maps.Keys(modes)) {
		mode := modes[name]
		on(name, seccomp.Condition{Argument: mode, Operation: seccomp.BitsSet, Value: setID})
	}
	for _, name := range slices.Sorted(maps.Keys(creating)) {
		mode := creating[name]
		on(name, seccomp.Condition{Argument: mode - 1, Operation: seccomp.BitsSet, Value: unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY},
			seccomp.Condition{Argument: mode, Operation: seccomp.BitsSet, Value: setID})
	}
	if blockSockets {
		denied.Names = append(denied.Names, "socket")
	}
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			denied,
			conditional,
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: hidden},
		},
	}
	program, err := policy.Assemble()
	if err != nil {
		return nil, err
	}
	// Calls of another architecture (int 0x80) would pass a list of this
	// one's numbers.
	program = append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
	}, program...)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
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
