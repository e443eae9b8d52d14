package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// JobAction is what an operator does to jobs.
type JobAction string

// The actions. Retry puts failed jobs, dead letters too, and cancelled ones
// back to pending. Cancel ends what waits, what will be retried and what runs;
// agents stop running ones within a second.
const (
	RetryJobs  JobAction = "retry"
	CancelJobs JobAction = "cancel"
)

// JobActions lists every action.
func JobActions() []JobAction { return []JobAction{RetryJobs, CancelJobs} }

// Done is the action's past participle: "3 jobs retried".
func (a JobAction) Done() string {
	if a == RetryJobs {
		return "retried"
	}
	return "cancelled"
}

// takes narrows a filter to the jobs that the action changes; none says that
// it selects only others.
func (a JobAction) takes(f Filter) (narrowed Filter, none bool) {
	all := f.Statuses == nil && !f.Dead
	has := func(s jobs.Status) bool { return all || slices.Contains(f.Statuses, s) }
	statuses := []jobs.Status{}
	add := func(list ...jobs.Status) {
		for _, s := range list {
			if has(s) {
				statuses = append(statuses, s)
			}
		}
	}
	switch a {
	case RetryJobs:
		add(jobs.Failed, jobs.Cancelled)
	default:
		add(jobs.Pending, jobs.Running)
		f.retrying, f.Dead = has(jobs.Failed), false
	}
	f.Statuses = statuses
	return f, len(statuses) == 0 && !f.Dead && !f.retrying
}

// ErrAllJobs refuses to act on every job there is.
var ErrAllJobs = errors.New("no jobs are named: give ids, or filter words such as dead, status:failed or service:NAME")

// JobPlan says what an action will do, before it is done.
type JobPlan struct {
	Action  JobAction
	Count   int64 // jobs that it changes; at most CountCap
	Capped  bool  // there are more
	Running int64 // of those, jobs that agents have to stop; at most CountCap
	Sample  []JobRow
	Unfit   []JobRow  // of jobs named by id, those that it leaves alone
	Missing []jobs.ID // of jobs named by id, those that there are not
}

// sampleSize is how many jobs a plan shows.
const sampleSize = 10

// PlanJobs says what the action will do to the jobs that the filter selects;
// nothing is changed. ErrAllJobs refuses an empty filter.
func PlanJobs(ctx context.Context, db jobs.Querier, action JobAction, f Filter) (JobPlan, error) {
	p, err := planJobs(ctx, db, action, f)
	return p, Explain(err)
}

func planJobs(ctx context.Context, db jobs.Querier, action JobAction, f Filter) (JobPlan, error) {
	p := JobPlan{Action: action}
	if f.empty() {
		return p, ErrAllJobs
	}
	narrowed, none := action.takes(f)
	if !none {
		var err error
		if p.Count, p.Capped, err = CountJobs(ctx, db, narrowed); err != nil {
			return p, err
		}
		if p.Sample, err = ListJobs(ctx, db, narrowed, Page{Size: sampleSize}); err != nil {
			return p, err
		}
		if action == CancelJobs && slices.Contains(narrowed.Statuses, jobs.Running) {
			running := narrowed
			running.Statuses, running.retrying = []jobs.Status{jobs.Running}, false
			if p.Running, _, err = CountJobs(ctx, db, running); err != nil {
				return p, err
			}
		}
	}
	if len(f.IDs) > 0 {
		if err := p.account(ctx, db, f.IDs); err != nil {
			return p, err
		}
	}
	return p, nil
}

const namedSQL = `
SELECT id, identifier, service_name, operation, execution_type, status, coalesce(attempts, 0), coalesce(max_attempts, 3),
       coalesce(created_at, updated_at, 'epoch'), started_at, completed_at, retry_at, duration_seconds,
       coalesce(error_message, ''), ''
  FROM jobs.tb_job_run WHERE id = ANY ($1) ORDER BY id`

// account finds what becomes of each job that was named.
func (p *JobPlan) account(ctx context.Context, db jobs.Querier, ids []jobs.ID) error {
	rows, err := db.Query(ctx, namedSQL, ids)
	if err != nil {
		return err
	}
	named, err := pgx.CollectRows(rows, pgx.RowToStructByPos[JobRow])
	if err != nil {
		return err
	}
	there := make(map[jobs.ID]bool, len(named))
	for _, r := range named {
		there[r.ID] = true
		if !p.Action.fits(r) {
			p.Unfit = append(p.Unfit, r)
		}
	}
	for _, id := range ids {
		if !there[id] {
			p.Missing = append(p.Missing, id)
		}
	}
	return nil
}

func (a JobAction) fits(r JobRow) bool {
	switch r.Status {
	case jobs.Failed:
		return a == RetryJobs || r.Attempts < r.MaxAttempts
	case jobs.Cancelled:
		return a == RetryJobs
	case jobs.Pending, jobs.Running:
		return a == CancelJobs
	}
	return false
}

// empty tells whether the filter selects all jobs.
func (f Filter) empty() bool { return f.String() == "" && !f.retrying }

// JobChange says how jobs are to be changed.
type JobChange struct {
	Attempts int              // that a retry grants at least; 1 when 0
	By       jobs.By          // for the audit log
	Progress func(done int64) // called after each transaction; may be nil
}

// JobResult is what an action did.
type JobResult struct {
	Action  JobAction
	Changed int64
	Locked  int64 // left alone: somebody else's transaction had them
}

// A dead letter gets attempts that it had not, and so does a cancelled job
// that has none left. The error stays until the next attempt ends.
const retrySQL = `
UPDATE jobs.tb_job_run
   SET status = 'pending', max_attempts = greatest(coalesce(max_attempts, 3), coalesce(attempts, 0) + $2), requeued_at = now(),
       retry_at = NULL, completed_at = NULL, updated_at = now()
 WHERE id = ANY (ARRAY(
       SELECT id FROM jobs.tb_job_run WHERE id = ANY ($1) AND status IN ('failed', 'cancelled') ORDER BY id FOR UPDATE SKIP LOCKED))
RETURNING id`

// The trigger tells the agents of running jobs. What has ended before keeps
// the times of its last attempt.
const cancelSQL = `
UPDATE jobs.tb_job_run
   SET status = 'cancelled', retry_at = NULL, updated_at = now(),
       started_at = CASE WHEN status = 'pending' THEN NULL ELSE started_at END,
       completed_at = CASE WHEN status = 'failed' THEN coalesce(completed_at, now()) ELSE now() END
 WHERE id = ANY (ARRAY(
       SELECT id FROM jobs.tb_job_run
        WHERE id = ANY ($1) AND (status IN ('pending', 'running')
              OR status = 'failed' AND coalesce(attempts, 0) < coalesce(max_attempts, 3)) ORDER BY id FOR UPDATE SKIP LOCKED))
RETURNING id`

// changePage is how many jobs one transaction changes.
const changePage = MaxPage

// How often and after which time jobs are tried again that somebody had locked.
const (
	lockTries = 10
	lockPause = 200 * time.Millisecond
)

// ChangeJobs does the action to the jobs that the filter selects, 1,000 in a
// transaction, and leaves one row in the audit log that counts them, also when
// it is interrupted: what was done until then stands. Jobs that come to be
// selected after its beginning are left alone. It waits for nobody: a job that
// another transaction has locked is tried again for a while and then counted
// as left alone.
func ChangeJobs(ctx context.Context, db jobs.Beginner, action JobAction, f Filter, c JobChange) (JobResult, error) {
	r := JobResult{Action: action}
	if f.empty() {
		return r, ErrAllJobs
	}
	narrowed, none := action.takes(f)
	if none {
		return r, nil
	}
	change := changer{db: db, action: action, change: c, target: f.String(), result: &r}
	err := change.all(ctx, narrowed)
	return r, Explain(errors.Join(err, change.audit(context.WithoutCancel(ctx))))
}

type changer struct {
	db      jobs.Beginner
	action  JobAction
	change  JobChange
	target  string
	result  *JobResult
	audited int64     // jobs that the audit log tells of
	locked  []jobs.ID // to be tried again
}

func (c *changer) all(ctx context.Context, f Filter) error {
	if byID := (Filter{IDs: f.IDs}); byID.String() == c.target {
		for ids := range slices.Chunk(f.IDs, changePage) {
			if err := c.some(ctx, ids, len(f.IDs) <= changePage); err != nil {
				return err
			}
		}
		return c.again(ctx)
	}
	var now time.Time
	if err := c.db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return err
	}
	for page := (Page{Size: changePage}); ; {
		rows, err := list(ctx, c.db, f, page, now)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		ids := make([]jobs.ID, len(rows))
		for i := range rows {
			ids[i] = rows[i].ID
		}
		last := len(rows) < changePage
		if err := c.some(ctx, ids, last && len(c.locked) == 0); err != nil {
			return err
		}
		if last {
			break
		}
		end := rows[len(rows)-1]
		page.After = Cursor{CreatedAt: end.CreatedAt, ID: end.ID}
	}
	return c.again(ctx)
}

// again tries the jobs that were locked, for a while.
func (c *changer) again(ctx context.Context) error {
	for range lockTries {
		again := c.locked
		if c.locked = nil; len(again) == 0 {
			return nil
		}
		pause(ctx, lockPause)
		for ids := range slices.Chunk(again, changePage) {
			if err := c.some(ctx, ids, false); err != nil {
				return err
			}
		}
	}
	c.result.Locked = int64(len(c.locked))
	return nil
}

const lockedSQL = `
SELECT id FROM jobs.tb_job_run WHERE id = ANY ($1) AND NOT id = ANY ($2)
   AND CASE WHEN $3 THEN status IN ('failed', 'cancelled')
            ELSE status IN ('pending', 'running') OR status = 'failed' AND coalesce(attempts, 0) < coalesce(max_attempts, 3) END`

// some changes jobs in one transaction; the last one carries the row of the
// audit log along.
func (c *changer) some(ctx context.Context, ids []jobs.ID, last bool) error {
	var changed []jobs.ID
	err := pgx.BeginFunc(ctx, c.db, func(tx pgx.Tx) error {
		sql, args := cancelSQL, []any{ids}
		if c.action == RetryJobs {
			sql, args = retrySQL, []any{ids, max(1, c.change.Attempts)}
		}
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		if changed, err = pgx.CollectRows(rows, pgx.RowTo[jobs.ID]); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, lockedSQL, ids, changed, c.action == RetryJobs); err != nil {
			return err
		}
		locked, err := pgx.CollectRows(rows, pgx.RowTo[jobs.ID])
		if err != nil {
			return err
		}
		c.locked = append(c.locked, locked...)
		if last && len(c.locked) == 0 && len(changed) > 0 {
			return c.write(ctx, tx, c.result.Changed+int64(len(changed)))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s jobs: %w", c.action, err)
	}
	if c.result.Changed += int64(len(changed)); last && len(c.locked) == 0 {
		c.audited = c.result.Changed
	}
	if c.change.Progress != nil {
		c.change.Progress(c.result.Changed)
	}
	return nil
}

// audit writes the row unless the last transaction did.
func (c *changer) audit(ctx context.Context) error {
	if c.result.Changed == c.audited {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return pgx.BeginFunc(ctx, c.db, func(tx pgx.Tx) error { return c.write(ctx, tx, c.result.Changed) })
}

// maxTarget bounds what the audit log keeps of a filter.
const maxTarget = 500

func (c *changer) write(ctx context.Context, tx pgx.Tx, changed int64) error {
	target := c.target
	if len(target) > maxTarget {
		target = strings.ToValidUTF8(target[:maxTarget], "") + "…"
	}
	after := map[string]any{"jobs": changed}
	if c.action == RetryJobs {
		after["attempts"] = max(1, c.change.Attempts)
	}
	return jobs.Audit(ctx, tx, c.change.By, string(c.action)+"-jobs", target, nil, after)
}
