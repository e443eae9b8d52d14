//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"net"
	neturl "net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/runners/shell"
)

func TestMain(m *testing.M) {
	shell.ShimMain()
	flag.Set("test.parallel", "6") // stories wait far more than they compute
	testscript.Main(m, map[string]func(){program: main})
}

// application is what an HTTP-only application has, with two jobs.
var application = devdbtest.Template{Name: "application", Content: appschema.HTTPOnly + seed,
	Build: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.PgConn().Exec(ctx, appschema.HTTPOnly+";"+seed).ReadAll()
		return err
	}}

const seed = `
INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, error_message) VALUES
('00000000-0000-0000-0000-000000000001', 'invoice-1', 'stripe_api', 'charge', 'pending', NULL),
('00000000-0000-0000-0000-000000000002', 'invoice-2', 'stripe_api', 'charge', 'failed', E'bad \x1b[2J answer')`

// Every script has $DB, an HTTP-only application's database, $EMPTY, one
// without a jobs schema, $NOBODY and $WRONG, logins to $DB without a privilege
// and with a wrong password, $OPERATOR and $VIEWER, logins of these roles, and $CLOSED, where nobody listens.
func TestCommands(t *testing.T) {
	role := "tui_" + strings.ToLower(rand.Text())
	server := devdbtest.Server(t).URL("postgres")
	asAdmin := func(ctx context.Context, sql string) error {
		conn, err := pgx.Connect(ctx, server)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, sql)
		return err
	}
	if err := asAdmin(t.Context(), "CREATE ROLE "+role+" LOGIN PASSWORD 'right'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := asAdmin(context.Background(), "DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	// Two logins of the roles that migrate-schema --create-roles makes, for all
	// databases of the server.
	for _, r := range []migrations.Role{migrations.OperatorRole, migrations.ViewerRole} {
		make := "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '" + r.Name() + "') THEN CREATE ROLE " + r.Name() +
			"; END IF; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
		login := role + "_" + string(r)
		for _, sql := range []string{make, "CREATE ROLE " + login + " LOGIN PASSWORD 'right' IN ROLE " + r.Name()} {
			if err := asAdmin(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			if err := asAdmin(context.Background(), "DROP ROLE "+login); err != nil {
				t.Error(err)
			}
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()

	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			url := devdbtest.New(t, application)
			c, err := pgx.ParseConfig(url)
			if err != nil {
				return err
			}
			as := func(role, password string) string {
				return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", neturl.UserPassword(role, password), c.Port, c.Database)
			}
			login := func(password string) string { return as(role, password) }
			env.Setenv("DB", url)
			env.Setenv("EMPTY", devdbtest.New(t, devdbtest.Template{}))
			env.Setenv("NOBODY", login("right"))
			env.Setenv("WRONG", login("hunter2"))
			env.Setenv("OPERATOR", as(role+"_"+string(migrations.OperatorRole), "right"))
			env.Setenv("VIEWER", as(role+"_"+string(migrations.ViewerRole), "right"))
			env.Setenv("CLOSED", "postgres://app:hunter2@"+closed+"/app")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// exits runs a command that must end with the status: exits 5 specql-tui agents.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	have := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		have = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if have != want {
		ts.Fatalf("it ended with %d, want %d", have, want)
	}
}
