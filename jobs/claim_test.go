package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// A claim reads all that a row says, and what it leaves out as nothing, with gates
// and without, of one lane and of several.
func TestAClaimReadsWhatRowsSay(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := register(t, conn)
	gates := jobs.Gates{PerMinute: 600_000}
	settings := []jobs.LaneSettings{{Service: "a", Type: jobs.Shell, Gates: gates}}
	if err := jobs.PublishLanes(t.Context(), conn, "hash", settings); err != nil {
		t.Fatal(err)
	}
	lane := jobs.Lane{Service: "a", Type: jobs.Shell, Room: 5, From: jobs.First}
	other := jobs.Lane{Service: "b", Type: jobs.Shell, Room: 5, From: jobs.First}
	gated := lane
	gated.Gates = gates
	full := jobs.NewID()
	const tenant = "9aa260a2-3c55-4d7e-803b-9e8657e0f63a"
	created := time.Date(2026, 2, 3, 4, 5, 6, 789_012_000, time.UTC)
	for name, claim := range map[string]jobs.Claim{
		"one lane":     {Lanes: []jobs.Lane{lane}, Limit: 5},
		"several":      {Lanes: []jobs.Lane{lane, other}, Limit: 5},
		"one of gates": {Gated: []jobs.Lane{gated}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, sql := range []string{
				"DELETE FROM jobs.tb_job_run",
				fmt.Sprintf(`INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data, runner_config,
					security_context, attempts, max_attempts, timeout_seconds, tenant_id, correlation_id, idempotency_key, created_at)
					VALUES ('%s', 'ä full one', 'a', 'run', '{"n": 1}', '{"timeout": 7}', '{"by": "me"}', 2, 9, 77, '%s', 'c-1', 'key', '%s')`,
					full, tenant, created.Format(time.RFC3339Nano)),
				`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, attempts, max_attempts, created_at)
					VALUES ('empty', 'a', 'walk', NULL, NULL, NULL, NULL)`,
			} {
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			out, err := (&jobs.Exchange{Claim: claim}).Do(t.Context(), conn, agent)
			if err != nil || len(out.Claimed) != 2 {
				t.Fatalf("claimed %d jobs: %v", len(out.Claimed), err)
			}
			empty, got := out.Claimed[0], out.Claimed[1] // what waits since ever comes first
			if got.ID != full || got.Identifier != "ä full one" || got.Service != "a" || got.Operation != "run" ||
				got.Attempt != 3 || got.MaxAttempts != 9 || got.TimeoutSeconds != 77 ||
				got.TenantID != tenant || got.CorrelationID != "c-1" || got.IdempotencyKey != "key" {
				t.Errorf("read %+v", got)
			}
			for what, pair := range map[string][2]string{
				"input":            {string(got.Input), `{"n": 1}`},
				"runner config":    {string(got.RunnerConfig), `{"timeout": 7}`},
				"security context": {string(got.SecurityContext), `{"by": "me"}`},
			} {
				if !json.Valid([]byte(pair[0])) || pair[0] != pair[1] {
					t.Errorf("%s read as %q", what, pair[0])
				}
			}
			if !got.CreatedAt.Equal(created) || got.Place.Micros != created.UnixMicro() || got.Place.ID != full {
				t.Errorf("created %s, its place %+v", got.CreatedAt, got.Place)
			}
			var started time.Time
			if err := conn.QueryRow(t.Context(), "SELECT started_at FROM jobs.tb_job_run WHERE id = $1", full).Scan(&started); err != nil || !got.StartedAt.Equal(started) {
				t.Errorf("started %s, the row says %s, %v", got.StartedAt, started, err)
			}
			if empty.Identifier != "empty" || empty.Operation != "walk" || empty.Input != nil || empty.RunnerConfig != nil ||
				empty.Attempt != 1 || empty.MaxAttempts != 3 || empty.TimeoutSeconds != 0 || empty.TenantID != "" ||
				empty.CorrelationID != "" || empty.IdempotencyKey != "" || !empty.CreatedAt.Equal(empty.StartedAt) {
				t.Errorf("read %+v", empty)
			}
		})
	}
}

// A subscription hears what is signalled while its connection does something else,
// and ends with its context even where that had deadlines of its own.
func TestASubscriptionOutlivesOtherStatements(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	hears, speaks := connect(t, url), connect(t, url)
	register(t, speaks)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := jobs.Subscribe(ctx, hears)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	enqueue(t, speaks, 1)
	raw := hears.PgConn().Conn()
	raw.SetDeadline(time.Now().Add(time.Hour))
	if _, err := hears.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Next(); err != nil || got.Kind != jobs.JobsWaiting {
		t.Fatalf("heard %+v, %v", got, err)
	}
	cancel()
	if _, err := raw.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) { // waits for what the end of ctx does
		t.Fatalf("read with %v", err)
	}
	raw.SetDeadline(time.Time{}) // as whoever had set one does, here behind that
	enqueue(t, speaks, 1)
	if _, err := s.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
