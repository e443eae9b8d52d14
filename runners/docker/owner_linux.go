package docker

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID is this host's kernel since it started; agents in containers of one
// host share it.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		name, _ := os.Hostname()
		return name
	}
	return strings.TrimSpace(string(b))
}

// processSpace names the namespace that process numbers are counted in.
func processSpace() string {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return "0"
	}
	return strconv.FormatUint(st.Ino, 10)
}

// startTime is when a process began, in the kernel's ticks (proc(5), the 22nd
// field of stat).
func startTime(pid int) (string, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", false
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", false // a zombie owns nothing
	}
	return fields[19], true
}
