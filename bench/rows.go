package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// backlog queues n jobs of a service, as an application's inserts would.
func backlog(service string, n int) filler {
	return func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
			SELECT $1 || '-' || n, $1, 'run', '{"n": 1}' FROM generate_series(1, $2) n`, service, n)
		return err
	}
}

// backlogTemplate has n jobs that wait and nothing else.
func (l *lab) backlogTemplate(ctx context.Context, n int) (template, error) {
	return l.jobsTemplate(ctx, "backlog of "+thousands(n), backlog("noop", n))
}

// finishedTemplate has n finished jobs and the backlog that growth measures.
func (l *lab) finishedTemplate(ctx context.Context, n int) (template, error) {
	return l.jobsTemplate(ctx, thousands(n)+" finished jobs", l.finished(n), backlog("noop", l.sizes.growthJobs))
}

// idFrom says where an id comes from: the table's default, which is random, or
// an application that makes them in the order of time (uuid version 7).
var idFrom = map[string]string{
	"default": `gen_random_uuid()`,
	"ordered": `(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
		|| '8' || substr(md5(n::text), 4, 15))::uuid`,
}

// finishedSQL is a week's jobs of ten services in the order in which they came,
// all ended: three in a hundred failed for good.
const finishedSQL = `
INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data, output_data, error_message, status, attempts,
       execution_type, resource_usage, duration_seconds, tenant_id, correlation_id, entity_type, entity_pk,
       created_at, started_at, completed_at, updated_at)
SELECT %s, 'past-' || n, 'service_' || n %% 10, 'run', jsonb_build_object('order', n, 'amount', n %% 10000, 'currency', 'EUR'),
       CASE WHEN ok THEN jsonb_build_object('id', 'ch_' || n, 'status', 'paid') END, CASE WHEN NOT ok THEN 'HTTP 503' END,
       CASE WHEN ok THEN 'completed' ELSE 'failed' END, CASE WHEN ok THEN 1 ELSE 3 END,
       CASE WHEN n %% 10 < 8 THEN 'http' ELSE 'shell' END, jsonb_build_object('duration_seconds', took), took,
       md5((n %% 100)::text)::uuid, 'req-' || n / 4, 'order', n::text,
       at, at + interval '5 ms', at + interval '5 ms' + took * interval '1 s', at + interval '5 ms' + took * interval '1 s'
  FROM (SELECT n, n %% 33 <> 0 AS ok, (20 + n * 7919 %% 180) / 1000.0 AS took,
               now() - interval '7 days' * ($1::bigint - n) / $1 - interval '1 minute' AS at
          FROM generate_series(1::bigint, $1) n) past`

// finished adds n jobs of the past.
func (l *lab) finished(n int) filler {
	return func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf(finishedSQL, idFrom[l.sizes.ids]), n)
		return err
	}
}
