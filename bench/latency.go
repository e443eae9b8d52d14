package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/jobs"
)

// latency measures from the application's INSERT, sent, to the job's start in
// an idle agent, against the same INSERT's notification arriving at a bare
// LISTEN: what the agent adds is its claim.
func latency(ctx context.Context, server *devdb.Server, rounds, n int) error {
	var ourMedian, ourTail, floorMedian, floorTail []float64
	for round := range rounds {
		url, conn, err := database(ctx, server, fmt.Sprintf("latency_%d", round))
		if err != nil {
			return err
		}
		bare, err := listenOnly(ctx, url, conn, n)
		if err != nil {
			return err
		}
		ours, err := agentStart(ctx, url, conn, n)
		if err != nil {
			return err
		}
		conn.Close(ctx)
		floorMedian = append(floorMedian, quantile(bare, 0.5).Seconds())
		floorTail = append(floorTail, quantile(bare, 0.99).Seconds())
		ourMedian = append(ourMedian, quantile(ours, 0.5).Seconds())
		ourTail = append(ourTail, quantile(ours, 0.99).Seconds())
	}
	row := func(name string, a, b float64) {
		fmt.Printf("insert to start, %s:      agent %6.2f ms   bare LISTEN %6.2f ms   ratio %.2f\n", name, a*1e3, b*1e3, a/b)
	}
	row("p50", median(ourMedian), median(floorMedian))
	row("p99", median(ourTail), median(floorTail))
	return nil
}

func insert(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, appschema.Insert, "bench-"+jobs.NewID().String(), "noop", "run", `{"n": 1}`, nil, nil, "c", "e", "1")
	return err
}

// listenOnly measures INSERT to notification.
func listenOnly(ctx context.Context, url string, conn *pgx.Conn, n int) ([]time.Duration, error) {
	listener, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer listener.Close(ctx)
	if _, err := listener.Exec(ctx, "LISTEN specql_jobs"); err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n)
	failed := make(chan error, 1)
	for range n {
		start := time.Now()
		go func() { failed <- insert(ctx, conn) }()
		if _, err := listener.WaitForNotification(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
		if err := <-failed; err != nil {
			return nil, err
		}
	}
	_, err = conn.Exec(ctx, "DELETE FROM jobs.tb_job_run")
	return took, err
}

// agentStart measures INSERT to the runner's start.
func agentStart(ctx context.Context, url string, conn *pgx.Conn, n int) ([]time.Duration, error) {
	began := make(chan time.Time, 1)
	stop, err := runAgent(ctx, url, 100, func(*jobs.Job) { began <- time.Now() })
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n)
	for i := range n + 20 {
		start := time.Now()
		if err := insert(ctx, conn); err != nil {
			return nil, err
		}
		if at := <-began; i >= 20 { // the first ones find the statements unprepared
			took = append(took, at.Sub(start))
		}
		// The next one shall find the agent idle, not recording this one.
		for done := false; !done; {
			if err := conn.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM jobs.tb_job_run WHERE status <> 'completed')").Scan(&done); err != nil {
				return nil, err
			}
		}
	}
	return took, stop()
}
