package ops

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// AttemptLog is the end of one attempt's log.
type AttemptLog struct {
	Attempt int
	Agent   string // name; empty when it is gone
	jobs.Tail
}

const logsSQL = `
SELECT l.attempt, coalesce(a.name, ''), l.dropped, l.lines
  FROM jobs.tb_job_log l LEFT JOIN jobs.tb_agent a ON a.id = l.agent_id
 WHERE l.job_id = $1 ORDER BY l.attempt`

// JobLogs reads what is kept of the logs of a job's attempts, the first
// attempt's first. Nothing is kept of an attempt that succeeded and wrote
// nothing but its output.
func JobLogs(ctx context.Context, db jobs.Querier, id jobs.ID) ([]AttemptLog, error) {
	rows, err := db.Query(ctx, logsSQL, id)
	if err != nil {
		return nil, Explain(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l AttemptLog, err error) {
		err = row.Scan(&l.Attempt, &l.Agent, &l.Dropped, &l.Lines)
		return l, err
	})
	return list, Explain(err)
}

// LogChunk is what a followed log has to say since the last chunk.
type LogChunk struct {
	Attempt int
	Missed  int64          // lines that were dropped before they could be read
	Lines   []jobs.LogLine // may be empty
	Status  jobs.Status    // the job's, at this moment
	Over    bool           // the job has ended or waits: nothing follows for now
}

const (
	followEvery = 300 * time.Millisecond
	askLogEvery = jobs.FollowFor / 3
)

const followSQL = `
SELECT r.status, coalesce(r.attempts, 0), coalesce(l.dropped, 0), coalesce(l.lines, '[]')
  FROM jobs.tb_job_run r LEFT JOIN jobs.tb_job_log l ON l.job_id = r.id AND l.attempt = r.attempts
 WHERE r.id = $1`

// FollowLog reads the log of a job's present attempt while it runs, and calls
// tell for each piece of it. It returns nil when the attempt is over, after
// its last piece, and the context's error when ctx ends before. It needs no
// right but to read.
func FollowLog(ctx context.Context, db jobs.Querier, id jobs.ID, tell func(LogChunk) error) error {
	var asked time.Time
	next, attempt := int64(0), -1
	for {
		if time.Since(asked) >= askLogEvery {
			if err := jobs.AskForLog(ctx, db, id); err != nil {
				return Explain(err)
			}
			asked = time.Now()
		}
		var c LogChunk
		var dropped int64
		err := db.QueryRow(ctx, followSQL, id).Scan(&c.Status, &c.Attempt, &dropped, &c.Lines)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return fmt.Errorf("%w: %s: it may have been deleted by retention", ErrNoJob, id)
		case err != nil:
			return Explain(err)
		}
		first := attempt < 0
		if c.Attempt != attempt {
			next, attempt = 0, c.Attempt
		}
		end := dropped + int64(len(c.Lines))
		c.Missed = max(0, dropped-next)
		c.Lines = c.Lines[min(max(0, next-dropped), int64(len(c.Lines))):]
		next = max(next, end)
		c.Over = c.Status != jobs.Running
		if first || c.Over || len(c.Lines) > 0 {
			if err := tell(c); err != nil {
				return err
			}
		}
		if c.Over {
			return nil
		}
		pause(ctx, followEvery)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
