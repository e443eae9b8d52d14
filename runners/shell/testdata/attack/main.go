//go:build linux

// Command attack tries to break out of a shell job, one way a run. It does no
// harm where it gets through: it only shows that it could. It says
// BROKEN OUT and ends with 0 when it got what it wanted, else it ends with 1 and
// says what stopped it. attack_linux_test.go builds and runs it.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var attacks = map[string]func(arg string) error{
	"environment of the agent": func(pid string) error { return readable("/proc/" + pid + "/environ") },
	"memory of the agent":      func(pid string) error { return readable("/proc/" + pid + "/mem") },
	"environment of the init":  func(string) error { return readable("/proc/1/environ") },
	"memory by process_vm_readv": func(pid string) error {
		var b [8]byte
		local := syscall.Iovec{Base: &b[0], Len: 8}
		return call(unix.SYS_PROCESS_VM_READV, number(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&local)), 1, 0)
	},
	"read a file": readable, // /etc/shadow, another job's, the agent's
	"ptrace the agent": func(pid string) error {
		return call(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, number(pid), 0, 0, 0, 0)
	},
	"ptrace the init": func(string) error { return call(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1, 0, 0, 0, 0) },
	"signal another":  func(pid string) error { return syscall.Kill(int(number(pid)), 0) },
	"signal all":      func(string) error { return syscall.Kill(-1, 0) }, // all but the init and this one

	"fork bomb": func(string) error {
		for n := range 500 {
			if err := exec.Command("/proc/self/exe", "sleep", "").Start(); err != nil {
				return fmt.Errorf("after %d processes: %w", n, err)
			}
		}
		return nil
	},
	"double fork": func(mark string) error {
		child := exec.Command("/proc/self/exe", "daemon", mark)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Run(); err != nil {
			return err
		}
		return errors.New("the daemon is there; it is to be gone with the job")
	},
	"daemon": func(mark string) error {
		child := exec.Command("/proc/self/exe", "sleep", mark)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return child.Start()
	},
	"sleep": func(string) error {
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
		time.Sleep(time.Hour)
		return nil
	},

	"fill a directory with bytes": func(dir string) error {
		block := make([]byte, 1<<20)
		for n := range 64 {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("big", n)))
			if err != nil {
				return err
			}
			for range 4 {
				if _, err := f.Write(block); err != nil {
					return fmt.Errorf("after %d files: %w", n, err)
				}
			}
			f.Close()
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	},
	"fill a directory with files": func(dir string) error {
		for n := range 40_000 {
			f, err := os.Create(filepath.Join(dir, fmt.Sprint("small", n)))
			if err != nil {
				return fmt.Errorf("after %d files: %w", n, err)
			}
			f.Close()
		}
		return nil
	},
	"fill memory": func(string) error {
		for n := range 64 {
			m, err := syscall.Mmap(-1, 0, 16<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
			if err != nil {
				return fmt.Errorf("after %d MiB: %w", 16*n, err)
			}
			m[0] = 1
		}
		return nil
	},
	"fill the output": func(string) error {
		block := make([]byte, 1<<20)
		for range 512 {
			if _, err := os.Stdout.Write(block); err != nil {
				return err
			}
		}
		return nil
	},

	"raw socket":    func(string) error { return socket(syscall.AF_INET, syscall.SOCK_RAW) },
	"packet socket": func(string) error { return socket(syscall.AF_PACKET, syscall.SOCK_RAW) },
	"tcp":           func(address string) error { return dial("tcp", address) },
	"udp":           func(address string) error { return dial("udp", address) },
	"unix socket":   func(path string) error { return dial("unix", path) },

	"mount": func(dir string) error {
		return syscall.Mount("tmpfs", dir, "tmpfs", 0, "")
	},
	"new user namespace":  func(string) error { return syscall.Unshare(syscall.CLONE_NEWUSER) },
	"new mount namespace": func(string) error { return syscall.Unshare(syscall.CLONE_NEWNS) },
	"namespace by clone": func(string) error {
		cmd := exec.Command("/proc/self/exe", "true", "")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS}
		return cmd.Run()
	},
	"namespace of the init": func(string) error {
		f, err := os.Open("/proc/1/ns/net")
		if err != nil {
			return err
		}
		return call(unix.SYS_SETNS, f.Fd(), 0, 0, 0, 0, 0)
	},
	"kernel module": func(string) error {
		return call(syscall.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&[]byte("\x7fELF")[0])), 4, uintptr(unsafe.Pointer(&[]byte{0}[0])), 0, 0, 0)
	},
	"device node": func(dir string) error { return syscall.Mknod(filepath.Join(dir, "disk"), syscall.S_IFBLK|0o666, 8<<8) },
	"chroot":      func(dir string) error { return syscall.Chroot(dir) },

	"write a file": func(path string) error { return os.WriteFile(path, []byte("attacked"), 0o644) },
	"make a file": func(dir string) error { // one without a name, so that nothing is left
		fd, err := syscall.Open(dir, unix.O_TMPFILE|syscall.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return syscall.Close(fd)
	},
	"open a file for writing": func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	},
	"run a set-user-id program": func(path string) error {
		out, err := exec.Command(path, "privileges", "").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	},
	"privileges": func(string) error {
		if os.Geteuid() != 0 {
			return fmt.Errorf("euid is %d", os.Geteuid())
		}
		return nil
	},
	"leave a set-user-id program": func(dir string) error {
		path := filepath.Join(dir, "left")
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
			return err
		}
		return nil
	},
	"make a set-user-id program": func(dir string) error {
		fd, err := syscall.Open(filepath.Join(dir, "made"), syscall.O_CREAT|syscall.O_WRONLY, syscall.S_ISUID|0o755)
		if err != nil {
			return err
		}
		return syscall.Close(fd)
	},
	"escape by descriptors": func(path string) error {
		for fd := range 256 {
			for _, up := range []string{"", "/..", "/../..", "/../../..", "/../../../../.."} {
				if readable(fmt.Sprintf("/proc/self/fd/%d%s%s", fd, up, path)) == nil {
					return nil
				}
				if f, err := syscall.Openat(fd, "."+up+path, syscall.O_RDONLY, 0); err == nil {
					_, err = syscall.Read(f, make([]byte, 1))
					if err == nil {
						return nil
					}
				}
			}
		}
		return errors.New("no descriptor led there")
	},
	"escape by the init's root": func(path string) error { return readable("/proc/1/root" + path) },
	"escape by a symlink": func(path string) error {
		if err := os.Symlink(path, "link"); err != nil {
			return err
		}
		return readable("link")
	},
	"escape by a hard link": func(path string) error {
		if err := os.Link(path, "hard"); err != nil {
			return err
		}
		return os.WriteFile("hard", []byte("attacked"), 0o644)
	},
	"true": func(string) error { return nil },
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	return err
}

func call(trap, a, b, c, d, e, f uintptr) error {
	if _, _, errno := syscall.Syscall6(trap, a, b, c, d, e, f); errno != 0 {
		return errno
	}
	return nil
}

func socket(family, kind int) error {
	_, err := syscall.Socket(family, kind, 0)
	return err
}

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return err
	}
	_, err = c.Write([]byte("attacked"))
	return err
}

func number(s string) uintptr {
	n, _ := strconv.Atoi(s)
	return uintptr(n)
}

func main() {
	attack, ok := attacks[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "no such attack")
		os.Exit(3)
	}
	if err := attack(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
		os.Exit(1)
	}
	fmt.Println("BROKEN OUT")
}
