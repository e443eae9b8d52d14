package shell

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount gives the job a /proc that shows only its own processes, a temporary
// directory among nobody else's, and private shared memory.
func (s *shim) mount() error {
	if !s.spec.Namespaces {
		return nil
	}
	// Nothing done here may reach the host's mounts.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", quiet|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if s.spec.Tmp != "" {
		if err := s.hideOtherTmp(); err != nil {
			return err
		}
	}
	if isDir("/dev/shm") {
		if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", quiet, "size=64m,mode=1777"); err != nil {
			return fmt.Errorf("mount /dev/shm: %w", err)
		}
	}
	if s.spec.HideRun && isDir("/run") {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", quiet|unix.MS_RDONLY, "size=4k,mode=755"); err != nil {
			return fmt.Errorf("mount /run: %w", err)
		}
	}
	return nil
}

// hideOtherTmp covers the directory that holds all attempts' and shows in it
// only this one's.
func (s *shim) hideOtherTmp() error {
	fd, err := unix.Open(s.spec.Tmp, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.spec.Tmp, err)
	}
	defer unix.Close(fd)
	if err := unix.Mount("tmpfs", s.spec.TmpBase, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k,mode=711"); err != nil {
		return fmt.Errorf("mount %s: %w", s.spec.TmpBase, err)
	}
	if err := os.Mkdir(s.spec.Tmp, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), s.spec.Tmp, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", s.spec.Tmp, err)
	}
	return nil
}

// network brings the loopback interface of an own namespace up.
func (s *shim) network() error {
	if !s.spec.Loopback {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}
