package shell

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The shim's descriptors beyond the job's own three.
const (
	controlFD = 3 // the specification, then orders; its end means: kill
	statusFD  = 4 // one report
	programFD = 5 // the program to start
	joinFD    = 6 // the cgroups' files, as many as the specification says; then the working directory, where it is lent
)

// programPath is the program by its descriptor.
const programPath = "/proc/self/fd/5"

// orderTerminate asks the shim to send SIGTERM to the whole tree.
const orderTerminate = 'T'

// spec tells the shim what to start and how to confine it.
type spec struct {
	Probe bool // only try the isolation

	Argv   []string
	Env    []string
	Hashed bool // the program's descriptor must stay open for its interpreter

	Dir    identity
	Script identity // empty Path without one

	Groups     int  // files to write "0" to, from joinFD on
	Namespaces bool // PID, mount, IPC and UTS namespaces are there
	Loopback   bool // bring up the loopback interface
	View       view // of the host's files, with namespaces

	Files      []fileRule        // Landlock; none: not applied
	Filter     []unix.SockFilter // seccomp; none: not applied
	Confined   bool              // no_new_privs and no capabilities
	Limits     []rlimit
	Credential *syscall.Credential
}

// rlimit is one of setrlimit(2)'s.
type rlimit struct {
	Resource int
	Soft     uint64
	Hard     uint64
}

// identity is a file by path and by what it was when it was checked.
type identity struct {
	Path string
	Dev  uint64
	Ino  uint64
}

func identityOf(f *os.File, path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return identity{path, uint64(st.Dev), st.Ino}, nil
}

// still tells whether the path means the file that it meant. The zero identity
// always does.
func (i identity) still() error {
	if i.Path == "" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(i.Path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: i.Path, Err: err}
	}
	if uint64(st.Dev) != i.Dev || st.Ino != i.Ino {
		return errors.New(i.Path + " was exchanged for another file while the job was started")
	}
	return nil
}

// report is the shim's answer.
type report struct {
	// Step that failed, before the program ran; empty when it ran.
	Step  string
	Error string
	Errno syscall.Errno

	Wait  syscall.WaitStatus // how the program ended
	CPUNs int64              // processor time of all that was reaped

	TmpFull bool // the private /tmp had no room left at the end
}

// sendSpec writes the specification with its length before it.
func sendSpec(w io.Writer, s spec) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func receiveSpec(r io.Reader) (s spec, err error) {
	var size [4]byte
	if _, err = io.ReadFull(r, size[:]); err != nil {
		return s, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err = io.ReadFull(r, b); err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}
