package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// MaxPage is the most rows that ListJobs gives at once.
const MaxPage = 1000

// CountCap bounds CountJobs.
const CountCap = 100000

// The filter of every query here, $1 to $8. Null means no bound; $8 adds the
// dead ones of the failed jobs, or those that will be retried.
const filterSQL = `
   AND ($1::text[] IS NULL OR execution_type = ANY ($1))
   AND ($2::text[] IS NULL OR status = ANY ($2)
        OR status = 'failed' AND (coalesce(attempts, 0) >= coalesce(max_attempts, 3)) = ANY ($8::bool[]))
   AND ($3::text[] IS NULL OR service_name = ANY ($3)) AND ($4::uuid[] IS NULL OR id = ANY ($4))
   AND ($5::text IS NULL OR strpos(lower(service_name), lower($5)) > 0 OR strpos(lower(operation), lower($5)) > 0
        OR strpos(lower(identifier), lower($5)) > 0)
   AND ($6::timestamptz IS NULL OR created_at <= $6) AND ($7::timestamptz IS NULL OR created_at >= $7)`

// A step takes a stretch of time as $9 (from) and $10 (to), the cursor as $11
// and $12, and how many rows as $13.
const (
	stepSQL = `
SELECT id, identifier, service_name, operation, execution_type, status, coalesce(attempts, 0), coalesce(max_attempts, 3),
       created_at, started_at, completed_at, retry_at, duration_seconds, coalesce(error_message, ''), ''
  FROM jobs.tb_job_run
 WHERE created_at IS NOT NULL` + filterSQL + `
   AND ($9::timestamptz IS NULL OR created_at >= $9) AND ($10::timestamptz IS NULL OR created_at < $10)`
	olderSQL = stepSQL + beforeSQL + ` ORDER BY created_at DESC, id DESC LIMIT $13`
	newerSQL = stepSQL + afterSQL + ` ORDER BY created_at, id LIMIT $13`

	beforeSQL = ` AND ($11::timestamptz IS NULL OR created_at <= $11 AND (created_at, id) < ($11, $12::uuid))`
	afterSQL  = ` AND ($11::timestamptz IS NULL OR created_at >= $11 AND (created_at, id) > ($11, $12::uuid))`
)

// As ids are mostly in the order of time, the jobs beside the cursor by id ($9
// and $10, at most $14) tell how far a page reaches at most: to the last of as
// many of them as it has rows ($13).
const (
	reachBackSQL = `
SELECT created_at FROM (SELECT * FROM jobs.tb_job_run WHERE id >= $9 AND id < $10 ORDER BY id DESC LIMIT $14) beside
 WHERE created_at IS NOT NULL` + filterSQL + beforeSQL + `
 ORDER BY created_at DESC OFFSET $13 - 1 LIMIT 1`
	reachOnSQL = `
SELECT created_at FROM (SELECT * FROM jobs.tb_job_run WHERE id >= $9 AND id < $10 ORDER BY id LIMIT $14) beside
 WHERE created_at IS NOT NULL` + filterSQL + afterSQL + `
 ORDER BY created_at OFFSET $13 - 1 LIMIT 1`
)

// beside is how many jobs for each row of a page are looked at for its reach.
const beside = 2

const countSQL = `
SELECT count(*) FROM (SELECT FROM jobs.tb_job_run WHERE true` + filterSQL + ` LIMIT $9) few`

// stretches are how far the list looks in one step. created_at has a block
// range index only, cheap for writers; a step reads the blocks of its stretch,
// so that a page of the newest jobs costs the same however long the table is.
var stretches = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour,
	24 * time.Hour, 7 * 24 * time.Hour, longest}

const (
	near    = 6 * time.Hour // a reach within it is trusted, and shorter stretches left out
	longest = 30 * 24 * time.Hour
)

// ListJobs returns the jobs that the filter selects, newest first, by keyset,
// and says of those that wait why. A page shorter than its size is the last
// one in its direction.
func ListJobs(ctx context.Context, db jobs.Querier, f Filter, p Page) ([]JobRow, error) {
	if p.Size < 1 || p.Size > MaxPage {
		return nil, fmt.Errorf("a page of %d jobs is out of range: give 1 to %d", p.Size, MaxPage)
	}
	var now time.Time
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return nil, Explain(err)
	}
	rows, err := list(ctx, db, f, p, now)
	if err != nil {
		return nil, Explain(err)
	}
	return rows, Explain(explainWaits(ctx, db, pointers(rows)))
}

func pointers(rows []JobRow) []*JobRow {
	out := make([]*JobRow, len(rows))
	for i := range rows {
		out[i] = &rows[i]
	}
	return out
}

// list reads a page without saying why jobs wait.
func list(ctx context.Context, db jobs.Querier, f Filter, p Page, now time.Time) ([]JobRow, error) {
	l := lister{db: db, filter: f.args(now), size: p.Size, direct: len(f.IDs) > 0}
	if p.OldestFirst {
		return l.oldest(ctx, p.After)
	}
	if p.Before != (Cursor{}) {
		rows, err := l.newer(ctx, p.Before)
		slices.Reverse(rows)
		return rows, err
	}
	return l.older(ctx, p.After, now)
}

type lister struct {
	db     jobs.Querier
	filter []any
	size   int
	direct bool // by id: one step finds all
}

// older walks back in time from the cursor, or from the newest job. A step ends
// where the page does, if that is nearer than its stretch.
func (l lister) older(ctx context.Context, after Cursor, now time.Time) ([]JobRow, error) {
	start, next := now, jobs.FirstID(now.Add(24*time.Hour)) // clocks differ
	if after != (Cursor{}) {
		start, next = after.CreatedAt, after.inTime()
	}
	reach, known, err := l.reach(ctx, reachBackSQL, jobs.FirstID(start.Add(-longest)), next, after)
	if err != nil {
		return nil, err
	}
	var out []JobRow
	var to *time.Time // the first step has no upper bound: clocks differ
	for _, d := range l.steps(known, start.Sub(reach)) {
		from := start.Add(-d)
		if err := l.step(ctx, olderSQL, &from, to, after, &out); err != nil || len(out) == l.size {
			return out, err
		}
		to = &from
	}
	return out, l.step(ctx, olderSQL, nil, to, after, &out)
}

// newer walks forward in time from the cursor; its rows are oldest first.
func (l lister) newer(ctx context.Context, before Cursor) ([]JobRow, error) {
	reach, known, err := l.reach(ctx, reachOnSQL, before.inTime(), jobs.FirstID(before.CreatedAt.Add(longest)), before)
	if err != nil {
		return nil, err
	}
	var out []JobRow
	from := before.CreatedAt
	// The end of a step is not in it.
	for _, d := range l.steps(known, reach.Add(time.Microsecond).Sub(from)) {
		to := before.CreatedAt.Add(d)
		if err := l.step(ctx, newerSQL, &from, &to, before, &out); err != nil || len(out) == l.size {
			return out, err
		}
		from = to
	}
	return out, l.step(ctx, newerSQL, &from, nil, before, &out)
}

// oldest walks forward from the cursor, or from the oldest job.
func (l lister) oldest(ctx context.Context, after Cursor) ([]JobRow, error) {
	if after != (Cursor{}) || l.direct {
		return l.newer(ctx, after)
	}
	var first *time.Time
	if err := l.db.QueryRow(ctx, `SELECT min(created_at) FROM jobs.tb_job_run`).Scan(&first); err != nil || first == nil {
		return nil, err
	}
	return l.newer(ctx, Cursor{CreatedAt: first.Add(-time.Microsecond)})
}

// steps are the stretches to look through, with one for the page's reach, if
// that is known, in the place of shorter ones. A reach far away may be due to
// jobs of the past that were queued lately; what is nearer is looked through.
func (l lister) steps(known bool, reach time.Duration) []time.Duration {
	if l.direct {
		return nil
	}
	if !known || reach <= 0 {
		return stretches
	}
	i, _ := slices.BinarySearch(stretches, reach)
	if reach > near {
		return slices.Insert(slices.Clone(stretches), i, reach)
	}
	return append([]time.Duration{reach}, stretches[i:]...)
}

// reach returns the created_at of the row with which a page ends at the latest,
// if it is known.
func (l lister) reach(ctx context.Context, sql string, from, to jobs.ID, c Cursor) (t time.Time, known bool, err error) {
	if l.direct {
		return time.Time{}, false, nil
	}
	at, id := c.args()
	args := append([]any{pgx.QueryExecModeCacheDescribe}, l.filter...)
	err = l.db.QueryRow(ctx, sql, append(args, from, to, at, id, l.size, beside*l.size)...).Scan(&t)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, false, nil
	}
	return t, err == nil, err
}

// step appends what one stretch holds, up to the page's size.
func (l lister) step(ctx context.Context, sql string, from, to *time.Time, c Cursor, out *[]JobRow) error {
	at, id := c.args()
	// Planned for these very values: the filter's null parts vanish.
	args := append([]any{pgx.QueryExecModeCacheDescribe}, l.filter...)
	rows, err := l.db.Query(ctx, sql, append(args, from, to, at, id, l.size-len(*out))...)
	if err != nil {
		return err
	}
	more, err := pgx.CollectRows(rows, pgx.RowToStructByPos[JobRow])
	*out = append(*out, more...)
	return err
}

// args are the cursor as the queries take it; null: none.
func (c Cursor) args() (*time.Time, jobs.ID) {
	if c == (Cursor{}) {
		return nil, c.ID
	}
	return &c.CreatedAt, c.ID
}

// inTime is where the row stands among the time-ordered ids: by its own id, or
// by its created_at where the application supplied either.
func (c Cursor) inTime() jobs.ID {
	made, ok := c.ID.Time()
	if ok && made.After(c.CreatedAt.Add(-time.Minute)) && made.Before(c.CreatedAt.Add(time.Hour)) {
		return c.ID
	}
	return jobs.FirstID(c.CreatedAt)
}

// args are the filter as the queries' $1 to $8.
func (f Filter) args(now time.Time) []any {
	var text *string
	if f.Text != "" {
		text = &f.Text
	}
	bound := func(age time.Duration) *time.Time {
		if age <= 0 {
			return nil
		}
		return new(now.Add(-age))
	}
	statuses := f.Statuses
	var dead []bool // of failed jobs: whether no attempts are left
	if f.Dead {
		dead = append(dead, true)
	}
	if f.retrying {
		dead = append(dead, false)
	}
	if dead != nil && statuses == nil {
		statuses = []jobs.Status{} // these and no others
	}
	return []any{f.Types, statuses, f.Services, f.IDs, text, bound(f.OlderThan), bound(f.NewerThan), dead}
}

// CountJobs counts the jobs that the filter selects, up to CountCap; capped
// says that there are more.
func CountJobs(ctx context.Context, db jobs.Querier, f Filter) (n int64, capped bool, err error) {
	var now time.Time
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return 0, false, Explain(err)
	}
	args := append([]any{pgx.QueryExecModeCacheDescribe}, f.args(now)...)
	err = db.QueryRow(ctx, countSQL, append(args, CountCap+1)...).Scan(&n)
	return min(n, CountCap), n > CountCap, Explain(err)
}
