//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

func TestAnAgentWorksUnderItsRoleAlone(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "break") {
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprint(w, `{"done": true}`)
	}))
	t.Cleanup(service.Close)
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, fmt.Appendf(nil, `services:
  - { name: shop, type: api, category: test, runner_config: { base_url: %[1]q },
      security_policy: { allowed_networks: [127.0.0.0/8], circuit_breaker: { failure_threshold: 50, recovery_timeout: 1 } },
      operations: [{ name: charge, input_schema: {}, output_schema: {} }, { name: break, input_schema: {}, output_schema: {} }] }
  - { name: metered, type: api, category: test, runner_config: { base_url: %[1]q },
      security_policy: { allowed_networks: [127.0.0.0/8], rate_limit_per_minute: 600 }, operations: [{ name: charge, input_schema: {}, output_schema: {} }] }
`, service.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	url := devdbtest.New(t, migrationstest.Migrated)
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	if err := migrations.CreateRoles(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	login := "worker_" + strings.ToLower(rand.Text()[:10])
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE ROLE " + login + " LOGIN PASSWORD 'pw' IN ROLE specql_agent")
	defer exec("DROP ROLE " + login)
	// Aged jobs, and one that a lost agent left, for upkeep and takeover.
	exec(`INSERT INTO jobs.tb_agent (id, name, host, pid, version, execution_types, slots, lease_expires_at)
		VALUES ('00000000-0000-0000-0000-00000000000a', 'lost', 'h', 1, 'v', '{http}', 1, now() - interval '1 minute')`)
	exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, attempts, agent_id, started_at)
		VALUES ('left', 'shop', 'charge', 'running', 1, '00000000-0000-0000-0000-00000000000a', now())`)
	exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, max_attempts) VALUES
		('good', 'shop', 'charge', 3), ('bad', 'shop', 'break', 1), ('counted', 'metered', 'charge', 3)`)
	database, err := neturl.Parse(devdbtest.Server(t).TCPURL(admin.Config().Database))
	if err != nil {
		t.Fatal(err)
	}
	database.User = neturl.UserPassword(login, "pw")
	a := start(t, nil, "--registry", registry, "--database-url", database.String(), "--types", "http")
	ended := time.After(time.Minute)
	for open := -1; open != 0; {
		if err := admin.QueryRow(t.Context(), `SELECT count(*) FROM jobs.tb_job_run WHERE status IN ('pending', 'running')`).Scan(&open); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
			t.Fatalf("%d jobs are still open; the agent says:\n%s", open, a.said())
		default:
		}
	}
	a.signal(syscall.SIGTERM)
	if err := <-a.ended; err != nil {
		t.Errorf("the agent ended: %v", err)
	}
	var outcome string
	if err := admin.QueryRow(t.Context(), "SELECT string_agg(identifier || ' ' || status, ', ' ORDER BY identifier) FROM jobs.tb_job_run").Scan(&outcome); err != nil {
		t.Fatal(err)
	}
	if want := "bad failed, counted completed, good completed, left completed"; outcome != want {
		t.Errorf("%s, want %s", outcome, want)
	}
	if said := a.said(); strings.Contains(said, "permission denied") || strings.Contains(said, "42501") {
		t.Errorf("the database refused it something:\n%s", said)
	}
}
