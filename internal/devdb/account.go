//go:build unix

package devdb

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// account is whom the server runs as.
type account struct {
	name     string
	uid, gid int
	drop     bool // the caller is root and gives its privileges up for the server
}

// serverAccount is the caller's own account, or for root an unprivileged one:
// postgres where it exists, else nobody.
func serverAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: strconv.Itoa(uid), uid: uid, gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 != nil || err2 != nil || uid <= 0 {
			continue
		}
		return account{name: name, uid: uid, gid: gid, drop: true}, nil
	}
	return account{}, fmt.Errorf("PostgreSQL does not run as root, and neither the user postgres nor nobody exists: create one (`useradd --system postgres`) or run as another user")
}

// command prepares one of PostgreSQL's programs to run as the account, in a
// session of its own so that a terminal's Ctrl-C does not reach the server
// before its user had a say.
func (a account) command(cmd *exec.Cmd, dir string) {
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
}

// environment passes on what finds programs and libraries. The rest stays
// here: secrets, and PG* variables and locales that would change the server.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, key := range []string{"PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return env
}

// reach tells whether the account may enter dir: every folder on the way must
// be searchable for it. A checkout in root's home or a private TMPDIR is not.
func (a account) reach(dir string) error {
	if !a.drop {
		if err := unix.Access(dir, unix.X_OK); err != nil {
			return fmt.Errorf("enter %s: %w", dir, err)
		}
		return nil
	}
	at := "/"
	for part := range strings.SplitSeq(filepath.Clean(dir), "/") {
		at = filepath.Join(at, part)
		var st unix.Stat_t
		if err := unix.Stat(at, &st); err != nil {
			return fmt.Errorf("enter %s: %w", at, err)
		}
		search := uint32(0o001)
		switch {
		case int(st.Uid) == a.uid:
			search = 0o100
		case int(st.Gid) == a.gid:
			search = 0o010
		}
		if uint32(st.Mode)&search == 0 {
			return fmt.Errorf("user %s, as whom PostgreSQL runs, may not enter %s", a.name, at)
		}
	}
	return nil
}
