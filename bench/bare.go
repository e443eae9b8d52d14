package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specql/specql-ops/jobs"
)

// The bare loop is the floor: PostgreSQL's own work for a job and nothing
// else. It knows one service, no lease, no fencing, no result and no figures.
// Rows are updated where they were found, so that no plan depends on how many
// there are; the order is that of the lanes' index.
const (
	bareClaim = `UPDATE jobs.tb_job_run SET status = 'running', attempts = attempts + 1, started_at = now(), updated_at = now()
		WHERE ctid = ANY (ARRAY (SELECT ctid FROM jobs.tb_job_run WHERE service_name = 'noop' AND status = 'pending'
		              ORDER BY coalesce(requeued_at, created_at, '-infinity'), id LIMIT $1 FOR UPDATE SKIP LOCKED))
		RETURNING id, identifier, input_data`
	bareComplete = `UPDATE jobs.tb_job_run SET status = 'completed', duration_seconds = 0, completed_at = now(), updated_at = now()
		WHERE id = ANY ($1) AND status || '' = 'running'`
)

// bareConnections is how many loops share the slots.
func bareConnections(slots int) int {
	if slots > 200 {
		return 2
	}
	return 1
}

// bareLoops are the bare loop on as many connections as suit the slots. They plan as
// an agent's do: what autovacuum finds of a table at rest or full of waiting jobs
// would have them sort all that wait for each claim.
type bareLoops struct {
	slots int // of each
	conns []*pgx.Conn
}

func connectBare(ctx context.Context, url string, slots int) (*bareLoops, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	n := bareConnections(slots)
	b := &bareLoops{slots: slots / n}
	for range n {
		conn, err := jobs.ConnectForExchanges(ctx, config, jobs.Patience{Network: time.Minute, Lock: time.Minute})
		if err != nil {
			b.close()
			return nil, err
		}
		b.conns = append(b.conns, conn)
	}
	return b, nil
}

func (b *bareLoops) close() {
	for _, conn := range b.conns {
		conn.Close(context.Background())
	}
}

// drain empties the queue.
func (b *bareLoops) drain(ctx context.Context, began func(identifier string)) error {
	errs := make([]error, len(b.conns))
	var group sync.WaitGroup
	for i, conn := range b.conns {
		group.Go(func() { errs[i] = bareLoop(ctx, conn, b.slots, began) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// bareLoop completes what it claimed and claims the next jobs in one pipelined
// round trip, until none wait. A job starts when its claim is committed and
// the client knows it.
func bareLoop(ctx context.Context, conn *pgx.Conn, slots int, began func(identifier string)) error {
	var done []jobs.ID
	for {
		batch := &pgx.Batch{}
		if len(done) > 0 {
			batch.Queue(bareComplete, done)
		}
		var claimed []jobs.ID
		var identifiers []string
		batch.Queue(bareClaim, slots).Query(func(rows pgx.Rows) error {
			var id jobs.ID
			var identifier string
			var input []byte
			_, err := pgx.ForEachRow(rows, []any{&id, &identifier, &input}, func() error {
				claimed, identifiers = append(claimed, id), append(identifiers, identifier)
				return nil
			})
			return err
		})
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		for _, identifier := range identifiers {
			began(identifier)
		}
		if done = claimed; len(done) == 0 {
			return nil
		}
	}
}

// bareListener runs the bare loop at each notification until ctx ends.
func bareListener(ctx context.Context, url string, slots int, ready chan<- struct{}, began func(identifier string)) error {
	return listen(ctx, url, ready, func(conn *pgx.Conn) error { return bareLoop(ctx, conn, slots, began) })
}

// waker is an agent that lives as long as the table: rows notify nobody else.
const waker = `INSERT INTO jobs.tb_agent (id, name, host, pid, version, execution_types, slots, lease_expires_at)
	VALUES (gen_random_uuid(), 'bare loop', '', 0, '', '{}', 1, 'infinity')`

// listen calls woken at each notification of waiting jobs, and once more when
// others came meanwhile, until ctx ends. Ready is closed when it listens.
func listen(ctx context.Context, url string, ready chan<- struct{}, woken func(conn *pgx.Conn) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	pending := false
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { pending = true }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{waker, "LISTEN specql_jobs"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	close(ready)
	for {
		if !pending {
			if err := conn.PgConn().WaitForNotification(ctx); err != nil {
				return err
			}
		}
		pending = false
		if err := woken(conn); err != nil {
			return err
		}
	}
}
