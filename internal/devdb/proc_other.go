//go:build unix && !linux

package devdb

import (
	"os/exec"
	"strconv"
	"strings"
)

// arguments returns a process's argument list, split at spaces: the folders
// of this package hold none on the systems where ps has to do. It is empty
// when the process is gone or only its exit status is left.
func arguments(pid int) []string {
	out, err := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}
