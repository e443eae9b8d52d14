//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// The file is reached by a link to a link. Nobody is notified when the second
// one is led elsewhere, and the poll comes much later than this test's end.
func TestHangUpReadsTheRegistryAgain(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name, "registry.yaml") }
	lead := func(to string) {
		t.Helper()
		next := file("middle") + ".new"
		if err := os.Symlink(to, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, file("middle")); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"front", "middle", "one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"one", "two"} {
		text := fmt.Sprintf("services:\n- name: %s\n  type: t\n  category: c\n  runner_config: {base_url: 'http://192.0.2.1'}\n  operations: [{name: run}]\n", name)
		if err := os.WriteFile(file(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lead(file("one"))
	if err := os.Symlink(file("middle"), file("front")); err != nil {
		t.Fatal(err)
	}
	url := devdbtest.New(t, migrationstest.Migrated)
	agent := start(t, nil, "--database-url", url, "--registry", file("front"), "--types", "http", "--retention", "24h")
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	until := func(sql string) {
		t.Helper()
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			var is bool
			if err := conn.QueryRow(ctx, sql).Scan(&is); err != nil {
				t.Fatalf("never came true: %s: %v", sql, err)
			}
			if is {
				return
			}
			<-tick.C
		}
	}
	until(`SELECT count(*) = 1 FROM jobs.tb_registry_version WHERE document LIKE '%name: one%'`)
	until(`SELECT count(*) = 1 FROM jobs.tb_upkeep WHERE task = 'retention' AND outcome <> ''`)
	lead(file("two"))
	if err := agent.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(`SELECT count(*) = 1 FROM jobs.tb_agent a JOIN jobs.tb_registry_version v ON v.hash = a.registry_hash
		WHERE v.document LIKE '%name: two%' AND v.services = 1 AND a.registry_error = ''`)
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-agent.ended; err != nil {
		t.Error(err)
	}
}

func TestARetentionThatIsTooShortIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.yaml")
	if err := os.WriteFile(path, []byte("services: []\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ env, args []string }{
		{nil, []string{"--retention", "59m"}},
		{[]string{"SPECQL_RETENTION=1s"}, nil},
	} {
		args := append(c.args, "--listen", "off", "--types", "http", "--registry", path, "--database-url", devdbtest.New(t, migrationstest.Migrated))
		said, err := program(t.Context(), c.env, args...).CombinedOutput()
		if err == nil || !regexp.MustCompile(`retention: .* is shorter than 1h`).Match(said) {
			t.Errorf("%v %v: %v, %s", c.env, c.args, err, said)
		}
	}
}
