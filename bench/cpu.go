package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc's CPU times on Linux (sysconf's _SC_CLK_TCK).
const tick = 10 * time.Millisecond

// cpuTime is what the process has used so far.
func cpuTime(pid int) (time.Duration, error) {
	p, err := readStat(pid)
	return p.own, err
}

// cpuOfTree is what the process and its children have used so far, those that
// have ended included. The kernel adds a child's time to its parent's when the
// parent has waited for it.
func cpuOfTree(pid int) (time.Duration, error) {
	root, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	sum := root.own + root.waited
	folders, err := os.ReadDir("/proc")
	for _, f := range folders {
		if child, err := strconv.Atoi(f.Name()); err == nil {
			if p, err := readStat(child); err == nil && p.parent == pid { // else it has just ended
				sum += p.own + p.waited
			}
		}
	}
	return sum, err
}

// stat is what /proc tells of a process.
type stat struct {
	parent      int
	own, waited time.Duration // CPU time: its own, and that of children that it has waited for
}

// readStat reads the 4th field of a process's stat, and the 14th to the 17th.
func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The second is the command's name in parentheses, which may hold blanks.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var errs []error
	number := func(field int) int {
		n, err := strconv.Atoi(fields[field-3])
		errs = append(errs, err)
		return n
	}
	p := stat{parent: number(4), own: time.Duration(number(14)+number(15)) * tick,
		waited: time.Duration(number(16)+number(17)) * tick}
	return p, errors.Join(errs...)
}

// spentOnJobs measures what n jobs cost in CPU time: on the server, and in this
// process. It finds nothing where the system has no /proc.
func (l *lab) spentOnJobs(n int, run func() error) (figures, error) {
	server, err1 := cpuOfTree(l.server.PID())
	here, err2 := cpuTime(os.Getpid())
	if err := run(); err != nil {
		return nil, err
	}
	serverAfter, err3 := cpuOfTree(l.server.PID())
	hereAfter, err4 := cpuTime(os.Getpid())
	if errors.Join(err1, err2, err3, err4) != nil {
		return figures{}, nil
	}
	return figures{serverCPU: (serverAfter - server).Seconds() / float64(n), clientCPU: (hereAfter - here).Seconds() / float64(n)}, nil
}

// What a job costs in CPU time.
const serverCPU, clientCPU = "CPU on the server", "CPU of the client"
