package docker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Version 1 keeps the count of kills with each cgroup alone, and the container's
// own is gone with it. The engine hears of one while the container ends, and does
// not always hear it. So the group, which stays, has the limit too, and tells of
// every kill below it: it is so much smaller that it is reached first, and larger
// than what the kernel takes at a time where it would kill for it.
const groupMargin = 64 << 10 // bytes

// bound gives a group of version 1 its limit, in bytes, and has it count kills
// for want of memory.
func (g *group) bound(limit int64) error {
	if g.c.unified != "" || limit == 0 {
		return nil
	}
	dir := filepath.Join(g.c.v1["memory"], g.path)
	small := []byte(strconv.FormatInt(limit-groupMargin, 10))
	if err := os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), small, 0); err != nil {
		return err
	}
	// Where swap is counted.
	if err := os.WriteFile(filepath.Join(dir, "memory.memsw.limit_in_bytes"), small, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	g.kills = os.NewFile(uintptr(fd), "kills for want of memory")
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return err
	}
	defer control.Close()
	return os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0)
}

// told returns how often a group of version 1 told of a kill since the last time.
func (g *group) told() (times int64) {
	if g.kills == nil {
		return 0
	}
	raw, err := g.kills.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Read(func(fd uintptr) bool {
		var n [8]byte
		if _, err := unix.Read(int(fd), n[:]); err == nil {
			times = int64(binary.NativeEndian.Uint64(n[:]))
		}
		return true // none is an answer too
	})
	return times
}
