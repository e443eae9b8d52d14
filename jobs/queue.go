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
)

// Lane is one service's place in a claim: how many of its waiting jobs the
// agent has room for. A switched-off, throttled or full lane is left out of
// the claim, so however many jobs wait in it they cost the others nothing.
type Lane struct {
	Service string        // as rows spell it
	Type    ExecutionType // what the registry says runs it; written to the row
	Room    int           // at least 1
}

// Claim asks for waiting jobs. The zero value claims nothing.
type Claim struct {
	Lanes []Lane
	Limit int // at most this many jobs over all lanes
}

// Completion is a job that ended well.
type Completion struct {
	ID       ID
	Attempt  int
	Output   json.RawMessage // nil: null
	Usage    json.RawMessage // nil: null
	Security json.RawMessage // merged into security_context; nil: unchanged
	Duration time.Duration
}

// Failure is an attempt that ended badly.
type Failure struct {
	Completion
	Error     string
	Violation string        // the policy's rule or the limit that was broken; empty: none
	Final     bool          // no retry, whatever max_attempts says
	RetryIn   time.Duration // when attempts are left
}

// Exchange is one round trip of an agent with the queue: what it finished,
// what it hands back unfinished, and what it has room for.
type Exchange struct {
	Completed []Completion
	Failed    []Failure
	HandBack  []*Job // interrupted by a drain: pending again, the attempt not counted
	Metrics   []Metric
	Claim     Claim
}

// Exchanged is what came of an Exchange.
type Exchanged struct {
	Claimed []*Job
	// Recorded counts results that the table took. Those missing had lost
	// their lease or were cancelled: they changed nothing.
	Recorded int
}

// ErrLeaseLost says that the agent's own lease has run out: it must register
// anew before it claims again. Its jobs may already run elsewhere.
var ErrLeaseLost = errors.New("the agent's lease has expired")

// A finish is fenced by status, agent and attempt: whoever lost the job, by
// an expired lease, a cancellation or another agent's claim, changes nothing.
const completeSQL = `
UPDATE jobs.tb_job_run r
   SET status = 'completed', output_data = f.output::jsonb, resource_usage = f.usage::jsonb,
       security_context = CASE WHEN f.security IS NULL THEN r.security_context
                               ELSE coalesce(r.security_context, '{}') || f.security::jsonb END,
       duration_seconds = f.duration, error_message = NULL, retry_at = NULL,
       completed_at = now(), updated_at = now()
  FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::float8[])
       AS f(id, attempt, output, usage, security, duration)
 WHERE r.id = f.id AND r.status = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt`

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
     WHERE r.id = f.id AND r.status = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt
    RETURNING r.id, r.attempts, r.started_at, f.duration, f.error, f.violation, f.usage
)
INSERT INTO jobs.tb_job_attempt
       (job_id, attempt, agent_id, started_at, duration_seconds, error_message, violation, resource_usage)
SELECT id, attempts, $1, started_at, duration, error, nullif(violation, ''), usage::jsonb FROM failed`

const handBackSQL = `
UPDATE jobs.tb_job_run r
   SET status = 'pending', attempts = r.attempts - 1, started_at = NULL, updated_at = now()
  FROM unnest($2::uuid[], $3::int[]) AS f(id, attempt)
 WHERE r.id = f.id AND r.status = 'running' AND r.agent_id = $1 AND r.attempts = f.attempt`

// The switches and the agent's own lease are read in the claim itself: a type
// that was switched off is obeyed by the next claim after the commit, and an
// agent that was given up for dead gets nothing.
const claimSQL = `
WITH lane AS MATERIALIZED (
    SELECT l.service, l.type, l.room
      FROM unnest($2::text[], $3::text[], $4::int[]) WITH ORDINALITY AS l(service, type, room, n)
      JOIN jobs.tb_execution_type t ON t.execution_type = l.type AND t.enabled
     WHERE EXISTS (SELECT FROM jobs.tb_agent a WHERE a.id = $1 AND a.lease_expires_at > now())
     ORDER BY l.n
), picked AS MATERIALIZED (
    SELECT j.id, lane.type
      FROM lane CROSS JOIN LATERAL (
           SELECT id FROM jobs.tb_job_run
            WHERE service_name = lane.service AND status = 'pending'
            ORDER BY coalesce(requeued_at, created_at)
            LIMIT lane.room
              FOR UPDATE SKIP LOCKED) j
     LIMIT $5
)
UPDATE jobs.tb_job_run r
   SET status = 'running', agent_id = $1, execution_type = picked.type,
       attempts = coalesce(r.attempts, 0) + 1, max_attempts = coalesce(r.max_attempts, 3),
       started_at = now(), completed_at = NULL, retry_at = NULL, updated_at = now()
  FROM picked
 WHERE r.id = picked.id
RETURNING r.id, r.identifier, r.service_name, r.operation, r.input_data, r.runner_config, r.security_context,
          r.attempts, r.max_attempts, coalesce(r.timeout_seconds, 0), coalesce(r.tenant_id::text, ''),
          coalesce(r.correlation_id, ''), coalesce(r.idempotency_key, ''),
          coalesce(r.requeued_at, r.created_at, r.started_at), r.started_at`

// Do makes one exchange on conn in one round trip and one transaction: either
// all of it happened or none. Claimed jobs come in the order of their lanes'
// waiting time.
func (e *Exchange) Do(ctx context.Context, conn *pgx.Conn, agent ID) (Exchanged, error) {
	var out Exchanged
	batch := &pgx.Batch{}
	record := func(sql string, args ...any) {
		batch.Queue(sql, args...).Exec(func(tag pgconn.CommandTag) error {
			out.Recorded += int(tag.RowsAffected())
			return nil
		})
	}
	if len(e.Completed) > 0 {
		c := newColumns(len(e.Completed))
		for i := range e.Completed {
			c.add(&e.Completed[i])
		}
		record(completeSQL, c.args(agent)...)
	}
	if len(e.Failed) > 0 {
		record(failSQL, failureArgs(agent, e.Failed)...)
	}
	if len(e.HandBack) > 0 {
		ids, attempts := make([]ID, len(e.HandBack)), make([]int32, len(e.HandBack))
		for i, j := range e.HandBack {
			ids[i], attempts[i] = j.ID, int32(j.Attempt)
		}
		record(handBackSQL, agent, ids, attempts)
	}
	queueMetrics(batch, e.Metrics)
	if len(e.Claim.Lanes) > 0 && e.Claim.Limit > 0 {
		services, types, rooms := e.Claim.columns()
		batch.Queue(claimSQL, agent, services, types, rooms, int32(e.Claim.Limit)).Query(func(rows pgx.Rows) (err error) {
			out.Claimed, err = pgx.CollectRows(rows, scanJob)
			return err
		})
	}
	if batch.Len() == 0 {
		return out, nil
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return Exchanged{}, fmt.Errorf("exchange with the queue: %w", err)
	}
	slices.SortFunc(out.Claimed, func(a, b *Job) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out, nil
}

func (c Claim) columns() (services, types []string, rooms []int32) {
	for _, l := range c.Lanes {
		services = append(services, l.Service)
		types = append(types, string(l.Type))
		rooms = append(rooms, int32(l.Room))
	}
	return services, types, rooms
}

func scanJob(row pgx.CollectableRow) (*Job, error) {
	j := &Job{}
	err := row.Scan(&j.ID, &j.Identifier, &j.Service, &j.Operation, &j.Input, &j.RunnerConfig, &j.SecurityContext,
		&j.Attempt, &j.MaxAttempts, &j.TimeoutSeconds, &j.TenantID, &j.CorrelationID, &j.IdempotencyKey,
		&j.CreatedAt, &j.StartedAt)
	return j, err
}

// columns holds the completions of a batch as the arrays that unnest takes.
type columns struct {
	ids                     []ID
	attempts                []int32
	output, usage, security []*string
	duration                []float64
}

func newColumns(n int) *columns {
	return &columns{ids: make([]ID, 0, n), attempts: make([]int32, 0, n), output: make([]*string, 0, n),
		usage: make([]*string, 0, n), security: make([]*string, 0, n), duration: make([]float64, 0, n)}
}

func (c *columns) add(r *Completion) {
	c.ids = append(c.ids, r.ID)
	c.attempts = append(c.attempts, int32(r.Attempt))
	c.output = append(c.output, text(r.Output))
	c.usage = append(c.usage, text(r.Usage))
	c.security = append(c.security, text(r.Security))
	c.duration = append(c.duration, r.Duration.Seconds())
}

func (c *columns) args(agent ID) []any {
	return []any{agent, c.ids, c.attempts, c.output, c.usage, c.security, c.duration}
}

func failureArgs(agent ID, failed []Failure) []any {
	c := newColumns(len(failed))
	var messages, violations []string
	var final []bool
	var retryIn []float64
	for i := range failed {
		f := &failed[i]
		c.add(&f.Completion)
		messages = append(messages, f.Error)
		violations = append(violations, f.Violation)
		final = append(final, f.Final)
		retryIn = append(retryIn, f.RetryIn.Seconds())
	}
	return append(c.args(agent), messages, violations, final, retryIn)
}

// text is JSON as a nullable text parameter: the server parses it once.
func text(raw json.RawMessage) *string {
	if raw == nil {
		return nil
	}
	s := string(raw)
	return &s
}

// Unstorable tells whether err says that a value cannot be stored (SQLSTATE
// class 22 or an encoding error), so that the batch must be taken apart.
func Unstorable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code == "54000")
}
