//go:build unix

// Package devdbtest gives every test a fresh PostgreSQL database in
// milliseconds.
//
// New is all that a test needs: no TestMain, no setting, no running service.
// All test packages of a run share one private server (see devdb.Shared). It
// starts with the first New and goes with the last test process, however that
// ends. What many tests need in their database is built once, as a Template,
// and copied.
//
// It never skips: where no PostgreSQL can be had the test fails and says how
// to get one.
package devdbtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb"
)

const (
	startDeadline = 3 * time.Minute // the first start on a busy machine
	dropDeadline  = time.Minute
)

// Template is what a test's database holds to begin with. The zero value is
// an empty database.
type Template struct {
	// Name tells people what it is. It and Content together are its identity.
	Name string

	// Content is everything that decides what Build makes, such as the text
	// of its SQL files: a different content is a different template.
	Content string

	// Build fills the empty database at url. It runs once for each server and
	// identity, whichever process and test comes first. It must close its
	// connections.
	Build func(ctx context.Context, url string) error
}

// database is the template's name in the server.
func (tpl Template) database() string {
	sum := sha256.Sum256([]byte(tpl.Name + "\x00" + tpl.Content))
	return "template_" + identifier(tpl.Name, 30) + "_" + hex.EncodeToString(sum[:8])
}

// Server returns the server that New's databases are on.
func Server(t testing.TB) *devdb.Server {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatalf("no PostgreSQL for the test: %v", err)
	}
	return s
}

// server is started once a process and stays until the process ends.
var server = sync.OnceValues(func() (*devdb.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startDeadline)
	defer cancel()
	return devdb.Shared(ctx)
})

// New returns the URL of a fresh database made from a template. The database
// goes with the test, whatever connections it still has.
func New(t testing.TB, tpl Template) string {
	t.Helper()
	return Named(t, tpl, t.Name())
}

// Named is New for a database whose name, which is shown somewhere, begins so.
func Named(t testing.TB, tpl Template, begin string) string {
	t.Helper()
	s := Server(t)
	if err := tpl.ensure(t.Context(), s); err != nil {
		t.Fatalf("build the template %q of the test's database: %v", tpl.Name, err)
	}
	name := identifier(begin, 40) + "_" + strings.ToLower(rand.Text()[:8])
	create := "CREATE DATABASE " + quote(name)
	if tpl.Build != nil {
		create += " TEMPLATE " + quote(tpl.database())
	}
	if err := execute(t.Context(), s, create); err != nil {
		t.Fatalf("make the test's database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropDeadline)
		defer cancel()
		if err := execute(ctx, s, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the test's database: %v", err)
		}
	})
	return s.URL(name)
}

// known holds the templates that this process has seen on the server.
var known sync.Map

// ensure builds the template unless it is there. Other processes may want the
// same one: the first to get the lock builds, the others find it.
func (tpl Template) ensure(ctx context.Context, s *devdb.Server) error {
	if tpl.Build == nil {
		return nil
	}
	final := tpl.database()
	if _, ok := known.Load(final); ok {
		return nil
	}
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) // lets go of the lock
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", final); err != nil {
		return fmt.Errorf("wait for another test's build of it: %w", err)
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", final).Scan(&there); err != nil {
		return err
	}
	if !there {
		if err := tpl.build(ctx, conn, s, final); err != nil {
			return err
		}
	}
	known.Store(final, true)
	return nil
}

// build makes the template under another name first, so that one whose build
// was cut short is never taken for whole. Nobody can connect to the finished
// one: a connection would keep it from being copied.
func (tpl Template) build(ctx context.Context, conn *pgx.Conn, s *devdb.Server, final string) error {
	draft := final + "_draft"
	for _, sql := range []string{
		"DROP DATABASE IF EXISTS " + quote(draft) + " WITH (FORCE)",
		"CREATE DATABASE " + quote(draft),
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := tpl.Build(ctx, s.URL(draft)); err != nil {
		return err
	}
	for _, sql := range []string{
		"ALTER DATABASE " + quote(draft) + " ALLOW_CONNECTIONS false",
		"ALTER DATABASE " + quote(draft) + " RENAME TO " + quote(final),
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("finish it (did its Build leave a connection open?): %w", err)
		}
	}
	return nil
}

func execute(ctx context.Context, s *devdb.Server, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// identifier makes a readable part of a database's name, which may have 63
// bytes in all.
func identifier(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '_'
		}
	}, s)
	return s[max(0, len(s)-most):] // a subtest's own name stands at the end
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
