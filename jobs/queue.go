package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Completion is a job that ended well.
type Completion struct {
	Job      *Job
	Output   json.RawMessage // nil: null
	Usage    json.RawMessage // nil: null
	Security json.RawMessage // merged into security_context; nil: unchanged
	Duration time.Duration
	Log      *Tail // nil: none is kept
}

// Failure is an attempt that ended badly.
type Failure struct {
	Completion
	Error     string
	Violation string        // the policy's rule or the limit that was broken; empty: none
	Final     bool          // no retry, whatever max_attempts says
	RetryIn   time.Duration // when attempts are left
}

// HandBack is an attempt that is given back: the job is pending again, the attempt
// not counted.
type HandBack struct {
	Job *Job
	// Unstarted says that nothing was asked of the service: what the claim counted
	// against its limits is given back too.
	Unstarted bool
}

// Exchange is one round trip of an agent with the queue: what it finished,
// what it hands back unfinished, and what it has room for.
type Exchange struct {
	Completed []Completion
	Failed    []Failure
	HandBack  []HandBack
	Circuits  []Circuit
	Costs     []Cost
	Busy      []Busy // by service
	Metrics   []Metric
	Claim     Claim
	Search    bool // for the services that have waiting jobs
}

// Exchanged is what came of an Exchange.
type Exchanged struct {
	Claimed []*Job
	// Recorded counts results that the table took. Those missing had lost
	// their lease or were cancelled: they changed nothing.
	Recorded int
	Gates    []Gate   // of the gated lanes that were asked, in their order
	Waiting  []string // the services that have waiting jobs, as rows spell them
}

// ErrLeaseLost says that the agent's own lease has run out: it must register
// anew before it claims again. Its jobs may already run elsewhere.
var ErrLeaseLost = errors.New("the agent's lease has expired")

// A finish is fenced by status, agent and attempt: whoever lost the job, by
// an expired lease, a cancellation or another agent's claim, changes nothing.
//
// The rows are read where the claim left them, in one scan; completeMovedSQL
// finds those that somebody has touched since. Results and rows are joined by a
// hash: the series makes the planner expect as many results as there often are,
// where it would expect ten and compare each with each. The concatenation keeps
// it from the index on running jobs, which it would walk once for each result, and
// uuid_send from the primary key: of a table that was nearly empty when the plan was
// made it would read the whole index, however much the table has grown since.
const (
	completeSQL = completeRowsSQL + `
 WHERE r.ctid = ANY ($8::tid[])` + fencedSQL
	completeMovedSQL = completeRowsSQL + `
 WHERE r.id = ANY ($2::uuid[])` + fencedSQL

	completeRowsSQL = `
UPDATE jobs.tb_job_run r
   SET status = 'completed', output_data = f.output::jsonb, resource_usage = f.usage::jsonb,
       security_context = CASE WHEN f.security IS NULL THEN r.security_context
                               ELSE coalesce(r.security_context, '{}') || f.security::jsonb END,
       duration_seconds = f.duration, error_message = NULL, retry_at = NULL,
       completed_at = now(), updated_at = now()
  FROM (SELECT generate_series(1, cardinality($2::uuid[])), $1::uuid AS agent, 'running' AS status,
               uuid_send(unnest($2::uuid[])) AS id, unnest($3::int[]) AS attempt, unnest($4::text[]) AS output,
               unnest($5::text[]) AS usage, unnest($6::text[]) AS security, unnest($7::float8[]) AS duration) f`
	fencedSQL = `
   AND uuid_send(r.id) = f.id AND r.status || '' = f.status AND r.agent_id = f.agent AND r.attempts = f.attempt`
)

const failSQL = `
WITH f AS (
    SELECT * FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::float8[],
                         $8::text[], $9::text[], $10::bool[], $11::float8[])
           AS f(id, attempt, output, usage, security, duration, error, violation, final, retry_in)
), failed AS (
    UPDATE jobs.tb_job_run r
       SET status = 'failed', output_data = f.output::jsonb, resource_usage = f.usage::jsonb,
           security_context = CASE WHEN f.security IS NULL THEN r.security_context
                                   ELSE coalesce(r.security_context, '{}') || f.security::jsonb END,
           duration_seconds = f.duration, error_message = f.error,
           max_attempts = CASE WHEN f.final THEN r.attempts ELSE r.max_attempts END,
           retry_at = CASE WHEN NOT f.final AND r.attempts < r.max_attempts
                           THEN now() + make_interval(secs => f.retry_in) END,
           completed_at = now(), updated_at = now()
      FROM f
     WHERE r.id = ANY ($2::uuid[]) AND r.id = f.id
       AND r.status || '' = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt
    RETURNING r.id, r.attempts, r.started_at, f.duration, f.error, f.violation, f.usage
)
INSERT INTO jobs.tb_job_attempt
       (job_id, attempt, agent_id, started_at, duration_seconds, error_message, violation, resource_usage)
SELECT id, attempts, $1, started_at, duration, error, nullif(violation, ''), usage::jsonb FROM failed`

const handBackSQL = `
UPDATE jobs.tb_job_run r
   SET status = 'pending', attempts = r.attempts - 1, started_at = NULL, updated_at = now()
  FROM unnest($2::uuid[], $3::int[]) AS f(id, attempt)
 WHERE r.id = ANY ($2::uuid[]) AND r.id = f.id AND r.status || '' = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt`

// handBackUnstartedSQL hands back and takes each claim off the slice in which its
// transaction began. That is the slice in which it was counted or, rarely, the one
// before: an older one never lets a window have more than its limit. It counts under
// the lock of the lane, as claims do. What another agent has taken over stays counted.
const handBackUnstartedSQL = `
WITH back AS (
    UPDATE jobs.tb_job_run r
       SET status = 'pending', attempts = r.attempts - 1, started_at = NULL, updated_at = now()
      FROM unnest($2::uuid[], $3::int[], $4::timestamptz[]) AS f(id, attempt, claimed_at)
     WHERE r.id = ANY ($2::uuid[]) AND r.id = f.id AND r.status || '' = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt
    RETURNING r.service_name, f.claimed_at
), lane AS (
    SELECT service_name FROM jobs.tb_lane WHERE service_name = ANY (ARRAY (SELECT service_name FROM back))
     ORDER BY service_name FOR UPDATE
), uncounted AS (
    UPDATE jobs.tb_lane_spent s SET jobs = greatest(0, s.jobs - u.n)
      FROM (SELECT service_name, g.gate, floor(extract(epoch FROM back.claimed_at) / g.width)::bigint AS slice, count(*)::integer AS n
              FROM back JOIN lane USING (service_name) CROSS JOIN (VALUES ('minute', 0.6::float8), ('hour', 36)) AS g(gate, width)
             GROUP BY 1, 2, 3) u
     WHERE s.service_name = u.service_name AND s.gate = u.gate AND s.slice = u.slice
)
SELECT count(*) FROM back`

// Do makes one exchange on conn in one round trip and one transaction: either
// all of it happened or none. Claimed jobs come in the order in which they
// waited. conn is one that Connect made.
func (e *Exchange) Do(ctx context.Context, conn *pgx.Conn, agent ID) (Exchanged, error) {
	var out Exchanged
	batch := &pgx.Batch{}
	count := func(n *int) func(pgconn.CommandTag) error {
		return func(tag pgconn.CommandTag) error { *n += int(tag.RowsAffected()); return nil }
	}
	var completed int
	if len(e.Completed) > 0 {
		batch.Queue(completeSQL, append(completionArgs(agent, e.Completed), places(e.Completed))...).Exec(count(&completed))
	}
	if len(e.Failed) > 0 {
		batch.Queue(failSQL, failureArgs(agent, e.Failed)...).Exec(count(&out.Recorded))
	}
	e.queueHandBacks(batch, agent, &out.Recorded)
	e.queueLogs(batch, agent)
	queueCircuits(batch, e.Circuits)
	queueCosts(batch, e.Costs)
	queueBusy(batch, e.Busy)
	queueMetrics(batch, e.Metrics)
	e.Claim.queue(batch, agent, &out)
	if e.Search {
		batch.Queue(searchSQL).Query(func(rows pgx.Rows) (err error) {
			out.Waiting, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
	}
	if batch.Len() == 0 {
		return out, nil
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return Exchanged{}, fmt.Errorf("exchange with the queue: %w", err)
	}
	out.Recorded += completed
	if completed < len(e.Completed) {
		tag, err := conn.Exec(ctx, completeMovedSQL, completionArgs(agent, e.Completed)...)
		if err != nil { // the rest stands, and what it claimed must not be forgotten
			return out, &MovedError{Err: err}
		}
		out.Recorded += int(tag.RowsAffected())
	}
	slices.SortFunc(out.Claimed, func(a, b *Job) int { return a.Place.Compare(b.Place) })
	return out, nil
}

func (e *Exchange) queueHandBacks(batch *pgx.Batch, agent ID, recorded *int) {
	for _, unstarted := range []bool{false, true} {
		var ids []ID
		var attempts []int32
		var claimed []time.Time
		for _, h := range e.HandBack {
			if h.Unstarted == unstarted {
				ids, attempts, claimed = append(ids, h.Job.ID), append(attempts, int32(h.Job.Attempt)), append(claimed, h.Job.StartedAt)
			}
		}
		switch {
		case len(ids) == 0:
		case unstarted:
			batch.Queue(handBackUnstartedSQL, agent, ids, attempts, claimed).QueryRow(func(row pgx.Row) error {
				var n int
				err := row.Scan(&n)
				*recorded += n
				return err
			})
		default:
			batch.Queue(handBackSQL, agent, ids, attempts).Exec(func(tag pgconn.CommandTag) error {
				*recorded += int(tag.RowsAffected())
				return nil
			})
		}
	}
}

// MovedError says that an exchange was carried out but for completions whose
// rows had been touched by somebody since the claim; those are to be sent
// again.
type MovedError struct{ Err error }

func (e *MovedError) Error() string {
	return "record jobs that were touched meanwhile: " + e.Err.Error()
}
func (e *MovedError) Unwrap() error { return e.Err }

// completionArgs are the parameters of completions, without their places.
func completionArgs(agent ID, done []Completion) []any {
	n := len(done)
	ids, attempts := newArray(pgtype.UUIDOID, n, len(ID{})), newArray(pgtype.Int4OID, n, 4)
	outputs, usages, securities := newArray(pgtype.TextOID, n, 64), newArray(pgtype.TextOID, n, 64), newArray(pgtype.TextOID, n, 0)
	durations := newArray(pgtype.Float8OID, n, 8)
	for i := range done {
		c := &done[i]
		ids, attempts = ids.uuid(c.Job.ID), attempts.int4(c.Job.Attempt)
		outputs, usages, securities = outputs.text(c.Output), usages.text(c.Usage), securities.text(c.Security)
		durations = durations.float8(c.Duration.Seconds())
	}
	return []any{agent, ids, attempts, outputs, usages, securities, durations}
}

// places are where the claims left the completed jobs' rows. A job of a gated
// lane has none; the search by id finds it.
func places(done []Completion) array {
	a := newArray(pgtype.TIDOID, len(done), 6)
	for i := range done {
		a = a.tid(done[i].Job.place)
	}
	return a
}

func failureArgs(agent ID, failed []Failure) []any {
	n := len(failed)
	done := make([]Completion, n)
	messages, violations := make([]string, n), make([]string, n)
	final, retryIn := make([]bool, n), make([]float64, n)
	for i := range failed {
		f := &failed[i]
		done[i] = f.Completion
		messages[i], violations[i], final[i], retryIn[i] = f.Error, f.Violation, f.Final, f.RetryIn.Seconds()
	}
	return append(completionArgs(agent, done), messages, violations, final, retryIn)
}

// Unstorable tells whether err says that a value cannot be stored (SQLSTATE
// class 22 or an encoding error), so that the batch must be taken apart.
func Unstorable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code == "54000")
}

// Locked tells whether err says that somebody else holds a lock for longer
// than the session waits for one.
func Locked(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55P03"
}

const freeSQL = `SELECT id FROM jobs.tb_job_run WHERE id = ANY ($1) FOR UPDATE SKIP LOCKED`

// Free returns those of the jobs whose rows nobody has locked.
func Free(ctx context.Context, conn *pgx.Conn, ids []ID) (map[ID]bool, error) {
	rows, err := conn.Query(ctx, freeSQL, ids)
	if err != nil {
		return nil, err
	}
	free := map[ID]bool{}
	var id ID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error { free[id] = true; return nil })
	return free, err
}
