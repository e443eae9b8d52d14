package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// backlog queues n jobs of a service, as an application's inserts would.
func backlog(service string, n int) filler {
	return func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, backlogSQL, service, service, n)
		return err
	}
}

// backlogSQL's first parameter is what their identifiers begin with.
const backlogSQL = `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
	SELECT $1 || '-' || n, $2, 'run', '{"n": 1}' FROM generate_series(1, $3) n`

// backlogTemplate has n jobs that wait and nothing else.
func (l *lab) backlogTemplate(ctx context.Context, n int) (template, error) {
	return l.jobsTemplate(ctx, "backlog of "+thousands(n), backlog("noop", n))
}

// finishedTemplate has n finished jobs.
func (l *lab) finishedTemplate(ctx context.Context, n int) (template, error) {
	return l.jobsTemplate(ctx, thousands(n)+" finished jobs", l.finished(n))
}

// idFrom says where an id comes from: random ones, as an application had them, or
// those in the order of time (uuid version 7), as new rows have them.
var idFrom = map[string]string{
	"default": `gen_random_uuid()`,
	"ordered": `(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
		|| '8' || substr(md5(n::text), 4, 15))::uuid`,
}

// Jobs of ten services in the order in which they came, as they live: queued,
// claimed, ended, three in a hundred failed for good. What a job leaves behind in
// the table's pages, and in which of them its versions come to lie, decides how the
// table works later: rows that are written once and never change are no finished
// jobs. queuedSQL takes the id, the first, the one after the last, and when each was
// queued.
const (
	queuedSQL = `
INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data, execution_type,
       tenant_id, correlation_id, entity_type, entity_pk, created_at)
SELECT %[1]s, 'past-' || n, 'service_' || n %% 10, 'run', jsonb_build_object('order', n, 'amount', n %% 10000, 'currency', 'EUR'),
       CASE WHEN n %% 10 < 8 THEN 'http' ELSE 'shell' END, md5((n %% 100)::text)::uuid, 'req-' || n / 4, 'order', n::text, at
  FROM (SELECT n, %[4]s AS at FROM generate_series(%[2]d::bigint, %[3]d - 1) n) past`
	claimedSQL = `
UPDATE jobs.tb_job_run SET status = 'running', attempts = 1, started_at = created_at + interval '5 ms', updated_at = created_at + interval '5 ms'
 WHERE status = 'pending'`
	endedSQL = `
UPDATE jobs.tb_job_run r
   SET status = CASE WHEN ok THEN 'completed' ELSE 'failed' END, attempts = CASE WHEN ok THEN 1 ELSE 3 END,
       output_data = CASE WHEN ok THEN jsonb_build_object('id', 'ch_' || n, 'status', 'paid') END,
       error_message = CASE WHEN NOT ok THEN 'HTTP 503' END,
       resource_usage = jsonb_build_object('duration_seconds', took), duration_seconds = took,
       completed_at = started_at + took * interval '1 s', updated_at = started_at + took * interval '1 s'
  FROM (SELECT id, n, n % 33 <> 0 AS ok, (20 + n * 7919 % 180) / 1000.0 AS took
          FROM (SELECT id, entity_pk::bigint AS n FROM jobs.tb_job_run WHERE status = 'running') x) past
 WHERE r.id = past.id`

	overAWeek = `now() - interval '7 days' * (%[1]d - n) / %[1]d - interval '1 minute'` // of so many jobs
)

// finishedAtOnce is how many jobs go through their life together, and
// vacuumEvery after how many such rounds the table is vacuumed, as it is by
// itself when a fifth of it has changed.
const (
	finishedAtOnce = 25_000
	vacuumEvery    = 6
)

// finished adds n jobs of the past week.
func (l *lab) finished(n int) filler {
	return func(ctx context.Context, conn *pgx.Conn) error {
		at := fmt.Sprintf(overAWeek, n)
		for from, round := 1, 1; from <= n; from, round = from+finishedAtOnce, round+1 {
			queued := fmt.Sprintf(queuedSQL, idFrom[l.sizes.ids], from, min(from+finishedAtOnce, n+1), at)
			if err := execute(ctx, conn, queued, claimedSQL, endedSQL); err != nil {
				return err
			}
			if round%vacuumEvery == 0 {
				if err := execute(ctx, conn, "VACUUM jobs.tb_job_run"); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// burstAtOnce is how many jobs of a burst an application queues at once.
const burstAtOnce = 100

// burst adds n jobs that are queued now, within seconds, and then drained. Their
// ids are the table's own.
func burst(n int) filler {
	return func(ctx context.Context, conn *pgx.Conn) error {
		const first = 1_000_000_001
		for from := first; from < first+n; from += burstAtOnce {
			queued := fmt.Sprintf(queuedSQL, "jobs.new_job_id()", from, from+burstAtOnce, "now()")
			if err := execute(ctx, conn, queued); err != nil {
				return err
			}
		}
		return execute(ctx, conn, claimedSQL, endedSQL)
	}
}

func execute(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
