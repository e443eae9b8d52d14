package agent

import (
	"slices"
	"sync"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Stats are an agent's figures at one moment, for /metrics and the like.
type Stats struct {
	Name    string
	Version string
	Types   []jobs.ExecutionType // that the agent takes
	Lease   time.Duration
	State   string // jobs.AgentRunning, …

	Slots      int
	Running    int
	Unrecorded int // results that are not known to be recorded

	Totals []Total // of the present registry's operations that ran

	LeasesLost  int64
	TakenOver   int64 // jobs of agents whose lease ran out, by this agent
	LateResults int64 // results that no longer counted

	UnfitInputs, UnfitOutputs int64 // documents that did not fit their schemas

	Registry  *registry.Config // the snapshot that claims follow
	AppliedAt time.Time        // when it was
	Rejected  string           // why the file on disk is not applied; empty: it is
	Reloads   Reloads

	Connected  map[string]bool // queue, heartbeats, wake-ups: whether all connections for it stand
	Reconnects int64

	Exchanges Exchanges
	Closed    []string // services whose rate, budget or circuit holds them, as this agent's last claim found
}

// Services are those of the registry whose type the agent takes.
func (s *Stats) Services() []*registry.Service {
	var taken []*registry.Service
	for _, service := range s.Registry.Services {
		if slices.Contains(s.Types, service.ExecutionType) {
			taken = append(taken, service)
		}
	}
	return taken
}

// Reloads counts what became of changed registry files.
type Reloads struct{ Applied, Rejected int64 }

// Exchanges are the round trips with the queue that were carried out.
type Exchanges struct {
	Count   int64
	Seconds float64
	Took    jobs.Histogram
	Results Sizes // that one recorded
	Claims  Sizes // that one got
}

// SizeBounds are the upper bounds of Sizes; one more holds what is above.
var SizeBounds = [...]int{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000}

// Sizes counts batches by their size.
type Sizes struct {
	Counts [len(SizeBounds) + 1]int64
	Sum    int64
}

func (s *Sizes) add(n int) {
	i := 0
	for i < len(SizeBounds) && n > SizeBounds[i] {
		i++
	}
	s.Counts[i]++
	s.Sum += int64(n)
}

// exchangeLog gathers Exchanges.
type exchangeLog struct {
	mu  sync.Mutex
	all Exchanges
}

func (l *exchangeLog) add(took time.Duration, results, claimed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Count++
	l.all.Seconds += took.Seconds()
	l.all.Took.Add(took)
	l.all.Results.add(results)
	l.all.Claims.add(claimed)
}

func (l *exchangeLog) read() Exchanges {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

// Stats reads the agent's figures. It never waits for the database, and holds
// up claims and results for as long as it takes to copy the totals.
func (a *Agent) Stats() Stats {
	s := Stats{Name: a.opt.Name, Version: a.opt.Version, Types: a.opt.types(), Lease: a.opt.Lease, Slots: a.opt.Slots,
		Totals: a.ledger.allTotals(), Closed: a.ledger.closedLanes(time.Now()), Exchanges: a.exchanges.read(),
		LeasesLost: a.counts.leasesLost.Load(), TakenOver: a.counts.takenOver.Load(), LateResults: a.counts.lateResults.Load(),
		UnfitInputs: a.counts.unfitInputs.Load(), UnfitOutputs: a.counts.unfitOutputs.Load(),
		Reloads: Reloads{Applied: a.counts.applied.Load(), Rejected: a.counts.rejected.Load()}}
	s.Running, s.Unrecorded = a.ledger.state()
	s.Connected, s.Reconnects = a.connections()
	a.mu.Lock()
	defer a.mu.Unlock()
	s.State = a.stateWord(s.Running)
	s.Registry, s.AppliedAt, s.Rejected = a.opt.Config, a.appliedAt, a.rejected
	return s
}

// closedLanes lists the services whose gates let nothing through now.
func (l *ledger) closedLanes(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var closed []string
	for _, ln := range l.lanes {
		if now.Before(ln.closed) {
			closed = append(closed, ln.service)
		}
	}
	return closed
}
