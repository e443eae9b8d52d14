//go:build unix

package ops

import (
	osexec "os/exec"
	"syscall"
)

// detach gives a process a session of its own, so that neither the end of this
// one nor that of its terminal ends it.
func detach(cmd *osexec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
