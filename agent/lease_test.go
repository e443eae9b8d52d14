package agent

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// The database counts a lease from the heartbeat's beginning, however long its
// answer takes; an agent that counted from the answer would go on with jobs
// that others have taken over.
func TestAgentNeverBelievesInItsLeaseForLongerThanTheDatabaseDoes(t *testing.T) {
	w := newWorld(t)
	const lease = 9 * time.Second
	a, _ := w.start(Options{Lease: lease, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("registered", func() bool { return w.state(a) != "" })
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "SELECT FROM jobs.tb_agent WHERE id = $1 FOR UPDATE", a.ledger.incarnation()); err != nil {
		t.Fatal(err)
	}
	a.pulseIn(0)
	w.until("the heartbeat waits", func() bool {
		var n int
		w.scan(&n, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
		return n > 0
	})
	before := a.vitals.renewedAt()
	if _, err := tx.Exec(w.ctx, "SELECT pg_sleep(0.5)"); err != nil { // its answer takes so long
		t.Fatal(err)
	}
	if err := tx.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.until("it is renewed", func() bool { return a.vitals.renewedAt().After(before) })
	believes, at := a.vitals.renewedAt().Add(lease), time.Now()
	var left float64
	w.scan(&left, "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM jobs.tb_agent WHERE id = $1", a.ledger.incarnation())
	if has := at.Add(time.Duration(left * float64(time.Second))).Add(time.Since(at)); believes.After(has) {
		t.Errorf("the agent believes in its lease for %s longer than the database", believes.Sub(has))
	}
}

// The answer of a heartbeat may be lost that the database has carried out: then
// the agent's own count of its lease runs out first. What it stops was begun,
// and is neither left running in the table nor handed back as never begun.
func TestWhatIsStoppedWithTheAgentsOwnCountOfItsLeaseIsTakenOver(t *testing.T) {
	w := newWorld(t)
	begun, stopped := make(chan struct{}, 10), make(chan struct{}, 10)
	a, _ := w.start(Options{Lease: time.Second, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, c runners.Call) (runners.Result, error) {
		if c.Job.Attempt > 1 {
			return runners.Result{}, nil
		}
		begun <- struct{}{}
		<-ctx.Done()
		stopped <- struct{}{}
		return runners.Result{}, ctx.Err()
	}}}})
	w.enqueue(3, "a")
	for range 3 {
		<-begun
	}
	first := a.ledger.incarnation()
	tx, err := w.pool.Begin(w.ctx) // heartbeats wait for it
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "UPDATE jobs.tb_agent SET lease_expires_at = now() + interval '1 hour' WHERE id = $1", first); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		<-stopped
	}
	a.doubt.Store(true)
	if err := tx.Commit(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.until("the agent is another incarnation", func() bool {
		return w.state(a) == jobs.AgentRunning && a.ledger.incarnation() != first
	})
	w.until("its connections are sure of their claims", func() bool {
		a.ledger.wake(jobs.First)
		return !a.doubt.Load()
	})
	w.exec("UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE id = $1", first)
	w.until("the jobs are done", func() bool { return w.count("status = 'completed' AND attempts = 2") == 3 })
}

// TestAnOrderOutlivesTheLeaseOfTheAgentThatItWasGivenTo: whoever was told to pause
// does not go on because its lease ran out before it heard of it, and whoever was
// told to resume does not stay paused.
func TestAnOrderOutlivesTheLeaseOfTheAgentThatItWasGivenTo(t *testing.T) {
	w := newWorld(t)
	a, _ := w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	for _, wanted := range []string{jobs.AgentPaused, jobs.AgentDrained, jobs.AgentRunning} {
		w.until("the agent is registered", func() bool { return w.state(a) != "" })
		id := a.ledger.incarnation()
		w.exec("UPDATE jobs.tb_agent SET wanted = $2, lease_expires_at = now() WHERE id = $1", id, wanted)
		w.until("the agent is another incarnation, and "+wanted, func() bool { return a.ledger.incarnation() != id && w.state(a) == wanted })
	}
}

// Whoever starts agents while somebody alters their table, or while the server is
// slow, would else find none when that is over.
func TestAnAgentThatCannotRegisterAtOnceTriesOn(t *testing.T) {
	w := newWorld(t)
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(w.ctx)
	if _, err := tx.Exec(w.ctx, "LOCK TABLE jobs.tb_agent IN SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	var log journal
	a, _ := w.start(Options{Lease: time.Second, Log: log.logger(slog.LevelWarn), Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("it says that it could not", func() bool { return len(log.lines("not registered yet")) > 0 })
	w.enqueue(3, "a")
	if err := tx.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.until("it has registered, and runs the jobs", func() bool { return w.state(a) == jobs.AgentRunning && w.count("status = 'completed'") == 3 })
}

// deaf loses the answer to one registration, which is carried out.
type deaf struct {
	net.Conn
	lost      *atomic.Bool
	prepared  bool
	swallowed bool
}

func (d *deaf) Write(p []byte) (int, error) {
	d.swallowed = d.swallowed || d.prepared && d.lost.CompareAndSwap(false, true)
	d.prepared = d.prepared || bytes.Contains(p, []byte("INSERT INTO jobs.tb_agent "))
	return d.Conn.Write(p)
}

func (d *deaf) Read(p []byte) (n int, err error) {
	n, err = d.Conn.Read(p)
	for d.swallowed && err == nil {
		n, err = d.Conn.Read(p)
	}
	return n, err
}

// The disk may hold up the commit of a registration for longer than the agent waits
// for its answer. It has been registered then, and goes on as such.
func TestARegistrationWhoseAnswerIsLostCounts(t *testing.T) {
	w := newWorld(t)
	const lease = 9 * time.Second
	var log journal
	a, err := New(Options{DatabaseURL: w.url, Lease: lease, Log: log.logger(slog.LevelWarn), Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	if err != nil {
		t.Fatal(err)
	}
	var first jobs.ID
	var lost atomic.Bool
	a.conn.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, c net.Conn) (net.Conn, error) {
		return &deaf{Conn: c, lost: &lost}, nil
	}
	asked := time.Now()
	w.run(a)
	w.until("the answer is lost", func() bool { return len(log.lines("not registered yet")) > 0 })
	w.scan(&first, "SELECT id FROM jobs.tb_agent")
	w.enqueue(3, "a")
	w.until("it runs the jobs", func() bool { return w.count("status = 'completed'") == 3 })
	select {
	case <-a.Registered():
	case <-w.ctx.Done():
		t.Fatal("it never knew that it was registered")
	}
	if is := a.ledger.incarnation(); is != first || !lost.Load() {
		t.Errorf("the agent has become %s, and was %s when its answer was lost (%t)", is, first, lost.Load())
	}
	// The doubt is over: what is lost later counts from the last heartbeat.
	w.until("a heartbeat later than the unanswered registration's lease", func() bool { return a.vitals.renewedAt().After(asked.Add(lease)) })
	before := a.vitals.renewedAt()
	w.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'specql-agent %'")
	w.until("a heartbeat on another connection", func() bool { return a.vitals.renewedAt().After(before) })
	if is := a.ledger.incarnation(); is != first {
		t.Errorf("the agent has become %s after its connections were lost, and was %s", is, first)
	}
	var n int
	if w.scan(&n, "SELECT count(*) FROM jobs.tb_agent"); n != 1 {
		t.Errorf("%d agents are registered, want 1", n)
	}
}
