package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The figures of minutes are kept for a day, which is what live pages look
// back on, and an hour more; those of hours for a month.
const (
	minutesKept = 25 * time.Hour
	hoursKept   = 30 * 24 * time.Hour
	rollUpPage  = 50   // operations whose hour is summed up in one statement
	dropPage    = 2000 // rows that one statement drops
)

// An hour that has rows of minutes; one probe of the primary key for each
// hour that there may be.
const unrolledSQL = `
SELECT h FROM generate_series(
           date_trunc('hour', greatest((SELECT min(minute) FROM jobs.tb_job_metric), now() - make_interval(secs => $2 + 3600)), 'UTC'),
           date_trunc('hour', now() - make_interval(secs => $1), 'UTC') - interval '1 hour', interval '1 hour') AS hours(h)
 WHERE EXISTS (SELECT FROM jobs.tb_job_metric WHERE minute > h AND minute < h + interval '1 hour')
 ORDER BY h LIMIT 1`

// The row of an hour has the hour's first minute. It may be there already,
// when figures came late: it is summed up along with the minutes.
const rollUpSQL = `
WITH operation AS MATERIALIZED (
    SELECT DISTINCT execution_type, service_name, operation FROM jobs.tb_job_metric
     WHERE minute > $1 AND minute < $1::timestamptz + interval '1 hour'
     ORDER BY execution_type, service_name, operation LIMIT $2
), minutes AS (
    DELETE FROM jobs.tb_job_metric m USING operation o
     WHERE m.minute >= $1 AND m.minute < $1::timestamptz + interval '1 hour' AND m.execution_type = o.execution_type
       AND m.service_name = o.service_name AND m.operation = o.operation
    RETURNING m.*
), durations AS (
    SELECT execution_type, service_name, operation, array_agg(n ORDER BY i) AS hist
      FROM (SELECT execution_type, service_name, operation, i, sum(x)::bigint AS n
              FROM minutes, unnest(duration_hist) WITH ORDINALITY AS u(x, i) GROUP BY 1, 2, 3, 4) s
     GROUP BY 1, 2, 3
), waits AS (
    SELECT execution_type, service_name, operation, array_agg(n ORDER BY i) AS hist
      FROM (SELECT execution_type, service_name, operation, i, sum(x)::bigint AS n
              FROM minutes, unnest(wait_hist) WITH ORDINALITY AS u(x, i) GROUP BY 1, 2, 3, 4) s
     GROUP BY 1, 2, 3
), total AS (
    SELECT execution_type, service_name, operation, sum(completed)::bigint AS completed, sum(failed)::bigint AS failed,
           sum(violations)::bigint AS violations, sum(busy_seconds) AS busy_seconds, sum(cpu_percent_sum) AS cpu_percent_sum,
           sum(cpu_samples)::bigint AS cpu_samples, sum(memory_mb_sum) AS memory_mb_sum,
           sum(memory_samples)::bigint AS memory_samples, max(memory_mb_peak) AS memory_mb_peak
      FROM minutes GROUP BY 1, 2, 3
)
INSERT INTO jobs.tb_job_metric (minute, execution_type, service_name, operation, completed, failed, violations,
       busy_seconds, cpu_percent_sum, cpu_samples, memory_mb_sum, memory_samples, memory_mb_peak, duration_hist, wait_hist)
SELECT $1, t.execution_type, t.service_name, t.operation, t.completed, t.failed, t.violations, t.busy_seconds,
       t.cpu_percent_sum, t.cpu_samples, t.memory_mb_sum, t.memory_samples, t.memory_mb_peak,
       coalesce(d.hist, '{}'), coalesce(w.hist, '{}')
  FROM total t
  LEFT JOIN durations d USING (execution_type, service_name, operation)
  LEFT JOIN waits w USING (execution_type, service_name, operation)`

// RollUp sums up the minutes of some operations within one hour that is older
// than a day and an hour, in one transaction. It returns how many operations
// those were: none means that nothing is left to do.
func RollUp(ctx context.Context, conn *pgx.Conn) (operations int, err error) {
	var hour time.Time
	rows, err := conn.Query(ctx, unrolledSQL, minutesKept.Seconds(), hoursKept.Seconds())
	if err != nil {
		return 0, fmt.Errorf("roll up the figures: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil || len(found) == 0 {
		return 0, err
	}
	hour = found[0]
	tag, err := conn.Exec(ctx, rollUpSQL, hour, rollUpPage)
	if err != nil {
		return 0, fmt.Errorf("roll up the figures of %s: %w", hour.UTC().Format("2006-01-02 15:04"), err)
	}
	return int(tag.RowsAffected()), nil
}

// DropFigures removes some figures that are older than a month, in one
// transaction, and returns how many.
func DropFigures(ctx context.Context, conn *pgx.Conn) (int, error) {
	tag, err := conn.Exec(ctx, `DELETE FROM jobs.tb_job_metric WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM jobs.tb_job_metric WHERE minute < now() - make_interval(secs => $1) LIMIT $2))`, hoursKept.Seconds(), dropPage)
	if err != nil {
		return 0, fmt.Errorf("drop old figures: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
