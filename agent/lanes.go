package agent

import (
	"math/rand/v2"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// lane is a service's room for jobs, and the place from which jobs may be
// waiting in it. A lane that was looked through to its end is not looked at
// again until a wake-up says where something new stands.
type lane struct {
	service string
	typ     jobs.ExecutionType
	bound   int // concurrency; 0: none
	gates   jobs.Gates

	listed   bool // the present registry has it, and this agent runs its type
	running  int  // claimed and not yet recorded
	reserved int  // asked for by claims under way

	from  jobs.Place // jobs may wait behind this place; Last: none known
	looks []*look    // under way
	hot   bool       // the last look found jobs

	active bool // among the many lanes, one that may have jobs

	registered *registry.Service // what the present registry says of it
	away       time.Time         // until then what runs its jobs has no room

	tripped bool      // the circuit is not closed: its gate must be asked
	closed  time.Time // the gates let nothing through before
}

// look is one claim's view of a lane.
type look struct {
	lane  *lane
	room  int
	from  jobs.Place
	woken jobs.Place // where something new came while it was under way
}

func (ln *lane) configure(s *registry.Service) {
	ln.service, ln.typ, ln.bound = s.Name, s.ExecutionType, s.Concurrency
	ln.gates, ln.registered = gatesOf(s), s
	if ln.gates.Threshold == 0 {
		ln.tripped = false
	}
}

// gatesOf are the bounds that the registry sets for all agents together.
func gatesOf(s *registry.Service) jobs.Gates {
	p := &s.SecurityPolicy
	g := jobs.Gates{PerMinute: p.RateLimitPerMinute, PerHour: p.CostLimits.MaxInvocationsPerHour, USD: p.CostLimits.MaxCostPerHour}
	if c := p.CircuitBreaker; c != nil {
		g.Threshold, g.Recovery = c.FailureThreshold, time.Duration(c.RecoveryTimeout)*time.Second
	}
	return g
}

// gated tells whether a claim must ask what all agents have spent.
func (ln *lane) gated() bool { return ln.gates.Bounded() || ln.tripped }

func (ln *lane) room(free int) int {
	if ln.bound == 0 {
		return free
	}
	return min(free, ln.bound-ln.running-ln.reserved)
}

// wake says that jobs may wait behind the place.
func (ln *lane) wake(at jobs.Place) {
	if at.Before(ln.from) {
		ln.from = at
	}
	for _, l := range ln.looks {
		if at.Before(l.woken) {
			l.woken = at
		}
	}
}

// begin reserves room for a claim.
func (ln *lane) begin(room int) *look {
	l := &look{lane: ln, room: room, from: ln.from, woken: jobs.Last}
	ln.reserved += room
	ln.looks = append(ln.looks, l)
	return l
}

// end gives back what the look reserved. reached is the place up to which it
// took whatever was to be had; what came meanwhile is still to be looked at.
func (l *look) end(reached jobs.Place) {
	ln := l.lane
	l.release()
	if l.woken.Before(reached) {
		reached = l.woken
	}
	if ln.from.Before(reached) {
		ln.from = reached
	}
}

// undo says that the claim was not made.
func (l *look) undo() {
	l.release()
	l.lane.wake(l.from)
}

func (l *look) release() {
	l.lane.reserved -= l.room
	for i, other := range l.lane.looks {
		if other == l {
			l.lane.looks = append(l.lane.looks[:i], l.lane.looks[i+1:]...)
			return
		}
	}
}

// obey takes note of what a claim found of the lane's gates, and returns when
// to look again; zero: nothing but a wake-up makes sense.
func (ln *lane) obey(g jobs.Gate, now time.Time) (again time.Duration) {
	switch {
	case g.Busy: // another agent is claiming from it
		again = time.Millisecond + rand.N(8*time.Millisecond)
	case g.Opens > 0:
		again = ln.patience(g.Opens)
	default:
		ln.closed = time.Time{}
		return 0
	}
	ln.closed = now.Add(again)
	return again
}
