package jobs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// LogLine is one line of an attempt's log, as jobs.tb_job_log keeps it.
type LogLine struct {
	At     time.Time `json:"at"`
	Stream string    `json:"stream"` // stdout, stderr, or agent for what the runner noted
	Text   string    `json:"text"`
}

// Tail is the end of an attempt's log.
type Tail struct {
	Dropped int64     // lines before these; the first one's number, from 0
	Lines   []LogLine // oldest first
}

// The log goes to the row's own attempt alone: whoever lost the job keeps his
// to himself. What an earlier agent wrote of the same attempt, which was handed
// back, makes way.
const keepLogSQL = `
INSERT INTO jobs.tb_job_log AS l (job_id, attempt, agent_id, dropped, lines)
SELECT r.id, f.attempt, $1, f.dropped, f.lines::jsonb
  FROM unnest($2::uuid[], $3::int[], $4::bigint[], $5::text[]) AS f(id, attempt, dropped, lines)
  JOIN jobs.tb_job_run r ON r.id = f.id
 WHERE r.id = ANY ($2::uuid[]) AND r.agent_id = $1 AND r.attempts = f.attempt
ON CONFLICT (job_id, attempt) DO UPDATE
   SET agent_id = excluded.agent_id, dropped = excluded.dropped, lines = excluded.lines, updated_at = now()`

// AttemptTail is the end of the log of one attempt under way, or just ended.
type AttemptTail struct {
	Job  *Job
	Tail Tail
}

// KeepLogs writes the ends of attempts' logs.
func KeepLogs(ctx context.Context, conn *pgx.Conn, agent ID, tails []AttemptTail) error {
	_, err := conn.Exec(ctx, keepLogSQL, logArgs(agent, tails)...)
	return err
}

func logArgs(agent ID, tails []AttemptTail) []any {
	n := len(tails)
	ids, attempts, dropped, lines := make([]ID, n), make([]int32, n), make([]int64, n), make([]string, n)
	for i, t := range tails {
		ids[i], attempts[i], dropped[i] = t.Job.ID, int32(t.Job.Attempt), t.Tail.Dropped
		raw, _ := json.Marshal(t.Tail.Lines) // strings and times: it cannot fail
		lines[i] = string(raw)
	}
	return []any{agent, ids, attempts, dropped, lines}
}

// queueLogs adds the logs of ended attempts to an exchange, where they kept any.
func (e *Exchange) queueLogs(batch *pgx.Batch, agent ID) {
	var tails []AttemptTail
	for i := range e.Completed {
		if c := &e.Completed[i]; c.Log != nil {
			tails = append(tails, AttemptTail{c.Job, *c.Log})
		}
	}
	for i := range e.Failed {
		if c := &e.Failed[i].Completion; c.Log != nil {
			tails = append(tails, AttemptTail{c.Job, *c.Log})
		}
	}
	if len(tails) > 0 {
		batch.Queue(keepLogSQL, logArgs(agent, tails)...)
	}
}

// AskForLog asks the agent that runs the job to write its log into
// jobs.tb_job_log every now and then, for FollowFor from now. Whoever goes on
// following asks again before that. Anybody may ask: it changes no row.
func AskForLog(ctx context.Context, db Querier, job ID) error {
	var nothing string
	return db.QueryRow(ctx, `SELECT pg_notify('specql_control', 'log ' || $1::text)::text`, job.String()).Scan(&nothing)
}

// FollowFor is how long an agent goes on writing a log after it was asked to.
const FollowFor = 6 * time.Second
