package migrations

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb"
)

// manyRows make an index build last long enough to be met in the middle.
const manyRows = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, attempts, started_at, completed_at)
SELECT 'many-' || n, 'stripe', 'charge', 'completed', 1, now() - interval '2 seconds', now() FROM generate_series(1, 30000) n`

// TestAServerThatRestartsAtAnyStepIsMigratedByTheNextRun restarts PostgreSQL
// under a migration: before the step's statement is sent, as by an operator, and
// while it is carried out, as by a crash.
func TestAServerThatRestartsAtAnyStepIsMigratedByTheNextRun(t *testing.T) {
	server, err := devdb.Start(t.Context(), devdb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := server.CreateDatabase(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	url := server.URL("shop")
	seed := connect(t, url)
	if _, err := seed.PgConn().Exec(t.Context(), appschema.HTTPOnlyEarly+";"+oldRows+";"+manyRows).ReadAll(); err != nil {
		t.Fatal(err)
	}
	seed.Close(t.Context())
	before := asItWas(t, url)

	var versions []int
	for _, m := range List() {
		versions = append(versions, m.Version)
	}
	interrupted, tries := 0, 0
	for i, s := range sequence(versions, false) {
		if s.step.Work == "" && i%8 != 0 {
			continue // one of eight stands for the quick ones
		}
		crash := tries%2 == 1
		restarted := make(chan error, 1)
		met := false
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Apply(t.Context(), conn, Options{Progress: func(p Progress) {
			if met || p.State != Running || p.Step != s.step.Name || p.Migration != s.m.String() || p.Index != s.index {
				return
			}
			met = true
			tries++
			if crash {
				go func() { restarted <- server.Restart(t.Context(), true) }()
			} else {
				restarted <- server.Restart(t.Context(), false)
			}
		}})
		conn.Close(t.Context())
		switch {
		case !met && err != nil:
			t.Fatalf("before %s: %v", s.step.Name, err)
		case !met:
			continue // the run before had come further
		case err != nil:
			interrupted++
		}
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
	}
	if interrupted < tries/2 || interrupted < 8 {
		t.Errorf("%d of %d restarts interrupted a migration", interrupted, tries)
	}
	apply(t, url, Options{})
	migrated(t, url)
	conn := connect(t, url)
	if n := value[int](t, conn, "SELECT count(*)::int FROM jobs.tb_job_run WHERE status = 'completed' AND duration_seconds IS NULL"); n > 0 {
		t.Errorf("%d finished rows have no duration", n)
	}
	for step := 0; ; step++ {
		// The way down, restarted at every eighth step, comes to its end too.
		met := false
		_, err := Down(t.Context(), conn, Options{Progress: func(p Progress) {
			if !met && p.State == Running && p.Position == 8*(step+1) {
				met = true
				if err := server.Restart(t.Context(), false); err != nil {
					t.Error(err)
				}
			}
		}})
		if !met {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		conn = connect(t, url)
	}
	same(t, fmt.Sprintf("after Down, restarted %d times", tries), asItWas(t, url), before)
}
