package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/jobs"
)

// contender is one of those whose latency is measured: what waits for jobs,
// and how an application queues them for it.
type contender struct {
	name string
	// work runs jobs until ctx ends, and tells of each when it starts. Ready
	// is closed when jobs may be queued.
	work func(ctx context.Context, url string, ready chan<- struct{}, began func(job int)) error
	// apply makes an application's connection.
	apply   func(ctx context.Context, url string) (application, error)
	records bool // completes its jobs in jobs.tb_job_run
	river   bool // has River's table instead
}

// application queues jobs, one to a transaction of its own.
type application interface {
	insert(ctx context.Context, job int) error
	// backlog queues n jobs in one transaction, and returns a query that tells
	// whether one of them is not completed.
	backlog(ctx context.Context, n int) (left string, err error)
	close()
}

// agentContender is the complete agent with no-op runners, its registry
// holding the no-op service and others. The first jobs find it still starting.
func agentContender(slots int, others ...string) contender {
	return contender{name: "agent", apply: applySQL, records: true,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			tell := func(job *jobs.Job) {
				if job.Service == "noop" {
					began(number(job.Identifier))
				}
			}
			a, err := startAgent(ctx, url, slots, append([]string{noopService}, others...),
				noop{jobs.HTTP, tell}, noop{jobs.Shell, tell})
			if err != nil {
				return err
			}
			close(ready)
			<-a.ended
			return a.err
		}}
}

// bareContender is the floor: a connection that listens and runs the bare loop
// at a notification, slots jobs at a time.
func bareContender(slots int) contender {
	return contender{name: "bare claim", apply: applySQL, records: true,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			return bareListener(ctx, url, slots, ready, func(identifier string) { began(number(identifier)) })
		}}
}

// bareApart is the floor with two connections, one that listens and one that
// claims, as a loop must have them that is told of jobs while it claims.
func bareApart(slots int) contender {
	return contender{name: "bare claim, LISTEN apart", apply: applySQL, records: true,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			claims, err := pgx.Connect(ctx, url)
			if err != nil {
				return err
			}
			defer claims.Close(context.WithoutCancel(ctx))
			return listen(ctx, url, ready, func(*pgx.Conn) error {
				return bareLoop(ctx, claims, slots, func(identifier string) { began(number(identifier)) })
			})
		}}
}

// bareDrains is the floor for a drain: the bare loop on as many connections as suit
// the slots, woken by another one.
func bareDrains(slots int) contender {
	return contender{name: "bare loop", apply: applySQL, records: true,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			b, err := connectBare(ctx, url, slots)
			if err != nil {
				return err
			}
			defer b.close()
			return listen(ctx, url, ready, func(*pgx.Conn) error {
				return b.drain(ctx, func(identifier string) { began(number(identifier)) })
			})
		}}
}

// notified takes the notification itself for the start. No job runs.
func notified() contender {
	return contender{name: "notification", apply: applySQL,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			return listen(ctx, url, ready, func(*pgx.Conn) error { began(0); return nil })
		}}
}

func riverContender(slots int, settings riverSettings) contender {
	return contender{name: "River", river: true, apply: applyRiver,
		work: func(ctx context.Context, url string, ready chan<- struct{}, began func(int)) error {
			r, err := startRiver(context.WithoutCancel(ctx), url, slots, settings, began)
			if err != nil {
				return err
			}
			close(ready)
			<-ctx.Done()
			return r.stop(context.WithoutCancel(ctx))
		}}
}

// contend makes a side of each contender. Every measurement has an empty
// database of its own.
func (l *lab) contend(ctx context.Context, contenders []contender,
	measure func(ctx context.Context, db *database, c contender) (figures, error)) ([]side, error) {
	var sides []side
	for _, c := range contenders {
		from, err := l.emptyFor(ctx, c)
		if err != nil {
			return nil, err
		}
		sides = append(sides, side{c.name, func(ctx context.Context) (figures, error) {
			return l.onCopy(ctx, from, func(db *database) (figures, error) { return measure(ctx, db, c) })
		}})
	}
	return sides, nil
}

// emptyFor is the template of a contender's empty table.
func (l *lab) emptyFor(ctx context.Context, c contender) (template, error) {
	if c.river {
		return l.riverTemplate(ctx, 0)
	}
	return l.backlogTemplate(ctx, 0)
}

// on starts the contender on a database. The caller calls stop, which returns
// when it has left.
func (c contender) on(ctx context.Context, db *database, began func(job int)) (stop func() error, err error) {
	working, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.work(working, db.url, ready, began) }()
	select {
	case <-ready:
		return func() error {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		}, nil
	case err := <-ended:
		cancel()
		return nil, err
	}
}

// sqlApplication queues jobs by a compiled application's own INSERT.
type sqlApplication struct {
	conn     *pgx.Conn
	backlogs int // queued so far
}

func applySQL(ctx context.Context, url string) (application, error) {
	conn, err := pgx.Connect(ctx, url)
	return &sqlApplication{conn: conn}, err
}

func (a *sqlApplication) insert(ctx context.Context, job int) error {
	_, err := a.conn.Exec(ctx, appschema.Insert, identifier(job), "noop", "run", `{"n": 1}`, nil, nil, "c", "e", "1")
	return err
}

func (a *sqlApplication) close() { a.conn.Close(context.Background()) }

func (a *sqlApplication) backlog(ctx context.Context, n int) (left string, err error) {
	var first, last string // new ids are ordered by time
	a.backlogs++
	err = a.conn.QueryRow(ctx, `WITH queued AS (`+backlogSQL+` RETURNING id)
		SELECT min(id::text), max(id::text) FROM queued`, "backlog-"+strconv.Itoa(a.backlogs), "noop", n).Scan(&first, &last)
	return fmt.Sprintf(`SELECT (SELECT 1 FROM jobs.tb_job_run WHERE id BETWEEN '%s' AND '%s' AND status <> 'completed'
		ORDER BY id DESC LIMIT 1) IS NOT NULL`, first, last), err
}

func identifier(job int) string { return "single-" + strconv.Itoa(job) }

// number is the job that an identifier stands for.
func number(identifier string) int {
	n, _ := strconv.Atoi(identifier[strings.LastIndexByte(identifier, '-')+1:])
	return n
}

// riverApplication queues jobs by a River client that does nothing else.
type riverApplication struct{ *riverRunning }

func applyRiver(ctx context.Context, url string) (application, error) {
	r, err := newRiver(ctx, url, riverPrompt, &river.Config{})
	return riverApplication{r}, err
}

func (a riverApplication) insert(ctx context.Context, job int) error {
	_, err := a.client.Insert(ctx, riverArgs{job}, nil)
	return err
}

func (a riverApplication) backlog(ctx context.Context, n int) (left string, err error) {
	var first, last int64
	err = a.pool.QueryRow(ctx, `WITH queued AS (`+riverBacklogSQL+` RETURNING id)
		SELECT min(id), max(id) FROM queued`, n).Scan(&first, &last)
	return fmt.Sprintf(`SELECT (SELECT 1 FROM river_job WHERE id BETWEEN %d AND %d AND state <> 'completed'
		ORDER BY id DESC LIMIT 1) IS NOT NULL`, first, last), err
}

func (a riverApplication) close() { a.pool.Close() }
