package shell

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// helperArg makes the test binary one of the programs below, so that jobs run
// real programs whose behaviour the test knows.
const helperArg = "specql-helper"

// helper is the job's program. It never returns, and it ends by syscall.Exit:
// os.Exit takes a second in a binary with the race detector.
func helper(args []string) {
	switch args[0] {
	case "argv":
		fmt.Printf("%q", args[1:])
	case "env":
		fmt.Print(strings.Join(os.Environ(), "\n"))
	case "stdin":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "cpu": // uses that much processor time, in milliseconds
		burn(milliseconds(args[1]))
	case "memory": // touches that many MiB
		touch(args[1])
	case "huge":
		line := []byte(strings.Repeat("x", 1023) + "\n")
		for range 32 << 10 {
			if _, err := os.Stdout.Write(line); err != nil {
				syscall.Exit(1)
			}
		}
	case "hang": // says that it is there by making a file
		signal.Ignore(syscall.SIGTERM)
		if len(args) > 1 {
			announce(args[1])
		}
		for {
			time.Sleep(time.Hour)
		}
	case "daemon": // a grandchild in its own session holds on
		child := exec.Command(os.Args[0], append([]string{helperArg, "fork"}, args[1:]...)...)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.Stdout = os.Stdout
		if err := child.Run(); err != nil {
			fail(err)
		}
	case "fork":
		child := exec.Command(os.Args[0], helperArg, "hang", args[1])
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fail(err)
		}
	case "write": // writes a file of that many bytes
		n, _ := strconv.Atoi(args[2])
		if err := os.WriteFile(args[1], make([]byte, n), 0o600); err != nil {
			fail(err)
		}
	case "read":
		b, err := os.ReadFile(args[1])
		if err != nil {
			fail(err)
		}
		_, _ = os.Stdout.Write(b)
	case "dial":
		c, err := net.Dial(args[1], args[2])
		if err != nil {
			fail(err)
		}
		c.Close()
	case "listen":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fail(err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			fail(err)
		}
		c.Close()
	case "syscall":
		n, _ := strconv.Atoi(args[1])
		_, _, errno := syscall.RawSyscall(uintptr(n), 0, 0, 0)
		fmt.Print(int(errno))
	case "limits":
		for _, resource := range []int{syscall.RLIMIT_NOFILE, syscall.RLIMIT_CORE} {
			var l syscall.Rlimit
			_ = syscall.Getrlimit(resource, &l)
			fmt.Println(l.Max)
		}
		status, _ := os.ReadFile("/proc/self/status")
		fmt.Print(string(status))
	case "spawn": // as many children at once
		n, _ := strconv.Atoi(args[1])
		for range n {
			if err := exec.Command(os.Args[0], helperArg, "hang").Start(); err != nil {
				fail(err)
			}
		}
	case "panic":
		panic("the ledger is gone")
	case "exit":
		fmt.Fprint(os.Stderr, strings.Join(args[2:], " "))
		n, _ := strconv.Atoi(args[1])
		syscall.Exit(n)
	default:
		fail(fmt.Errorf("no such helper: %v", args))
	}
	syscall.Exit(0)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	syscall.Exit(1)
}

func milliseconds(s string) time.Duration {
	n, _ := strconv.Atoi(s)
	return time.Duration(n) * time.Millisecond
}

// burn computes until the process has used that much processor time.
func burn(much time.Duration) {
	x := uint64(1)
	for {
		for range 200_000 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		if time.Duration(u.Utime.Nano()+u.Stime.Nano()) >= much && x != 0 {
			return
		}
	}
}

// touch maps memory and writes to each page of it.
func touch(mib string) {
	n, _ := strconv.Atoi(mib)
	m, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fail(err)
	}
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fail(err)
	}
	for line := range strings.Lines(string(status)) {
		if name, kb, ok := strings.Cut(line, ":"); ok && name == "RssAnon" {
			fmt.Print(strings.TrimSuffix(strings.TrimSpace(kb), " kB"))
		}
	}
}

// announce writes the process's number to a file, at once.
func announce(path string) {
	if err := os.WriteFile(path+".new", []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		fail(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		fail(err)
	}
}
