package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Agent claims jobs and runs them. Its methods may be called by any goroutine.
type Agent struct {
	opt    Options
	log    *slog.Logger
	ledger *ledger
	crew   *crew
	conn   *pgx.ConnConfig

	// exchanging is held shared by every exchange and alone by the recovery
	// of claims whose answer was lost.
	exchanging sync.RWMutex
	doubt      atomic.Bool // a claim's answer was lost

	unregistered atomic.Bool // the incarnation is not in the table yet

	pulse     chan time.Duration // a heartbeat is wanted in so long
	chore     chan time.Duration // a retry is due in so long
	circuits  atomic.Bool        // some circuit may have changed
	switches  atomic.Bool        // so may some service's switch
	fullLook  atomic.Int64       // nanoseconds that the last look through whole lanes took
	counts    counts
	vitals    *vitals
	failures  failureLog
	exchanges exchangeLog
	halt      chan struct{} // closed when running jobs shall stop at once
	haltOne   sync.Once

	following sync.Mutex // one registry is applied at a time
	fallbacks []string   // services that run by http in place of their type; under following

	mu        sync.Mutex
	rejected  string    // why the registry file on disk is not applied
	appliedAt time.Time // when the one in use was
	draining  bool
	wanted    string     // by operators
	before    jobs.ID    // the incarnation that was registered before this one
	shown     string     // the state that the last heartbeat told
	reloadAt  *time.Time // when operators last asked for a reload
	reloaded  *time.Time // that of them which was carried out
	reload    func()     // looks at the registry file; nil: nobody follows it

	spender   *spender
	logs      *logs
	chronicle *chronicle
	duties    []*duty

	// The rest is keepLease's own.
	polled    time.Time
	drainFrom time.Time
	doubted   registration
	published *registry.Config
	lanesSeen time.Time
}

// counts are what happened since the start.
type counts struct {
	takenOver, leasesLost, lateResults atomic.Int64
	applied, rejected                  atomic.Int64 // registry files
	unfitInputs, unfitOutputs          atomic.Int64 // documents that did not fit their schemas
}

// New checks the options; it starts nothing and connects to nothing.
func New(o Options) (*Agent, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	conn, err := pgx.ParseConfig(o.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("agent: database URL: %w", err)
	}
	conn.RuntimeParams["application_name"] = "specql-agent " + o.Name
	a := &Agent{opt: o, log: o.Log, conn: conn,
		ledger: newLedger(o.Slots, o.Connections, o.types()), pulse: make(chan time.Duration, 1), chore: make(chan time.Duration, 1), wanted: jobs.AgentRunning, halt: make(chan struct{}),
		vitals: newVitals(), spender: newSpender(), logs: newLogs(), appliedAt: time.Now()}
	a.crew, a.ledger.mostCost = newCrew(a.run), a.mostCost
	a.chronicle, a.duties = newChronicle(o.Config), a.newDuties()
	a.ledger.apply(o.Config, a.cannot(o.Config))
	return a, nil
}

// Apply makes config the registry that claims follow from now on. Attempts
// under way keep the snapshot that they were started with.
func (a *Agent) Apply(config *registry.Config) {
	a.mu.Lock()
	before := a.opt.Config
	a.opt.Config, a.rejected, a.appliedAt = config, "", time.Now()
	a.mu.Unlock()
	a.chronicle.applied(config, before)
	a.counts.applied.Add(1)
	a.follow(config)
	a.pulseIn(0)
	a.log.Info("registry applied", "file", config.File, "hash", config.Hash, "services", len(config.Services))
}

// Reject records why the file on disk is not applied; the last good one goes
// on, and consoles show the reason.
func (a *Agent) Reject(reason string) {
	a.mu.Lock()
	a.rejected = reason
	a.mu.Unlock()
	a.chronicle.rejected(reason)
	a.counts.rejected.Add(1)
	a.pulseIn(0)
	a.log.Error("registry not applied, the last good one goes on", "reason", reason)
}

// Halt ends a drain at once: what still runs is stopped and handed back.
func (a *Agent) Halt() { a.haltOne.Do(func() { close(a.halt) }) }

func (a *Agent) halted() bool {
	select {
	case <-a.halt:
		return true
	default:
		return false
	}
}

// Run works until ctx ends, then drains: it claims no more, lets running jobs
// finish for the drain time, hands back the rest and leaves. The error is nil
// after an orderly stop, and says so when results could not be recorded within
// a lease because the database is gone; a database that cannot be used at the start is an
// error at once, one that is slow then, or is lost later, is waited for.
func (a *Agent) Run(ctx context.Context) error {
	first, err := a.connect(ctx, forUpkeep)
	if err != nil {
		return jobs.RefusedByPooler(err, a.conn)
	}
	if err := jobs.CheckOwnSession(ctx, first); err != nil {
		first.Close(context.WithoutCancel(ctx))
		return err
	}
	a.sweep()
	a.ledger.become(jobs.NewID())
	switch err := a.register(ctx, first); {
	case err == nil:
	case ctx.Err() == nil && (jobs.Locked(err) || errors.Is(err, context.DeadlineExceeded)):
		a.log.Warn("not registered yet: the database is slow, or somebody holds jobs.tb_agent locked; trying on", "error", err)
		a.unregistered.Store(true)
	default:
		first.Close(context.WithoutCancel(ctx))
		return err
	}
	a.tellRunners(a.config())
	a.vitals.connected(forHeartbeats)
	a.log.Info("agent started", "name", a.opt.Name, "slots", a.opt.Slots, "types", a.opt.types(), "lease", a.opt.Lease)

	// Heartbeats and exchanges outlive ctx: they end when the drain is over.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var side, loops sync.WaitGroup
	defer a.crew.dismiss()
	side.Go(func() { a.keepLease(working, first) })
	side.Add(1)
	go a.open(working, forWakeUps, side.Done, a.listen)
	side.Go(func() { a.keepChronicle(working) })
	side.Go(func() { a.keepLogs(working) })
	for _, d := range a.duties {
		side.Go(func() { a.attend(working, d) })
	}
	for range a.opt.Connections {
		loops.Add(1)
		go a.open(working, forQueue, loops.Done, a.exchange)
	}
	<-ctx.Done()
	a.drain()
	// The loops end by themselves when nothing is unrecorded. A database that
	// does not come back for a lease ends them: others have the jobs by then.
	giveUp := time.AfterFunc(a.opt.Lease, stop)
	loops.Wait()
	giveUp.Stop()
	stop()
	side.Wait()
	a.spender.close()
	if _, unrecorded := a.ledger.state(); unrecorded > 0 {
		return errors.Join(fmt.Errorf("stopped with %d results unrecorded: these jobs will run again", unrecorded), a.leave())
	}
	return a.leave()
}

// drain stops claiming and waits for what runs.
func (a *Agent) drain() {
	a.mu.Lock()
	a.draining = true
	a.mu.Unlock()
	a.ledger.close()
	a.pulseIn(0)
	running, _ := a.ledger.state()
	a.log.Info("draining", "running", running, "timeout", a.opt.Drain)
	timeout := time.NewTimer(a.opt.Drain)
	defer timeout.Stop()
	halt := a.halt
	for {
		select {
		case <-a.ledger.over:
			return
		case <-timeout.C:
			a.Halt()
		case <-halt: // an attempt that begins after this sees it itself
			a.ledger.cancelAll(errDrained)
			halt = nil
		}
	}
}

func (a *Agent) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := a.connect(ctx, forUpkeep)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	a.log.Info("agent stopped", "name", a.opt.Name)
	return jobs.Leave(ctx, conn, a.ledger.incarnation())
}

func (a *Agent) info() jobs.AgentInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	host, _ := os.Hostname()
	running, _ := a.ledger.state()
	info := jobs.AgentInfo{ID: a.ledger.incarnation(), Before: a.before, Name: a.opt.Name, Host: host, PID: os.Getpid(),
		Version: a.opt.Version, Environment: a.opt.Config.Env, Types: a.opt.types(), Slots: a.opt.Slots,
		Running: running, Isolation: a.opt.Isolation,
		Abilities: a.opt.Abilities.json(), Cannot: a.ledger.cannotRun(), RegistryHash: a.opt.Config.Hash,
		RegistryError: a.rejected, State: a.stateWord(running), Wanted: a.wanted, Reloaded: a.reloaded}
	a.shown = info.State
	return info
}

func (a *Agent) connect(ctx context.Context, what string) (*pgx.Conn, error) {
	connect := jobs.Connect
	if what == forQueue || what == forWakeUps {
		connect = jobs.ConnectForExchanges
	}
	return connect(ctx, a.conn, jobs.Patience{Network: a.opt.Lease, Lock: max(a.opt.Lease/5, 500*time.Millisecond)})
}

// reconnect tries until it has a connection or ctx ends, at once where none was
// lost.
func (a *Agent) reconnect(ctx context.Context, what string, cause error) *pgx.Conn {
	const least = 50 * time.Millisecond
	wait := time.Duration(0)
	if cause != nil {
		wait = least
		if ctx.Err() == nil {
			a.vitals.disconnected(what)
		}
	}
	for ctx.Err() == nil {
		if what == forHeartbeats {
			a.vitals.alive()
		}
		if cause != nil && !errors.Is(cause, context.Canceled) {
			a.log.Warn("database connection lost", "for", what, "error", cause, "again_in", wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		conn, err := a.connect(attempt, what)
		cancel()
		if err == nil {
			a.vitals.connected(what)
			return conn
		}
		cause, wait = err, min(max(2*wait, least), 5*time.Second)
	}
	return nil
}
