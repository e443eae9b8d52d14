package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

const benchRegistry = `
services:
  - name: noop
    type: bench
    category: bench
    runner_config: { base_url: "http://127.0.0.1:1" }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`

// noop is a runner that does nothing, and says when.
type noop struct{ began func(*jobs.Job) }

func (noop) Type() jobs.ExecutionType { return jobs.HTTP }

func (n noop) Run(_ context.Context, call runners.Call) (runners.Result, error) {
	n.began(call.Job)
	return runners.Result{}, nil
}

// runAgent runs an agent until stop is called; stop returns when it has left.
func runAgent(ctx context.Context, url string, slots int, began func(*jobs.Job)) (stop func() error, err error) {
	config, diags := registry.Parse("bench.yaml", []byte(benchRegistry), registry.Options{})
	if config == nil {
		return nil, diags.Err()
	}
	a, err := agent.New(agent.Options{DatabaseURL: url, Config: config, Slots: slots, Runners: []runners.Runner{noop{began}}})
	if err != nil {
		return nil, err
	}
	working, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(working) }()
	return func() error { cancel(); return <-ended }, nil
}

// throughput drains the same number of no-op jobs through the agent and
// through a bare loop, in turn.
func throughput(ctx context.Context, server *devdb.Server, rounds, n, slots int) error {
	var ours, floor []float64
	for round := range rounds {
		for _, bare := range []bool{round%2 == 0, round%2 != 0} {
			url, conn, err := database(ctx, server, fmt.Sprintf("throughput_%d_%d_%t", slots, round, bare))
			if err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data)
				SELECT md5(n::text)::uuid, 'job-' || n, 'noop', 'run', '{"n": 1}' FROM generate_series(1, $1) n`, n); err != nil {
				return err
			}
			for _, settle := range []string{"VACUUM ANALYZE jobs.tb_job_run", "CHECKPOINT"} {
				if _, err := conn.Exec(ctx, settle); err != nil {
					return err
				}
			}
			var took time.Duration
			if bare {
				took, err = drainBare(ctx, url, n, slots)
				floor = append(floor, float64(n)/took.Seconds())
			} else {
				took, err = drainAgent(ctx, url, n, slots)
				ours = append(ours, float64(n)/took.Seconds())
			}
			if err != nil {
				return err
			}
			var left int
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM jobs.tb_job_run WHERE status <> 'completed'`).Scan(&left); err != nil {
				return err
			}
			conn.Close(ctx)
			if left != 0 {
				return fmt.Errorf("throughput: %d jobs were not completed", left)
			}
		}
	}
	a, b := median(ours), median(floor)
	fmt.Printf("no-op jobs, %4d slots:   agent %6.0f/s   bare loop %6.0f/s   ratio %.2f\n", slots, a, b, a/b)
	return nil
}

func drainAgent(ctx context.Context, url string, n, slots int) (time.Duration, error) {
	var begun atomic.Int64
	all := make(chan struct{})
	start := time.Now()
	stop, err := runAgent(ctx, url, slots, func(*jobs.Job) {
		if begun.Add(1) == int64(n) {
			close(all)
		}
	})
	if err != nil {
		return 0, err
	}
	select {
	case <-all:
	case <-ctx.Done():
	}
	err = stop() // returns when everything is recorded
	return time.Since(start), err
}

const (
	bareClaim = `UPDATE jobs.tb_job_run SET status = 'running', attempts = attempts + 1, started_at = now(), updated_at = now()
		WHERE id IN (SELECT id FROM jobs.tb_job_run WHERE service_name = 'noop' AND status = 'pending'
		              ORDER BY coalesce(requeued_at, created_at) LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING id, input_data`
	bareComplete = `UPDATE jobs.tb_job_run SET status = 'completed', duration_seconds = 0, completed_at = now(), updated_at = now()
		WHERE id = ANY ($1) AND status = 'running'`
)

// drainBare is the floor: each connection completes what it claimed and
// claims the next batch in one pipelined round trip, and nothing else.
func drainBare(ctx context.Context, url string, n, slots int) (time.Duration, error) {
	connections := 1
	if slots > 200 {
		connections = 2
	}
	start := time.Now()
	var group sync.WaitGroup
	errs := make([]error, connections)
	for i := range connections {
		group.Go(func() { errs[i] = bareLoop(ctx, url, slots/connections) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

func bareLoop(ctx context.Context, url string, slots int) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done []jobs.ID
	for {
		batch := &pgx.Batch{}
		if len(done) > 0 {
			batch.Queue(bareComplete, done)
		}
		var claimed []jobs.ID
		batch.Queue(bareClaim, slots).Query(func(rows pgx.Rows) error {
			var id jobs.ID
			var input []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &input}, func() error { claimed = append(claimed, id); return nil })
			return err
		})
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if done = claimed; len(done) == 0 {
			return nil
		}
	}
}
