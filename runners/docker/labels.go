package docker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The labels of every container, by which it is known whose it is.
const (
	labelAgent   = "specql.agent"   // the agent's name, for people
	labelOwner   = "specql.owner"   // the agent's process, for agents
	labelExpires = "specql.expires" // Unix seconds; nobody needs it after that
	labelService = "specql.service"
	labelJob     = "specql.job" // the job's id; none on one that was started ahead
	labelAttempt = "specql.attempt"
	labelAhead   = "specql.started_ahead" // "true", and its name tells the job
)

// margin is how long after its time a container is still taken for somebody's.
const margin = 5 * time.Minute

// process names this process: the host's boot, the space that its number is
// counted in, the number and when it began.
var process = sync.OnceValue(func() string {
	start, _ := startTime(os.Getpid())
	return fmt.Sprintf("%s/%s/%d/%s", bootID(), processSpace(), os.Getpid(), start)
})

// fate is what is known of a container's owner.
type fate int

const (
	unknown fate = iota // on another host, or not to be seen from here
	alive
	dead
	ours
)

// fateOf tells what became of an owner. local says that the engine is this
// host's: then an owner of an earlier boot is dead.
func fateOf(owner, self string, local bool) fate {
	if owner == self {
		return ours
	}
	them, us := strings.Split(owner, "/"), strings.Split(self, "/")
	if len(them) != 4 || len(us) != 4 {
		return unknown
	}
	switch {
	case them[0] != us[0]:
		if local {
			return dead
		}
		return unknown
	case them[1] != us[1]:
		return unknown
	}
	pid, err := strconv.Atoi(them[2])
	if err != nil {
		return unknown
	}
	if start, there := startTime(pid); there && start == them[3] {
		return alive
	}
	return dead
}

// expired tells whether a container's time is over, whoever owns it.
func expired(label string, now time.Time) bool {
	at, err := strconv.ParseInt(label, 10, 64)
	return err == nil && now.After(time.Unix(at, 0).Add(margin))
}
