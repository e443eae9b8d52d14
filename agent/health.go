package agent

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/specql/specql-ops/jobs"
)

// What an agent's connections are for.
const (
	forQueue      = "queue"
	forUpkeep     = "upkeep" // and all else that is done once in a while
	forHeartbeats = "heartbeats"
	forWakeUps    = "wake-ups"
)

// Health is what probes ask of an agent.
type Health struct {
	// Stuck says what does not move although it should; empty: the process
	// works. A database that is away makes nothing stuck.
	Stuck []string
	// NotReady says why the agent takes no jobs now; empty: it does.
	NotReady []string
}

// Loops that are silent for so long are stuck. Each of their waits is bounded:
// the lease loop's by a third of the lease or a reconnection's five seconds
// and its pause, an exchange's by the lease, but one whose results are
// recorded one by one may make thousands.
const (
	leaseLoopSlack = 15 * time.Second
	exchangeSlack  = 5 * time.Minute
)

// vitals are the loops' signs of life and the state of what they depend on.
type vitals struct {
	origin     time.Time
	registered chan struct{} // closed by the first registration
	sign       atomic.Int64  // of the lease loop, as now; 0: not started, or at its end
	renewed    atomic.Int64  // when the lease was, as now; 0: never yet

	mu    sync.Mutex
	loops []*atomic.Int64 // since when an exchange is under way, as now; 0: none is
	up    map[string]int  // connections that stand, by what they are for
	lost  int64           // connections that were lost
}

func newVitals() *vitals {
	return &vitals{origin: time.Now(), registered: make(chan struct{}), up: map[string]int{}}
}

// now is a time that no change of the host's clock moves. It is never 0.
func (v *vitals) now() int64 { return int64(time.Since(v.origin)) + 1 }

func (v *vitals) since(t int64) time.Duration { return time.Duration(v.now() - t) }

// alive is the lease loop's sign of life.
func (v *vitals) alive() { v.sign.Store(v.now()) }

// renew notes that the lease runs anew since asked, a time of now: the database
// counts from some moment after that, so that the agent never believes in its
// lease for longer than the others do.
func (v *vitals) renew(asked int64) {
	if v.renewed.Swap(asked) == 0 {
		close(v.registered)
	}
}

func (v *vitals) renewedAt() time.Time { return v.origin.Add(time.Duration(v.renewed.Load())) }

// loop gives an exchange loop the place for its sign.
func (v *vitals) loop() *atomic.Int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	sign := &atomic.Int64{}
	v.loops = append(v.loops, sign)
	return sign
}

func (v *vitals) connected(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.up[what]++
}

func (v *vitals) disconnected(what string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.up[what]--
	v.lost++
}

// connections tells for each use whether all its connections stand.
func (a *Agent) connections() (stand map[string]bool, lost int64) {
	v := a.vitals
	v.mu.Lock()
	defer v.mu.Unlock()
	return map[string]bool{
		forQueue:      v.up[forQueue] >= a.opt.Connections,
		forHeartbeats: v.up[forHeartbeats] >= 1,
		forWakeUps:    v.up[forWakeUps] >= 1,
	}, v.lost
}

// Registered is closed once the agent has registered and takes jobs.
func (a *Agent) Registered() <-chan struct{} { return a.vitals.registered }

// Health tells whether the agent works and whether it takes jobs. It never
// waits for the database.
func (a *Agent) Health() Health {
	v := a.vitals
	var h Health
	if sign := v.sign.Load(); sign > 0 && v.since(sign) > a.opt.Lease+leaseLoopSlack {
		h.Stuck = append(h.Stuck, fmt.Sprintf("the lease loop has given no sign for %s", v.since(sign).Round(time.Second)))
	}
	v.mu.Lock()
	loops := slices.Clone(v.loops)
	v.mu.Unlock()
	for _, loop := range loops {
		if began := loop.Load(); began > 0 && v.since(began) > max(exchangeSlack, 10*a.opt.Lease) {
			h.Stuck = append(h.Stuck, fmt.Sprintf("an exchange with the queue has taken %s", v.since(began).Round(time.Second)))
		}
	}

	a.mu.Lock()
	state, rejected := a.stateWord(0), a.rejected
	a.mu.Unlock()
	switch renewed := v.renewed.Load(); {
	case renewed == 0:
		h.NotReady = append(h.NotReady, "not registered yet")
	case v.since(renewed) >= a.opt.Lease:
		h.NotReady = append(h.NotReady, fmt.Sprintf("the lease ran out: not renewed for %s", v.since(renewed).Round(time.Second)))
	}
	stand, _ := a.connections()
	for _, what := range slices.Sorted(maps.Keys(stand)) {
		if !stand[what] {
			h.NotReady = append(h.NotReady, "no database connection for "+what)
		}
	}
	if rejected != "" {
		h.NotReady = append(h.NotReady, "the registry on disk is not applied: "+rejected)
	}
	if state != jobs.AgentRunning {
		h.NotReady = append(h.NotReady, "the agent is "+state)
	}
	return h
}
