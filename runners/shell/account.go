package shell

import (
	"os"
	"os/user"
	"strconv"
	"strings"
)

// account is whom a job runs as.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
	change   bool // it is not the agent's own
}

// accountFor resolves runner_config.user: a name or uid, with an optional
// group or gid after a colon. An empty one is the agent's own account.
func accountFor(service, spec string) (account, error) {
	own := account{name: strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	if u, err := user.LookupId(own.name); err == nil {
		own.name = u.Username
	}
	if spec == "" {
		return own, nil
	}
	name, group, withGroup := strings.Cut(spec, ":")
	a := account{name: spec, change: true}
	u, err := user.Lookup(name)
	if err != nil {
		u, err = user.LookupId(name)
	}
	switch {
	case err == nil:
		a.uid, a.gid = number(u.Uid), number(u.Gid)
		if ids, err := u.GroupIds(); err == nil {
			for _, id := range ids {
				a.groups = append(a.groups, number(id))
			}
		}
	case isNumber(name): // no entry is needed for a number
		a.uid, a.gid = number(name), number(name)
	default:
		return a, configErrorf(service, "runner_config.user %q is not known on this host", name)
	}
	if withGroup {
		if g, err := user.LookupGroup(group); err == nil {
			group = g.Gid
		}
		if !isNumber(group) {
			return a, configErrorf(service, "runner_config.user: the group %q is not known on this host", group)
		}
		a.gid = number(group)
	}
	if a.uid == own.uid && !withGroup {
		return own, nil
	}
	if own.uid != 0 {
		return a, configErrorf(service, "runner_config.user %s: only an agent that runs as root can change to another user, and this one runs as %s", spec, own.name)
	}
	return a, nil
}

// namesRoot tells whether runner_config.user is root's.
func namesRoot(spec string) bool {
	name, _, _ := strings.Cut(spec, ":")
	return name == "root" || isNumber(name) && number(name) == 0
}

// firstOwn is the first of the numbers that services' jobs run under where the
// agent is root and the registry names no user. They lie where no account and
// no container is: above what systemd keeps for those
// (https://systemd.io/UIDS-GIDS), below what a signed number holds.
const firstOwn = 1_900_000_000

// ownAccount is a service's own unprivileged account, the nth. Nobody else has
// it, and no file belongs to it: the working directory is lent to it.
func ownAccount(n uint32) account {
	return account{name: "unprivileged " + strconv.Itoa(firstOwn+int(n)), uid: firstOwn + n, gid: firstOwn + n, change: true}
}

// ownerOf is the account that a file belongs to.
func ownerOf(uid, gid uint32) account {
	a := account{name: strconv.Itoa(int(uid)), uid: uid, gid: gid, change: uid != uint32(os.Geteuid())}
	if u, err := user.LookupId(a.name); err == nil {
		a.name = u.Username
	}
	return a
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 31)
	return uint32(n)
}
