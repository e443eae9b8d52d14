package jobs_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// A plan is made once for a session and kept, so that the first one, on a table
// that may be empty, has to be right for millions of rows.
func TestExchangesArePlannedAlikeOnAnEmptyTableAndOnALargeOne(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	admin := connect(t, url)
	check := func(t *testing.T) {
		conn := connect(t, url)
		for what, sql := range jobs.ExchangeSQL {
			plan := generic(t, conn, sql)
			var wants, bars []string
			switch what {
			case "claim", "claim from one lane":
				wants = []string{"Index Scan using idx_tb_job_run_lane", "Tid Scan on tb_job_run"}
				bars = []string{"Join", "tb_job_run_pkey"}
			case "complete":
				wants = []string{"Hash Join", "Tid Scan on tb_job_run"}
				bars = []string{"Nested Loop", "Index Scan"}
			default: // by id, one search for each
				wants = []string{"using tb_job_run_pkey on tb_job_run", "Index Cond: (id = ANY"}
				bars = []string{"idx_tb_job_run"}
			}
			bars = append(bars, "Seq Scan", "Sort", "Bitmap")
			for _, want := range wants {
				if !strings.Contains(plan, want) {
					t.Errorf("%s: the plan has no %q:\n%s", what, want, plan)
				}
			}
			for _, bar := range bars {
				if strings.Contains(plan, bar) {
					t.Errorf("%s: the plan has a %q:\n%s", what, bar, plan)
				}
			}
		}
	}
	t.Run("empty", check)
	do := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	do("VACUUM ANALYZE") // from now on the planner believes that it is empty
	t.Run("known to be empty", check)
	enqueue(t, admin, 5)
	t.Run("a few jobs", check)
	do("VACUUM ANALYZE")
	t.Run("known to have a few jobs", check)
	enqueue(t, admin, 20_000)
	for _, sql := range []string{"UPDATE jobs.tb_job_run SET status = 'running', attempts = 1 WHERE identifier < '2'",
		"UPDATE jobs.tb_job_run SET status = 'completed', attempts = 1 WHERE identifier > 'a'", "VACUUM ANALYZE"} {
		do(sql)
	}
	t.Run("filled", check)
}

// generic is the plan that a session keeps.
func generic(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "DEALLOCATE ALL"); err != nil {
		t.Fatal(err)
	}
	statement, err := conn.Prepare(t.Context(), "planned", sql)
	if err != nil {
		t.Fatal(err)
	}
	nulls := strings.TrimSuffix(strings.Repeat("NULL, ", len(statement.ParamOIDs)), ", ")
	rows, err := conn.Query(t.Context(), "EXPLAIN EXECUTE planned ("+nulls+")", pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
