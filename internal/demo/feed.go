package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/jobs"
)

const seedFinishedSQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, output_data, error_message, status,
       attempts, created_at, started_at, completed_at, updated_at)
SELECT 'past-' || n, service, operation, jsonb_build_object('amount', n, 'account', 'acct_' || n % 40),
       CASE WHEN ok THEN jsonb_build_object('id', 'old_' || n) END, CASE WHEN NOT ok THEN 'HTTP 503' END,
       CASE WHEN ok THEN 'completed' ELSE 'failed' END, CASE WHEN ok THEN 1 ELSE 3 END,
       at, at + interval '40 ms', at + interval '40 ms' + took, at + interval '40 ms' + took
  FROM (SELECT n, n % 33 <> 0 AS ok, now() - n * interval '11 seconds' AS at,
               (20 + (n * 7919) % 180) * interval '1 ms' AS took,
               (ARRAY['payments', 'payments', 'payments', 'notifications'])[1 + n % 4] AS service,
               (ARRAY['create_charge', 'get_balance', 'refund', 'send_email'])[1 + n % 4] AS operation
          FROM generate_series(1, 4000) n) past`

const seedPendingSQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, created_at)
SELECT 'waiting-' || n, 'payments', 'create_charge', jsonb_build_object('amount', 100 + n, 'currency', 'EUR'),
       now() - (300 - n) * interval '1 second'
  FROM generate_series(1, 250) n`

// kind is one sort of job that the application queues.
type kind struct {
	weight             int
	service, operation string
	input              func(n int) map[string]any
}

// overHTTP are the jobs that the application has had before the migration.
var overHTTP = []kind{
	{40, "payments", "create_charge", func(n int) map[string]any {
		return map[string]any{"amount": 100 + n%9000, "currency": "EUR"}
	}},
	{20, "payments", "get_balance", func(n int) map[string]any { return map[string]any{"account": fmt.Sprintf("acct_%d", n%40)} }},
	{3, "payments", "refund", func(n int) map[string]any {
		return map[string]any{"charge_id": fmt.Sprintf("ch_%d", n), "amount": 100}
	}},
	{17, "notifications", "send_email", func(n int) map[string]any {
		return map[string]any{"to": fmt.Sprintf("user%d@example.com", n), "subject": "Your order", "body": "Thank you."}
	}},
}

// byPrograms are jobs of scripts.
var byPrograms = []kind{
	{12, "data_processor", "process_data", func(n int) map[string]any { return map[string]any{"records": 50 + n%400} }},
	{6, "data_processor", "transform", func(n int) map[string]any { return map[string]any{"data": fmt.Sprintf("order %d is paid", n)} }},
	{2, "reports", "daily_summary", func(n int) map[string]any {
		return map[string]any{"date": time.Now().AddDate(0, 0, -n%30).Format(time.DateOnly), "fail": n%50 == 0}
	}},
}

// inContainers are jobs of the predictor, where a Docker engine answers.
var inContainers = kind{4, "predictor", "predict", func(n int) map[string]any {
	return map[string]any{"model_version": "2", "orders": []int{100 + n%50, 120 + n%70, 135 + n%30, 160 + n%90}}
}}

// onLambda are jobs of the function, which fetches its images from the application.
func onLambda(url string) kind {
	return kind{4, "image_resizer", "resize", func(n int) map[string]any {
		return map[string]any{"image_url": fmt.Sprintf("%s/images/%d.png", url, n%50), "width": 64 + n%3*64, "height": 64}
	}}
}

// allKinds are the jobs of a migrated application at the URL given.
func allKinds(url string, containers bool) []kind {
	kinds := append(slices.Concat(overHTTP, byPrograms), onLambda(url))
	if containers {
		kinds = append(kinds, inContainers)
	}
	return kinds
}

// feed queues jobs as the application does, some forty a second with bursts,
// until ctx ends. Each kind comes once at the beginning: a short demo shows all
// of them.
func feed(ctx context.Context, pool *pgxpool.Pool, kinds []kind) error {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	once := kinds
	for n := 1; ; n++ {
		pause := time.Duration(rand.ExpFloat64() * float64(100*time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		for range 1 + rand.IntN(7) {
			k := pick(kinds, total)
			if len(once) > 0 {
				k, once = once[0], once[1:]
			}
			_, err := pool.Exec(context.WithoutCancel(ctx), appschema.Insert, "order-"+jobs.NewID().String(), k.service, k.operation,
				k.input(rand.IntN(100_000)), jobs.NewID(), jobs.NewID(), fmt.Sprintf("req-%d", n), "order", fmt.Sprint(n))
			if err != nil {
				return err
			}
		}
	}
}

func pick(kinds []kind, total int) kind {
	at := rand.IntN(total)
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			return k
		}
	}
	return kinds[0]
}

// waitEmpty waits until no job waits, runs or is due for a retry.
func waitEmpty(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var open int
		err := pool.QueryRow(ctx, `SELECT count(*) FROM jobs.tb_job_run
			WHERE status IN ('pending', 'running') OR status = 'failed' AND retry_at IS NOT NULL`).Scan(&open)
		if err == nil && open == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil // what is still open counts as lost in the report
			}
			return ctx.Err()
		}
	}
}

const reportSQL = `
SELECT execution_type,
       count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_seconds) * 1000, 0),
       coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) * 1000, 0)
  FROM jobs.tb_job_run
 WHERE agent_id IS NOT NULL AND status IN ('completed', 'failed')
 GROUP BY execution_type`

func report(ctx context.Context, pool *pgxpool.Pool, result Result) (Result, error) {
	result.Types = map[string]TypeResult{}
	rows, err := pool.Query(ctx, reportSQL)
	if err != nil {
		return result, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var t TypeResult
		if err := rows.Scan(&name, &t.Completed, &t.Failed, &t.P50, &t.P95); err != nil {
			return result, err
		}
		result.Types[name] = t
	}
	if err := rows.Err(); err != nil {
		return result, err
	}
	err = pool.QueryRow(ctx, `SELECT count(*) FROM jobs.tb_job_run
		WHERE status NOT IN ('completed', 'failed') OR retry_at IS NOT NULL`).Scan(&result.Lost)
	return result, err
}
