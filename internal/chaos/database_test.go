//go:build linux

package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb"
)

func TestRestartedDatabaseLosesNothing(t *testing.T) {
	t.Parallel()
	for name, immediate := range map[string]bool{"fast": false, "crash": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What was committed must stand: a crash would take back what
			// synchronous_commit=off had only promised.
			w := newWorld(t, setup{server: private(t, devdb.Options{Durable: true}), jobs: sized(4000, 60_000), lease: 3 * time.Second})
			w.agent("a")
			w.agent("b")
			w.rounds(sized(4, 40), func(int) {
				if err := w.server.Restart(w.ctx, immediate); err != nil {
					t.Fatal(err)
				}
			})
			w.finish()
		})
	}
}

func TestTerminatedBackendsLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{jobs: sized(5000, 100_000)})
	w.agent("a")
	w.agent("b")
	admin := w.admin()
	w.rounds(sized(40, 1000), func(int) {
		if _, err := admin.Exec(w.ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", w.dbname); err != nil {
			t.Fatal(err)
		}
	})
	w.finish()
}

// admin is a connection of the scenario's to another database of the server.
func (w *world) admin() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.ctx, w.server.URL("postgres"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Other sessions take every connection that there is, and keep them beyond
// the agents' leases.
func TestExhaustedConnectionsAreWaitedFor(t *testing.T) {
	t.Parallel()
	server := private(t, devdb.Options{Settings: map[string]string{"max_connections": "20"}})
	w := newWorld(t, setup{server: server, jobs: sized(4000, 60_000), lease: time.Second})
	a, b := w.agent("a"), w.agent("b")
	admin := w.admin()
	w.rounds(sized(2, 20), func(round int) {
		letGo := w.ledger.hold(func(c call) bool { return c.number%4 == 0 })
		w.untilHeld(a, 10)
		w.untilHeld(b, 10)
		taken := w.takeConnections(admin)
		w.until("every lease has run out", func() (bool, error) {
			n, err := w.number(`SELECT count(*) FROM jobs.tb_agent WHERE lease_expires_at > now()`)
			return n == 0, err
		})
		w.until("the agents have stopped what they lost", func() (bool, error) {
			return w.ledger.openOf("a")+w.ledger.openOf("b") == 0, nil
		})
		letGo()
		for _, conn := range taken {
			conn.Close(w.ctx)
		}
	})
	w.finish()
}

// takeConnections ends the agents' sessions and takes every connection that
// can be had, until the agents have none.
func (w *world) takeConnections(admin *pgx.Conn) (taken []*pgx.Conn) {
	w.t.Helper()
	w.until("the agents have no connection left", func() (bool, error) {
		for {
			conn, err := pgx.Connect(w.ctx, w.server.URL("postgres"))
			if err != nil {
				break
			}
			taken = append(taken, conn)
		}
		tag, err := admin.Exec(w.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name <> $2`,
			w.dbname, ownName)
		if err != nil || tag.RowsAffected() > 0 {
			return false, err
		}
		// A session that is being opened has a place already, and no database yet.
		var all bool
		err = admin.QueryRow(w.ctx, `SELECT count(*) = current_setting('max_connections')::int FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND (datname = 'postgres' OR application_name = $1)`, ownName).Scan(&all)
		return all, err
	})
	return taken
}
