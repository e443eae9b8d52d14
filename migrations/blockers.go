package migrations

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// sessions words who the sessions are whose process ids the query gives, the
// longest at work first, and what they run or ran last.
func sessions(ctx context.Context, conn *pgx.Conn, pids string, args ...any) (string, error) {
	rows, err := conn.Query(ctx, `
		SELECT a.pid, coalesce(a.usename::text, a.backend_type, ''), coalesce(a.application_name, ''),
		       coalesce(a.state, 'at work'), coalesce(a.query, ''),
		       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start, a.backend_start)), 0)::float8
		  FROM pg_stat_activity a WHERE a.pid IN (`+pids+`)
		 ORDER BY 6 DESC LIMIT 3`, args...)
	if err != nil {
		return "", fmt.Errorf("ask who blocks: %w", err)
	}
	var all []string
	var pid int
	var user, program, state, query string
	var seconds float64
	_, err = pgx.ForEachRow(rows, []any{&pid, &user, &program, &state, &query, &seconds}, func() error {
		if program != "" {
			user += ", " + program
		}
		age := (time.Duration(seconds*10) * time.Second / 10).Round(100 * time.Millisecond)
		one := fmt.Sprintf("pid %d (%s, %s for %s", pid, user, state, age)
		if query != "" {
			one += ", query: " + masked(query)
		}
		all = append(all, one+")")
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("ask who blocks: %w", err)
	}
	return strings.Join(all, "; "), nil
}

// literal is a string in a statement, also one that was cut off.
var literal = regexp.MustCompile(`(?s)'(?:[^']|'')*(?:'|$)|\$(\w*)\$.*`)

const queryShown = 100 // characters

// masked is a statement in one line, short, and without the strings in it,
// which may be an application's secrets.
func masked(query string) string {
	query = strings.Join(strings.Fields(literal.ReplaceAllString(query, "'…'")), " ")
	if r := []rune(query); len(r) > queryShown {
		return string(r[:queryShown-1]) + "…"
	}
	return query
}

// advance is how far the session pid is with an index build or the back-fill.
func advance(ctx context.Context, conn *pgx.Conn, pid int32, work Work) Advance {
	switch work {
	case TwoScans:
		return buildAdvance(ctx, conn, pid)
	case Fill:
		return fillAdvance(ctx, conn)
	}
	return Advance{}
}

// buildAdvance counts the blocks of both scans of a concurrent build. What
// comes between them is short, or waits for others, which is told.
func buildAdvance(ctx context.Context, conn *pgx.Conn, pid int32) Advance {
	a := Advance{Unit: "blocks"}
	var blocks int64
	err := conn.QueryRow(ctx, `
		SELECT p.phase, s.blocks, CASE
		       WHEN p.phase = 'index validation: scanning table' THEN s.blocks + p.blocks_done
		       WHEN p.phase LIKE 'index validation%' OR p.phase LIKE 'waiting for old snapshots' THEN s.blocks
		       WHEN p.phase LIKE 'building index%' AND p.blocks_total > 0 THEN p.blocks_done
		       WHEN p.phase LIKE 'building index: %' AND p.phase <> 'building index: scanning table' THEN s.blocks
		       WHEN p.phase = 'waiting for writers before validation' THEN s.blocks
		       ELSE 0 END
		  FROM pg_stat_progress_create_index p,
		       LATERAL (SELECT pg_relation_size(p.relid) / current_setting('block_size')::bigint AS blocks) s
		 WHERE p.pid = $1`, pid).Scan(&a.Phase, &blocks, &a.Done)
	if err != nil {
		return Advance{}
	}
	a.Total = 2 * blocks
	return a
}

// fillAdvance is the back-fill's own count; its total is reckoned from the
// share of the table that it has been through.
func fillAdvance(ctx context.Context, conn *pgx.Conn) Advance {
	a := Advance{Unit: "rows"}
	err := conn.QueryRow(ctx, `
		SELECT f.rows_filled, CASE WHEN f.done_at IS NOT NULL THEN f.rows_filled
		       WHEN f.next_block > 0 THEN (f.rows_filled::float8 * f.end_block / f.next_block)::bigint
		       ELSE greatest(f.rows_filled, (SELECT reltuples FROM pg_class WHERE oid = 'jobs.tb_job_run'::regclass)::bigint) END
		  FROM jobs.tb_schema_fill f WHERE f.name = 'duration_seconds'`).Scan(&a.Done, &a.Total)
	if err != nil {
		return Advance{}
	}
	return a
}
