package shell

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

//go:noescape
func spawn(args unsafe.Pointer, size uintptr, script unsafe.Pointer, all, old unsafe.Pointer) int64

// initCode is only jumped to: assembly takes its address.
//
//lint:ignore U1000 spawn_linux_amd64.s uses it
func initCode()

func initAddress() unsafe.Pointer

// initEnd follows the init's code.
var initEnd = []byte{0x70, 0x65, 0x63, 0x71, 0x6c, 0x20, 0x69, 0x6e, 0x69, 0x74, 0x20, 0x65, 0x6e, 0x64, 0, 0}

// initFile is the init as a program: its code behind an ELF header
// and two program headers (elf(5)).
func initFile() (*os.File, error) {
	code := unsafe.Slice((*byte)(initAddress()), 4096)
	size := bytes.Index(code, initEnd)
	if size < 0 {
		return nil, errors.New("the init's code has no end")
	}
	const base, headers = 0x400000, 64 + 2*56
	var elf bytes.Buffer
	for _, part := range []any{
		[]byte("\x7fELF\x02\x01\x01"), make([]byte, 9),
		[]uint16{2, 62}, uint32(1), // an executable, x86-64
		[]uint64{base + headers, 64, 0}, uint32(0),
		[]uint16{64, 56, 2, 64, 0, 0},
		[]uint32{1, 5}, []uint64{0, base, base, uint64(headers + size), uint64(headers + size), 0x1000}, // PT_LOAD, read and execute
		[]uint32{0x6474e551, 6}, []uint64{0, 0, 0, 0, 0, 16}, // PT_GNU_STACK, not executable
		code[:size],
	} {
		if err := binary.Write(&elf, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	// A filesystem of its own, mounted nowhere: nobody else finds it, and
	// Landlock has rules for it, which it has not for memfd_create's.
	home, err := newTmpfs(1, 8)
	if err != nil {
		return nil, err
	}
	defer home.Close()
	fd, err := unix.Openat(int(home.Fd()), "init", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o555)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), "init")
	_, err = f.Write(elf.Bytes())
	if err = errors.Join(err, f.Chmod(0o555), f.Close()); err != nil {
		return nil, err
	}
	if fd, err = unix.Openat(int(home.Fd()), "init", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), "init"), nil
}

// cloneArgs are clone3(2)'s.
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

// op is one system call of a script.
type op struct {
	number uintptr
	args   [6]uintptr
	mode   uintptr
	result int64
	into   uintptr // where a descriptor is put
}

// The modes of an op: any error ends the child; none does; its result is a
// descriptor that a later op needs; nothing ends it as an error does.
const (
	must = iota
	may
	store
	some
)

const (
	mostOps = 160
	pending = -9999 // the result of an op that was not reached
)

// script is what a child does between clone3 and execve. It lies in memory of
// its own, which neither moves nor is collected while the child reads it.
type script struct {
	memory []byte
	used   int
	ops    *[mostOps]op
	n      int
	steps  [mostOps]string // what each op is part of
	args   *cloneArgs
	masks  *[2]uint64 // all signals, and the thread's own
	mark   int
	step   string
}

const scriptBytes = 64 << 10

func newScript() (*script, error) {
	memory, err := unix.Mmap(-1, 0, scriptBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	s := &script{memory: memory}
	s.ops = (*[mostOps]op)(s.alloc(unsafe.Sizeof(*s.ops)))
	s.args = (*cloneArgs)(s.alloc(unsafe.Sizeof(*s.args)))
	s.masks = (*[2]uint64)(s.alloc(unsafe.Sizeof(*s.masks)))
	s.masks[0] = ^uint64(0)
	s.mark = s.used
	return s, nil
}

func (s *script) free() { _ = unix.Munmap(s.memory) }

func (s *script) reset() { s.used, s.n = s.mark, 0 }

func (s *script) alloc(n uintptr) unsafe.Pointer {
	p := unsafe.Pointer(&s.memory[s.used])
	s.used += int(n+15) &^ 15
	return p
}

// text is a string as C has it.
func (s *script) text(t string) uintptr {
	p := s.alloc(uintptr(len(t) + 1))
	b := unsafe.Slice((*byte)(p), len(t)+1)
	copy(b, t)
	b[len(t)] = 0
	return uintptr(p)
}

// list is a list of strings as execve takes it.
func (s *script) list(list ...string) uintptr {
	p := s.alloc(uintptr(8 * (len(list) + 1)))
	pointers := unsafe.Slice((*uintptr)(p), len(list)+1)
	for i, t := range list {
		pointers[i] = s.text(t)
	}
	pointers[len(list)] = 0
	return uintptr(p)
}

// do adds a system call that must succeed.
func (s *script) do(number uintptr, args ...uintptr) *op {
	o := &s.ops[s.n]
	*o = op{number: number, result: pending}
	copy(o.args[:], args)
	s.steps[s.n] = s.step
	s.n++
	return o
}

// failure is the op that ended the child, if one did.
func (s *script) failure() (step string, errno syscall.Errno, failed bool) {
	for i := range s.n {
		o := &s.ops[i]
		if o.result == pending {
			break
		}
		if o.result < 0 && o.mode != may {
			return s.steps[i], syscall.Errno(-o.result), true
		}
	}
	return "", 0, false
}

// run makes the child. The script must stay as it is until the child has
// become another program or is gone.
func (s *script) run(flags uint64, cgroup int) (pid int, err error) {
	stack := s.alloc(4096) // clone3 wants one
	*s.args = cloneArgs{
		flags:      flags | unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND,
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(uintptr(stack)),
		stackSize:  4096,
	}
	if cgroup >= 0 {
		s.args.flags |= unix.CLONE_INTO_CGROUP
		s.args.cgroup = uint64(cgroup)
	}
	r := spawn(unsafe.Pointer(s.args), unsafe.Sizeof(*s.args), unsafe.Pointer(s.ops), unsafe.Pointer(&s.masks[0]), unsafe.Pointer(&s.masks[1]))
	if r < 0 {
		return 0, syscall.Errno(-r)
	}
	return int(r), nil
}
