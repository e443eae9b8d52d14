package devdb

import (
	"fmt"
	"os"
	"strings"
)

// arguments returns a process's argument list; empty when the process is gone
// or only its exit status is left.
func arguments(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(raw) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
}
