package agent

import (
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// attempt is a running job.
type attempt struct {
	job     *jobs.Job
	config  *registry.Config
	service *registry.Service // of config; nil: it has no such service
	lane    *lane
	agent   jobs.ID
	log     runners.Log
	shown   bool // somebody followed the log
	silent  bool // it says no more

	stoppable attemptContext // from the claim on, also before the attempt begins

	reserved float64 // USD that the claim set aside for it
}

// outcome is how an attempt ended. At most one of its results is given; with
// none there is nothing to record and the slot is free at once.
type outcome struct {
	completed *jobs.Completion
	failed    *jobs.Failure
	handBack  bool
	circuit   verdict
	cost      *float64           // USD; nil: nobody knows
	busy      *runners.BusyError // it was not started
}

// verdict is what an attempt's end says of its service.
type verdict int

const (
	nothing verdict = iota // it says nothing: stopped, refused, or asked for something wrong
	well
	failing
)

func (o *outbox) circuit(ln *lane) *jobs.Circuit {
	if o.circuits == nil {
		o.circuits = map[*lane]*jobs.Circuit{}
	}
	c := o.circuits[ln]
	if c == nil {
		c = &jobs.Circuit{Service: ln.service}
		o.circuits[ln] = c
	}
	return c
}

func (l *ledger) box(agent jobs.ID) *outbox {
	box := l.results[agent]
	if box == nil {
		box = &outbox{completed: make([]jobs.Completion, 0, l.usual), lanes: make([]*lane, 0, l.usual)}
		l.results[agent] = box
	}
	return box
}

// finish takes an attempt's end.
func (l *ledger) finish(a *attempt, o outcome, tally func(*ledger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[a.job.ID] == a {
		delete(l.running, a.job.ID)
	} else {
		delete(l.ending, a)
	}
	defer l.seeEnd()
	tally(l)
	l.settleCost(a, o.cost)
	if o.busy != nil {
		l.leave(a, o.busy, time.Now())
	}
	if o.completed == nil && o.failed == nil && !o.handBack {
		l.free++
		a.lane.running--
		l.poke()
		return
	}
	box := l.box(a.agent)
	switch {
	case o.completed != nil:
		box.completed = append(box.completed, *o.completed)
	case o.failed != nil:
		box.failed = append(box.failed, *o.failed)
	default:
		box.handBack = append(box.handBack, jobs.HandBack{Job: a.job, Unstarted: o.busy != nil})
	}
	box.lanes = append(box.lanes, a.lane)
	if a.lane.gates.Threshold > 0 {
		switch o.circuit {
		case well:
			*box.circuit(a.lane) = jobs.Circuit{Service: a.lane.service, Reset: true}
		case failing:
			box.circuit(a.lane).Failures++
		}
	}
	l.ended++
	if l.ended == 1 {
		l.first = time.Now()
	}
	if l.ended == 1 || l.ended >= l.quorum { // in between take has said when it looks again
		l.poke()
	}
}

// cancel stops one attempt with its cause.
func (l *ledger) cancel(id jobs.ID, cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.running[id]
	if a == nil {
		return false
	}
	a.stoppable.end(cause)
	return true
}

// attempt is the one of a job that runs here; nil: none does.
func (l *ledger) attempt(id jobs.ID) *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[id]
}

// cancelAll stops every attempt with its cause.
func (l *ledger) cancelAll(cause error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.running {
		a.stoppable.end(cause)
	}
	for a := range l.ending {
		a.stoppable.end(cause)
	}
	return len(l.running) + len(l.ending)
}

// known returns the present incarnation and the jobs that the agent holds as
// it: running or with a result to record.
func (l *ledger) known() (agent jobs.ID, ids []jobs.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	agent = l.agent
	ids = make([]jobs.ID, 0, len(l.running))
	for id, a := range l.running {
		if a.agent == agent {
			ids = append(ids, id)
		}
	}
	if box := l.results[agent]; box != nil {
		ids = append(ids, box.ids()...)
	}
	for a := range l.aside {
		if a.agent == agent {
			ids = append(ids, a.out.ids()...)
		}
	}
	return agent, ids
}
