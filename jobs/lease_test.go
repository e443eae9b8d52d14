package jobs_test

import (
	"errors"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// A heartbeat that arrives in time and is carried out too late, on a machine
// that is overloaded, say, finds its lease lost: others may have the jobs.
func TestAHeartbeatThatIsCarriedOutAfterTheLeaseRevivesNothing(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	conn, other := connect(t, url), connect(t, url)
	info := jobs.AgentInfo{ID: jobs.NewID(), Name: "agent", State: jobs.AgentRunning, Slots: 1, Types: []jobs.ExecutionType{jobs.HTTP}}
	if err := jobs.Register(t.Context(), conn, info, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "UPDATE jobs.tb_agent SET running = 1 WHERE id = $1", info.ID); err != nil {
		t.Fatal(err)
	}
	beat := make(chan error, 1)
	go func() {
		_, err := jobs.Heartbeat(t.Context(), conn, info, time.Minute)
		beat <- err
	}()
	if _, err := tx.Exec(t.Context(), "SELECT pg_sleep(extract(epoch FROM lease_expires_at - clock_timestamp())) FROM jobs.tb_agent WHERE id = $1", info.ID); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-beat; !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("the heartbeat ended with %v, want %v", err, jobs.ErrLeaseLost)
	}
}

// A heartbeat that was carried out in time, and whose commit the disk holds up
// beyond the old lease, keeps the agent's jobs.
func TestAHeartbeatThatIsCommittedLateKeepsItsJobs(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	conn, other := connect(t, url), connect(t, url)
	info := jobs.AgentInfo{ID: jobs.NewID(), Name: "agent", State: jobs.AgentRunning, Slots: 1, Types: []jobs.ExecutionType{jobs.HTTP}}
	if err := jobs.Register(t.Context(), conn, info, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, attempts, agent_id, started_at)
		VALUES ('held', 'billing', 'charge', 'running', 1, $1, now())`, info.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.Heartbeat(t.Context(), conn, info, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), "SELECT pg_sleep(extract(epoch FROM lease_expires_at - clock_timestamp())) FROM jobs.tb_agent WHERE id = $1", info.ID); err != nil {
		t.Fatal(err)
	}
	for _, moment := range []string{"before", "after"} {
		if n, err := jobs.TakeOver(t.Context(), other); err != nil || n != 0 {
			t.Errorf("%s the commit %d jobs were taken over (%v), want none", moment, n, err)
		}
		if moment == "before" {
			if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Whoever has lost the answer to a registration repeats it: that renews the lease
// while it runs, and revives nothing afterwards.
func TestARepeatedRegistrationRenewsALeaseThatRuns(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	info := jobs.AgentInfo{ID: jobs.NewID(), Name: "agent", State: jobs.AgentRunning, Slots: 1, Types: []jobs.ExecutionType{jobs.HTTP}}
	left := func() (seconds float64) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT extract(epoch FROM lease_expires_at - clock_timestamp())::float8 FROM jobs.tb_agent WHERE id = $1", info.ID).Scan(&seconds); err != nil {
			t.Fatal(err)
		}
		return seconds
	}
	for _, lease := range []time.Duration{time.Hour, 3 * time.Hour} {
		if err := jobs.Register(t.Context(), conn, info, lease); err != nil {
			t.Fatal(err)
		}
		if has := left(); has > lease.Seconds() || has < lease.Seconds()/2 {
			t.Errorf("a registration for %s leaves %.0f s", lease, has)
		}
	}
	if _, err := conn.Exec(t.Context(), "UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE id = $1", info.ID); err != nil {
		t.Fatal(err)
	}
	if err := jobs.Register(t.Context(), conn, info, time.Hour); !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("a registration repeated after its lease ended with %v, want %v", err, jobs.ErrLeaseLost)
	}
	if has := left(); has > 0 {
		t.Errorf("the lease that had run out runs for %.0f s more", has)
	}
}
