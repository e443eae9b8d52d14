//go:build !linux

package docker

import (
	"os"
	"syscall"
)

func bootID() string {
	name, _ := os.Hostname()
	return name
}

func processSpace() string { return "0" }

// startTime tells whether a process is there; when it began is not known here.
func startTime(pid int) (string, bool) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return "", false
	}
	return "0", p.Signal(syscall.Signal(0)) == nil
}
