package agent

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Batches stay below the size at which a round trip starts to cost latency.
const maxBatch = 2000

// metricsEvery is how long counts gather before they ride along with an
// exchange. An agent that is killed loses at most so much of its figures,
// never a job.
const metricsEvery = 500 * time.Millisecond

// ledger is the agent's account of slots, lanes, attempts and results. All
// decisions about "how much room" are made here, under one lock, without I/O.
type ledger struct {
	mu       sync.Mutex
	free     int // slots neither running, nor unrecorded, nor asked for
	types    map[jobs.ExecutionType]bool
	config   *registry.Config
	cannot   map[string]string // services of config that this host cannot run, and why
	lanes    []*lane           // of the present snapshot, in the registry's order
	byName   map[string]*lane  // lower case; survives a reload
	next     int               // the lane that is asked first, rotating
	active   []*lane           // of many lanes, those that may have jobs
	woken    jobs.Place        // the earliest wake-up that no claim has taken along
	left     leaving           // what a claim has left of lanes with gates to the next one
	coldDue  time.Time         // when lanes that were empty are looked at again
	searched time.Duration     // what the last search among many lanes took
	paused   bool              // no claims until resumed
	closed   bool              // no more claims
	over     chan struct{}     // closed when it is closed, nothing runs and nothing will
	running  map[jobs.ID]*attempt
	ending   map[*attempt]bool               // their job was taken away, and came back before they ended
	agent    jobs.ID                         // the present incarnation
	results  map[jobs.ID]*outbox             // by incarnation
	ended    int                             // results that wait to be recorded
	loops    int                             // that make exchanges
	quorum   int                             // results that are worth an exchange beside another
	flying   int                             // exchanges under way
	asking   int                             // those of them that claim
	aloft    int                             // results and costs in them
	taken    time.Time                       // when the last of them was
	first    time.Time                       // when the first result came that waits
	usual    int                             // how many were taken the last time, for the room of the next outbox
	costs    []jobs.Cost                     // that wait to be settled
	busy     map[*lane]*runners.BusyError    // why lanes were left, to be told
	mostCost func(*registry.Service) float64 // what one attempt may cost; nil: nothing has a price
	aside    map[*aside]bool                 // results that wait until they are to be sent again
	metrics  metrics
	flushed  time.Time

	totals    totals
	unwritten []jobs.Metric // the totals have them; the table does not yet
	signal    chan struct{} // something may be to do; capacity: the number of loops
}

// outbox holds what an incarnation finished and has not yet recorded.
type outbox struct {
	completed []jobs.Completion
	failed    []jobs.Failure
	handBack  []jobs.HandBack
	circuits  map[*lane]*jobs.Circuit
	lanes     []*lane // of each result, for the room that recording it frees
}

func (o *outbox) len() int { return len(o.completed) + len(o.failed) + len(o.handBack) }

func newLedger(slots, loops int, types []jobs.ExecutionType) *ledger {
	l := &ledger{free: slots, loops: loops, quorum: slots / (2 * loops), types: map[jobs.ExecutionType]bool{}, byName: map[string]*lane{}, woken: jobs.Last,
		running: map[jobs.ID]*attempt{}, ending: map[*attempt]bool{}, results: map[jobs.ID]*outbox{}, aside: map[*aside]bool{}, over: make(chan struct{}), busy: map[*lane]*runners.BusyError{}, metrics: metrics{},
		totals: totals{}, signal: make(chan struct{}, loops)}
	for _, t := range types {
		l.types[t] = true
	}
	return l
}

// apply makes config the one that the next claims follow. Lanes that stay keep
// their account. Services that this host cannot run are left to others.
func (l *ledger) apply(config *registry.Config, cannot map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config, l.cannot = config, cannot
	l.totals.forget(config)
	l.lanes, l.active = make([]*lane, 0, len(config.Services)), nil
	for _, ln := range l.byName {
		ln.listed, ln.active = false, false
	}
	for _, s := range config.Services {
		if !l.types[s.ExecutionType] || cannot[s.Name] != "" {
			continue
		}
		name := strings.ToLower(s.Name)
		ln := l.byName[name]
		if ln == nil {
			ln = &lane{from: jobs.Last}
			l.byName[name] = ln
		}
		ln.configure(s)
		ln.listed = true
		l.lanes = append(l.lanes, ln)
	}
	l.wakeLocked(jobs.First)
}

// wake says that jobs may have come to wait behind a place in any lane.
func (l *ledger) wake(at jobs.Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeLocked(at)
}

func (l *ledger) wakeLocked(at jobs.Place) {
	if at.Before(l.woken) {
		l.woken = at
	}
	l.poke() // one loop takes all that there is
}

// pokeAll lets every waiting loop look again.
func (l *ledger) pokeAll() {
	for range cap(l.signal) {
		select {
		case l.signal <- struct{}{}:
		default:
			return
		}
	}
}

func (l *ledger) poke() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// pause stops claiming, or lets it go on.
func (l *ledger) pause(stop bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused != stop {
		l.paused = stop
		l.pokeAll()
	}
}

// reopen looks at all lanes anew, also at those that were found closed:
// somebody has changed what holds them.
func (l *ledger) reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ln := range l.lanes {
		ln.closed = time.Time{}
	}
	l.wakeLocked(jobs.First)
}

// trip notes that services' circuits are not closed: their gates are asked
// with the next claim. All others are closed.
func (l *ledger) trip(services []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ln := range l.lanes {
		if ln.gates.Threshold == 0 {
			continue
		}
		tripped := slices.Contains(services, ln.service)
		if ln.tripped || tripped {
			ln.closed = time.Time{}
			ln.wake(jobs.First)
		}
		ln.tripped = tripped
	}
	l.pokeAll()
}

// close ends claiming.
func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.seeEnd()
	l.pokeAll()
}

// seeEnd notices that no attempt runs or will run any more.
func (l *ledger) seeEnd() {
	if !l.closed || len(l.running)+len(l.ending)+l.asking > 0 {
		return
	}
	select {
	case <-l.over: // noticed before
	default:
		close(l.over)
		l.pokeAll()
	}
}

// finished tells whether all is over and recorded.
func (l *ledger) finished() bool {
	select {
	case <-l.over:
		_, unrecorded := l.state()
		return unrecorded == 0
	default:
		return false
	}
}

// state returns how many attempts run and how many results are not known to be
// recorded.
func (l *ledger) state() (running, unrecorded int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unrecorded = l.ended + len(l.costs) + l.aloft
	for a := range l.aside {
		unrecorded += a.out.len()
	}
	return len(l.running) + len(l.ending), unrecorded
}

// exchanging tells whether a claim or results are under way.
func (l *ledger) exchanging() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flying > 0
}

// pace returns how many attempts run and how many results wait for an exchange.
func (l *ledger) pace() (running, ended int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.running) + len(l.ending), l.ended
}

// become makes id the incarnation that claims from now on.
func (l *ledger) become(id jobs.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.agent = id
	l.wakeLocked(jobs.First)
}

func (l *ledger) incarnation() jobs.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.agent
}
