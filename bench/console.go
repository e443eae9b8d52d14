package main

import (
	"context"
	"slices"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

const (
	readings   = 200              // of each query
	liveWindow = 15 * time.Minute // what the console's live page looks back on
	pageSize   = 100              // jobs
	burstJobs  = 200_000          // queued within seconds and drained since
)

// console measures what the console's pages ask, on the largest table of
// finished jobs, with a day's figures of ten services and ten agents in it. The
// newest of the jobs came in a burst, some of them into gaps of older pages, as
// the new rows of any table in use do.
func console(ctx context.Context, l *lab) error {
	n := slices.Max(l.sizes.finished)
	from, err := l.finishedTemplate(ctx, n)
	if err != nil {
		return err
	}
	found, err := l.interleave(ctx, "console", 1, []side{{"reads", func(ctx context.Context) (figures, error) {
		return l.onCopy(ctx, from, func(db *database) (figures, error) { return reads(ctx, db) })
	}}})
	if err != nil {
		return err
	}
	l.table.heading("Console: what its pages ask, with " + thousands(n) + " finished jobs")
	reads := found.of("reads")
	for _, q := range []struct {
		name   string
		wanted float64
	}{
		{"live page", 0.005}, {"top line", 0.005}, {"agents", 0.005}, {"first page of jobs", 0.005},
		{"jobs of three days ago", 0.050}, // at once, to a person's eye
	} {
		l.table.figure(q.name+", p50", reads[q.name+" "+p50], milliseconds, none)
		l.table.figure(q.name+", p95", reads[q.name+" "+p95], milliseconds, atMost(q.wanted))
	}
	return nil
}

const (
	agentsSQL = `
INSERT INTO jobs.tb_agent (id, name, host, pid, version, execution_types, slots, running, registry_hash, lease_expires_at)
SELECT gen_random_uuid(), 'agent-' || n, 'host-' || n, n, '1.0.0', '{http,shell}', 100, 7, 'abc', now() + interval '1 hour'
  FROM generate_series(1, 10) n`

	metricsSQL = `
INSERT INTO jobs.tb_job_metric (minute, execution_type, service_name, operation, completed, failed, busy_seconds, duration_hist, wait_hist)
SELECT date_trunc('minute', now()) - m * interval '1 minute', CASE WHEN s < 8 THEN 'http' ELSE 'shell' END, 'service_' || s, 'run',
       490 + m % 40, m % 7, 60, array_fill(5::bigint, ARRAY[104]), array_fill(5::bigint, ARRAY[104])
  FROM generate_series(0, 1439) m, generate_series(0, 9) s`
)

// reads asks everything in turn, as often as readings says.
func reads(ctx context.Context, db *database) (figures, error) {
	if err := burst(burstJobs)(ctx, db.conn); err != nil {
		return nil, err
	}
	if err := execute(ctx, db.conn, agentsSQL, metricsSQL, "VACUUM ANALYZE"); err != nil {
		return nil, err
	}
	pool, err := ops.Connect(ctx, db.url, "bench")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	past := time.Now().Add(-72 * time.Hour)
	page := func(after ops.Cursor) error {
		_, err := ops.ListJobs(ctx, pool, ops.Filter{}, ops.Page{Size: pageSize, After: after})
		return err
	}
	asks := map[string]func() error{
		"live page":              func() error { _, err := ops.GetLive(ctx, pool, liveWindow); return err },
		"top line":               func() error { _, err := ops.GetOverview(ctx, pool); return err },
		"agents":                 func() error { _, err := ops.ListAgents(ctx, pool); return err },
		"first page of jobs":     func() error { return page(ops.Cursor{}) },
		"jobs of three days ago": func() error { return page(ops.Cursor{CreatedAt: past, ID: jobs.FirstID(past)}) },
	}
	took := map[string][]time.Duration{}
	for i := range warmUp + readings {
		for name, ask := range asks {
			start := time.Now()
			if err := ask(); err != nil {
				return nil, err
			}
			if i >= warmUp {
				took[name] = append(took[name], time.Since(start))
			}
		}
	}
	found := figures{}
	for name := range asks {
		found[name+" "+p50], found[name+" "+p95] = quantile(took[name], 0.5), quantile(took[name], 0.95)
	}
	return found, nil
}
