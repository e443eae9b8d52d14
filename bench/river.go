package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverArgs is a River job that does as much as the others: nothing.
type riverArgs struct {
	N int `json:"n"`
}

func (riverArgs) Kind() string { return "noop" }

// riverSettings are what River lets its user choose and what matters here. It
// completes jobs in batches of its own sizes, which are no settings.
type riverSettings struct {
	cooldown    time.Duration // least time between two fetches
	poll        time.Duration // fetches without a notification
	connections int32
}

var (
	// riverDrain are the settings for a drain. Tried on two cores, at 100 slots
	// each longer cooldown gave less (22,000 jobs a second at 1 ms, 16,000 at
	// 5 ms, 9,000 at 10 ms, 5,000 at 20 ms); at 2000 slots all up to 10 ms gave
	// the same 31,000, the default of 100 ms a third less. Neither the poll
	// (5 to 100 ms) nor the pool (4 to 40 connections) made a difference.
	riverDrain = riverSettings{cooldown: time.Millisecond, poll: 20 * time.Millisecond, connections: 10}

	// riverPrompt are the settings for latency: the shortest wait after a
	// notification that River allows, and a short poll, since its inserts
	// notify at most once in that time.
	riverPrompt = riverSettings{cooldown: time.Millisecond, poll: 5 * time.Millisecond, connections: 10}
)

// riverRunning is a River client in this process, with its pool.
type riverRunning struct {
	client *river.Client[pgx.Tx]
	pool   *pgxpool.Pool
}

// startRiver works the default queue of the database.
func startRiver(ctx context.Context, url string, slots int, s riverSettings, began func(n int)) (*riverRunning, error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(_ context.Context, job *river.Job[riverArgs]) error {
		began(job.Args.N)
		return nil
	}))
	r, err := newRiver(ctx, url, s, &river.Config{
		Queues:     map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
		Workers:    workers,
		JobTimeout: -1, // no timer for each job
	})
	if err != nil {
		return nil, err
	}
	if err := r.client.Start(ctx); err != nil {
		r.pool.Close()
		return nil, err
	}
	return r, nil
}

// newRiver makes a client; without queues it is one that inserts.
func newRiver(ctx context.Context, url string, s riverSettings, config *river.Config) (*riverRunning, error) {
	poolConfig, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	poolConfig.MaxConns = s.connections
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, err
	}
	config.FetchCooldown, config.FetchPollInterval = s.cooldown, s.poll
	config.Logger = slog.New(slog.DiscardHandler)
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &riverRunning{client, pool}, nil
}

// stop lets the client leave in order: when it returns all that was worked is
// recorded as completed.
func (r *riverRunning) stop(ctx context.Context) error {
	defer r.pool.Close()
	return r.client.Stop(ctx)
}

// riverTemplate has River's schema and n finished jobs. Statements for a drain are to
// be planned for a table in use: on an empty one River fetches 300 jobs a second.
func (l *lab) riverTemplate(ctx context.Context, n int) (template, error) {
	return l.template(ctx, "River's "+thousands(n)+" finished jobs", func(ctx context.Context, conn *pgx.Conn) error {
		pool, err := pgxpool.New(ctx, conn.Config().ConnString())
		if err != nil {
			return err
		}
		defer pool.Close()
		migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
		if err != nil {
			return err
		}
		if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
			return err
		}
		_, err = conn.Exec(ctx, `INSERT INTO river_job (args, kind, max_attempts, tags, state, attempt, attempted_at, finalized_at)
			SELECT jsonb_build_object('n', n), 'noop', 25, '{}', 'completed', 1, now(), now() FROM generate_series(1, $1) n`, n)
		return err
	})
}

// riverBacklogSQL queues jobs as River's client does with many at once.
const riverBacklogSQL = `INSERT INTO river_job (args, kind, max_attempts, tags)
	SELECT jsonb_build_object('n', n), 'noop', 25, '{}' FROM generate_series(1, $1) n`
