package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// retentionPage is how many jobs one step of retention looks at.
const retentionPage = 2000

// Span is a stretch of jobs by their ids, both ends left out.
type Span struct{ From, To ID }

// Spans returns where jobs older than the age are to be looked for. Ids that
// the table gives are ordered by time, so that aged ones stand before a
// certain id and no younger job has to be read. foreign is where ids stand
// that cannot be of that kind: all of it must be read.
func Spans(ctx context.Context, db Querier, age time.Duration) (aged, foreign Span, err error) {
	var now time.Time
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return Span{}, Span{}, fmt.Errorf("retention: %w", err)
	}
	aged = Span{To: FirstID(now.Add(-age))}
	foreign = Span{From: FirstID(now.Add(24 * time.Hour))} // clocks differ
	for i := range foreign.To {
		foreign.To[i] = 0xff
	}
	return aged, foreign, nil
}

// A page is read along the primary key, whatever is in it; of it the finished
// rows that are old enough are deleted, without waiting for anybody.
const deleteFinishedSQL = `
WITH page AS MATERIALIZED (
    SELECT id FROM jobs.tb_job_run WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
), aged AS MATERIALIZED (
    SELECT r.id FROM page JOIN jobs.tb_job_run r ON r.id = page.id
     WHERE (r.status IN ('completed', 'cancelled')
            OR r.status = 'failed' AND coalesce(r.attempts, 0) >= coalesce(r.max_attempts, 3))
       AND coalesce(greatest(r.completed_at, r.updated_at), r.created_at) < now() - make_interval(secs => $4)
       FOR UPDATE OF r SKIP LOCKED
), gone AS (
    DELETE FROM jobs.tb_job_run r USING aged WHERE r.id = aged.id RETURNING r.id
)
SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM page), last.id
  FROM (SELECT id FROM page ORDER BY id DESC LIMIT 1) last`

// DeleteFinished deletes the jobs of one page of the span that ended longer
// than the age ago: completed, cancelled, or failed without attempts left. It
// returns what is left of the span; more is false at its end.
func DeleteFinished(ctx context.Context, conn *pgx.Conn, s Span, age time.Duration) (deleted int, rest Span, more bool, err error) {
	rows, err := conn.Query(ctx, deleteFinishedSQL, s.From, s.To, retentionPage, age.Seconds())
	if err != nil {
		return 0, s, true, fmt.Errorf("delete old jobs: %w", err)
	}
	looked, rest := 0, s
	_, err = pgx.ForEachRow(rows, []any{&deleted, &looked, &rest.From}, func() error { return nil })
	if err != nil {
		return 0, s, true, fmt.Errorf("delete old jobs: %w", err)
	}
	return deleted, rest, looked == retentionPage, nil
}
