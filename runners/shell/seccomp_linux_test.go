package shell

import (
	"encoding/binary"
	"slices"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// judged is what a filter says of a call, by golang.org/x/net/bpf's machine.
func judged(t *testing.T, filter []unix.SockFilter, arch, number uint32, arguments [6]uint64) uint32 {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(filter))
	for i, f := range filter {
		raw[i] = bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter cannot be read back")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	// struct seccomp_data, with each word turned round: the machine reads the
	// network's order, the kernel its own.
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, arch)
	data = append(data, make([]byte, 8)...)
	for _, a := range arguments {
		data = binary.BigEndian.AppendUint32(data, uint32(a))
		data = binary.BigEndian.AppendUint32(data, uint32(a>>32))
	}
	verdict, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(verdict)
}

// Every number there is, and some that are not, is asked for.
func TestFilterForbidsWhatIsListedAndNothingElse(t *testing.T) {
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(errno syscall.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }
	for _, blockSockets := range []bool{false, true} {
		filter, err := syscallFilter(blockSockets)
		if err != nil {
			t.Fatal(err)
		}
		for number := range uint32(1024) {
			name := info.SyscallNumbers[int(number)]
			want := uint32(unix.SECCOMP_RET_ALLOW)
			switch {
			case slices.Contains(forbiddenCalls, name), blockSockets && name == "socket":
				want = refused(unix.EPERM)
			case slices.Contains(hidden, name):
				want = refused(unix.ENOSYS)
			}
			if got := judged(t, filter, uint32(info.ID), number, [6]uint64{}); got != want {
				t.Errorf("%s (%d), sockets blocked %v: %#x, want %#x", name, number, blockSockets, got, want)
			}
			if got := judged(t, filter, uint32(info.ID)^1, number, [6]uint64{}); got != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("%s (%d) of another architecture: %#x", name, number, got)
			}
			if got := judged(t, filter, uint32(info.ID), number|uint32(arch.X32.SeccompMask), [6]uint64{}); info.ID == arch.X86_64.ID && got != refused(unix.ENOSYS) {
				t.Errorf("%s (%d) of x32: %#x", name, number, got)
			}
		}
		for _, c := range []struct {
			name      string
			arguments [6]uint64
			want      uint32
		}{
			{"clone", [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD}, unix.SECCOMP_RET_ALLOW},
			{"clone", [6]uint64{unix.CLONE_NEWUSER | unix.CLONE_VM}, refused(unix.EPERM)},
			{"clone", [6]uint64{unix.CLONE_NEWNS | 1<<40}, refused(unix.EPERM)},
			{"fchmodat", [6]uint64{1 << 11, 1 << 11, 0o755}, unix.SECCOMP_RET_ALLOW},
			{"fchmodat", [6]uint64{0, 0, 0o4755}, refused(unix.EPERM)},
			{"fchmodat", [6]uint64{0, 0, 0o2755 | 1<<33}, refused(unix.EPERM)},
			{"openat", [6]uint64{0, 0, unix.O_WRONLY, 0o4755}, unix.SECCOMP_RET_ALLOW}, // the mode is of no matter
			{"openat", [6]uint64{0, 0, unix.O_WRONLY | unix.O_CREAT, 0o755}, unix.SECCOMP_RET_ALLOW},
			{"openat", [6]uint64{0, 0, unix.O_WRONLY | unix.O_CREAT, 0o4755}, refused(unix.EPERM)},
			{"openat", [6]uint64{0, 0, unix.O_RDWR | unix.O_TMPFILE, 0o2700}, refused(unix.EPERM)},
			{"openat", [6]uint64{0, 0, unix.O_DIRECTORY, 0o2700}, unix.SECCOMP_RET_ALLOW},
		} {
			if got := judged(t, filter, uint32(info.ID), uint32(info.SyscallNames[c.name]), c.arguments); got != c.want {
				t.Errorf("%s%#o: %#x, want %#x", c.name, c.arguments, got, c.want)
			}
		}
	}
}
