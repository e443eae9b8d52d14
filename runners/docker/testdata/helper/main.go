// The program in the tests' image: what it does, its first argument says.
package main

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

	"github.com/specql/specql-ops/runners/docker/waiter"
)

func main() {
	waiter.Main()
	if len(os.Args) < 2 {
		fail(fmt.Errorf("what shall it do?"))
	}
	switch args := os.Args[1:]; args[0] {
	case "argv":
		fmt.Printf("%q", args[1:])
	case "env":
		fmt.Print(strings.Join(os.Environ(), "\n"))
	case "stdin":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			fail(err)
		}
	case "speak": // on both streams
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "exit": // with a status, and a word to standard error
		fmt.Fprint(os.Stderr, strings.Join(args[2:], " "))
		os.Exit(int(number(args[1])))
	case "crash":
		panic("something was nil")
	case "kill": // itself, by a signal
		signal.Reset()
		child := exec.Command("/helper", "exit", "0")
		_ = child.Run()
		_ = syscall.Kill(os.Getpid(), syscall.Signal(number(args[1])))
		time.Sleep(time.Hour)
	case "huge":
		spill(number(args[1]))
	case "hang": // touches a file in a volume so that the test sees it, and heeds no signal
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("hanging")
		time.Sleep(time.Hour)
	case "obey": // ends at SIGTERM, and says so
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("hanging")
		<-c
		fmt.Fprintln(os.Stderr, "ended in order")
		os.Exit(3)
	case "memory": // so many MiB, touched
		touch(number(args[1]))
	case "cpu": // so many milliseconds of processor time
		burn(time.Duration(number(args[1])) * time.Millisecond)
	case "fork": // as many children as it can get
		for n := 0; ; n++ {
			if err := exec.Command("/helper", "hang").Start(); err != nil {
				fmt.Print(n)
				os.Exit(0)
			}
		}
	case "write": // a file of so many MiB
		f, err := os.Create(args[1])
		if err != nil {
			fail(err)
		}
		block := make([]byte, 1<<20)
		for range number(args[2]) {
			if _, err := f.Write(block); err != nil {
				fail(err)
			}
		}
	case "read":
		b, err := os.ReadFile(args[1])
		if err != nil {
			fail(err)
		}
		os.Stdout.Write(b)
	case "status":
		b, _ := os.ReadFile("/proc/self/status")
		os.Stdout.Write(b)
	case "interfaces":
		list, _ := net.Interfaces()
		for _, i := range list {
			fmt.Println(i.Name)
		}
	case "mount":
		if err := syscall.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
			fail(err)
		}
	default:
		fail(fmt.Errorf("no such helper: %v", args))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		fail(err)
	}
	return n
}

func spill(mib int64) {
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range mib << 10 {
		if _, err := os.Stdout.Write(line); err != nil {
			fail(err)
		}
	}
}

func touch(mib int64) {
	m, err := syscall.Mmap(-1, 0, int(mib)<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fail(err)
	}
	for i := 0; i < len(m); i += 4096 {
		m[i] = 1
	}
}

func burn(much time.Duration) {
	for x := uint64(1); ; {
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
