//go:build linux

package chaos

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A session that somebody forgot, with a transaction id and a snapshot, keeps
// every dead row version of the whole run from being removed, and long reports
// read the table meanwhile.
func TestForgottenTransactionAndLongReadersHoldNothingUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{jobs: sized(5000, 100_000)})
	w.begin(`INSERT INTO chaos.move (job, was, final, became) VALUES (gen_random_uuid(), 'forgotten', false, 'forgotten')`)
	for range 3 {
		w.begin(`DECLARE report CURSOR FOR SELECT a.* FROM jobs.tb_job_run a, generate_series(1, 1000) ORDER BY a.updated_at`).Exec(w.ctx, `FETCH 10 FROM report`)
	}
	w.agent("a")
	w.agent("b")
	w.rounds(sized(10, 100), func(round int) {
		if n, err := w.number(`SELECT count(*) FROM jobs.tb_job_run a, generate_series(1, 20) WHERE a.output_data IS NOT NULL`); err != nil || n < 0 {
			t.Fatal(n, err)
		}
	})
	w.finish()
}

// begin opens a transaction that stays open to the end of the scenario.
func (w *world) begin(first string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.ctx, w.server.URL(w.dbname))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM jobs.tb_job_run", first} {
		if _, err := conn.Exec(w.ctx, sql); err != nil {
			w.t.Fatal(err)
		}
	}
	return conn
}
