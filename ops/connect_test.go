//go:build unix

package ops

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	neturl "net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

func kindOf(err error) DatabaseErrorKind {
	var e *DatabaseError
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func TestDatabaseURLPrefersFlagThenOwnVariableThenCommonOne(t *testing.T) {
	env := map[string]string{"SPECQL_DATABASE_URL": "own", "DATABASE_URL": "common"}
	get := func(k string) string { return env[k] }
	if got := DatabaseURL("flag", get); got != "flag" {
		t.Error(got)
	}
	if got := DatabaseURL("", get); got != "own" {
		t.Error(got)
	}
	delete(env, "SPECQL_DATABASE_URL")
	if got := DatabaseURL("", get); got != "common" {
		t.Error(got)
	}
	delete(env, "DATABASE_URL")
	if got := DatabaseURL("", get); got != "" {
		t.Error(got)
	}
}

// tcp rewrites a test database's URL for a login by password.
func tcp(t *testing.T, url, user, password string) string {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.ConnConfig
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", neturl.UserPassword(user, password), c.Port, c.Database)
}

func TestConnectErrorsSayWhatIsWrongAndNeverThePassword(t *testing.T) {
	url := devdbtest.New(t, migrated(t))
	admin := connect(t, url)
	user := "ops_" + strings.ToLower(rand.Text())
	exec(t, admin, "CREATE ROLE "+user+" LOGIN PASSWORD 'right'")
	server := devdbtest.Server(t).URL("postgres")
	t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		db, err := Connect(ctx, server, "test")
		if err != nil {
			t.Error(err)
			return
		}
		defer db.Close()
		if _, err := db.Exec(ctx, "DROP ROLE "+user); err != nil {
			t.Error(err)
		}
	})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	for name, c := range map[string]struct {
		url  string
		kind DatabaseErrorKind
	}{
		"malformed":      {"postgres://u:hunter2/x@h:99999/db", BadURL},
		"unknown scheme": {"mysql://u:hunter2@h/db", BadURL},
		"unreachable":    {"postgres://u:hunter2@" + nobody + "/db", Unreachable},
		"no socket":      {"postgres://u:hunter2@/db?host=/nonexistent", Unreachable},
		"wrong password": {tcp(t, url, user, "hunter2"), WrongPassword},
		"no database":    {devdbtest.Server(t).URL("nowhere_hunter1"), NoDatabase},
	} {
		pool, err := Connect(t.Context(), c.url, "test")
		if err == nil {
			pool.Close()
			t.Errorf("%s: connected", name)
			continue
		}
		if kindOf(err) != c.kind {
			t.Errorf("%s: kind %q, want %q: %v", name, kindOf(err), c.kind, err)
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the text shows a password or has several lines: %v", name, err)
		}
	}
}

func TestARoleWithoutPrivilegesIsToldWhatToGrant(t *testing.T) {
	url := devdbtest.New(t, migrated(t))
	admin := connect(t, url)
	nobody := "ops_" + strings.ToLower(rand.Text())
	exec(t, admin, "CREATE ROLE "+nobody+" LOGIN PASSWORD 'pw'")
	db := connect(t, tcp(t, url, nobody, "pw"))
	_, err := GetOverview(t.Context(), db)
	if kindOf(err) != NotPermitted || !strings.Contains(err.Error(), "GRANT USAGE ON SCHEMA jobs") {
		t.Errorf("without USAGE: %v", err)
	}
	exec(t, admin, "GRANT USAGE ON SCHEMA jobs TO "+nobody)
	if _, err := ListAgents(t.Context(), db); kindOf(err) != NotPermitted {
		t.Errorf("without SELECT: %v", err)
	}
	exec(t, admin, "GRANT SELECT ON ALL TABLES IN SCHEMA jobs TO "+nobody)
	o, err := GetOverview(t.Context(), db)
	if err != nil || !o.ReadOnly || !strings.Contains(o.ReadOnlyReason, "UPDATE on jobs.tb_execution_type") {
		t.Errorf("a viewer: %+v, %v", o, err)
	}
	db.Close()
	exec(t, admin, "DROP OWNED BY "+nobody)
	exec(t, admin, "DROP ROLE "+nobody)
}

func TestADatabaseThatIsNotMigratedIsTold(t *testing.T) {
	db := connect(t, devdbtest.New(t, devdbtest.Template{}))
	o, err := GetOverview(t.Context(), db)
	if err != nil || o.Migrated || !o.ReadOnly {
		t.Errorf("overview: %+v, %v", o, err)
	}
	if err := CheckMigrated(t.Context(), db); kindOf(err) != NoSchema || !strings.Contains(err.Error(), "migrate-schema") {
		t.Errorf("require: %v", err)
	}
	if _, err := ListAgents(t.Context(), db); kindOf(err) != NoSchema {
		t.Errorf("agents: %v", err)
	}
	if err := CheckMigrated(t.Context(), open(t)); err != nil {
		t.Errorf("a migrated one: %v", err)
	}
}

func TestSelfNamesTheOneBehindSudo(t *testing.T) {
	t.Setenv("SUDO_USER", "anna")
	if by := Self("specql-tui"); !strings.HasPrefix(by.Actor, "anna@") || !strings.HasPrefix(by.Origin, "specql-tui on ") {
		t.Errorf("%+v", by)
	}
}
