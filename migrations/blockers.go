package migrations

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// sessions words who the sessions are whose process ids the query gives, the
// longest at work first. What they run is left out: a statement may hold an
// application's secrets.
func sessions(ctx context.Context, conn *pgx.Conn, pids string, args ...any) (string, error) {
	rows, err := conn.Query(ctx, `
		SELECT a.pid, coalesce(a.usename::text, a.backend_type, ''), coalesce(a.application_name, ''),
		       coalesce(a.state, 'at work'),
		       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start, a.backend_start)), 0)::float8
		  FROM pg_stat_activity a WHERE a.pid IN (`+pids+`)
		 ORDER BY 5 DESC LIMIT 3`, args...)
	if err != nil {
		return "", fmt.Errorf("ask who blocks: %w", err)
	}
	var all []string
	var pid int
	var user, program, state string
	var seconds float64
	_, err = pgx.ForEachRow(rows, []any{&pid, &user, &program, &state, &seconds}, func() error {
		if program != "" {
			user += ", " + program
		}
		age := (time.Duration(seconds*10) * time.Second / 10).Round(100 * time.Millisecond)
		all = append(all, fmt.Sprintf("pid %d (%s, %s for %s)", pid, user, state, age))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("ask who blocks: %w", err)
	}
	return strings.Join(all, "; "), nil
}

// buildPercent is how far an index build's present phase is; 0 where that is
// not known.
func buildPercent(ctx context.Context, conn *pgx.Conn, pid int32) float64 {
	var percent float64
	err := conn.QueryRow(ctx, `SELECT coalesce(round(100.0 * blocks_done / nullif(blocks_total, 0), 1), 0)::float8
		FROM pg_stat_progress_create_index WHERE pid = $1`, pid).Scan(&percent)
	if err != nil {
		return 0
	}
	return percent
}
