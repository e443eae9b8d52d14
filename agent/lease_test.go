package agent

import (
	"testing"
	"time"

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
