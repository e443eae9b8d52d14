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
