package shell

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// lender gives services accounts of their own and lends working directories
// to them: by an idmapped mount (mount_setattr(2), Linux 5.12), in which the
// directory's owner is the service's account. On disk the files are and stay
// the owner's.
type lender struct {
	mu       sync.Mutex
	accounts map[string]uint32
	spaces   map[loan]*os.File // user namespaces, which hold the mappings
}

// loan is whose files become whose.
type loan struct{ uid, gid, to uint32 }

func newLender() *lender {
	return &lender{accounts: map[string]uint32{}, spaces: map[loan]*os.File{}}
}

func (l *lender) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, f := range l.spaces {
		f.Close()
		delete(l.spaces, key)
	}
}

// account is the service's own, the same as long as the agent runs.
func (l *lender) account(service string) account {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.accounts[service]
	if !ok {
		n = uint32(len(l.accounts))
		l.accounts[service] = n
	}
	return ownAccount(n)
}

// lend clones the directory's mount, detached, for the account. It fails on
// filesystems that cannot map owners.
func (l *lender) lend(dir *os.File, to account, readOnly bool) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, err
	}
	space, err := l.space(loan{st.Uid, st.Gid, to.uid})
	if err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Userns_fd: uint64(space.Fd())}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return cloneMount(dir, &attr)
}

// cloneMount makes a detached copy of the mount that a handle stands in, from
// the handle on.
func cloneMount(f *os.File, attr *unix.MountAttr) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	if attr != nil {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("mount_setattr: %w", err)
		}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// space is the user namespace whose mapping makes the loan. All other owners
// stay who they are.
func (l *lender) space(key loan) (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.spaces[key]; f != nil {
		return f, nil
	}
	control, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer control.Close()
	// A shim without a specification does nothing but wait for one.
	holder := &exec.Cmd{Path: "/proc/self/exe", Args: []string{shimName}, Env: []string{"GOMAXPROCS=1"}, Dir: "/",
		ExtraFiles: []*os.File{control, control}, SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: mapping(key.uid, key.to),
			GidMappings: mapping(key.gid, key.to),
		}}
	if err := holder.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	_ = holder.Process.Kill()
	_ = holder.Wait()
	if err != nil {
		return nil, err
	}
	l.spaces[key] = f
	return f, nil
}

// mapping maps one id on disk to another, and every other to itself.
func mapping(disk, to uint32) []syscall.SysProcIDMap {
	list := []syscall.SysProcIDMap{{ContainerID: int(disk), HostID: int(to), Size: 1}}
	if disk > 0 {
		list = append(list, syscall.SysProcIDMap{ContainerID: 0, HostID: 0, Size: int(min(disk, firstOwn))})
	}
	if disk+1 < firstOwn {
		list = append(list, syscall.SysProcIDMap{ContainerID: int(disk + 1), HostID: int(disk + 1), Size: int(firstOwn - disk - 1)})
	}
	return list
}
