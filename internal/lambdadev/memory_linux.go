package lambdadev

import (
	"bytes"
	"os"
	"strconv"
)

// peakMemory is the most memory that the process has had, in MB, rounded up; 0
// when it is gone.
func peakMemory(pid int) int {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, found := bytes.Cut(status, []byte("VmHWM:"))
	if !found {
		return 0
	}
	field := bytes.Fields(rest)[0]
	kib, err := strconv.Atoi(string(field))
	if err != nil {
		return 0
	}
	return (kib + 1023) / 1024
}
