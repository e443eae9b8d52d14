package migrations

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Typed says what a way down does with jobs of other types than http, whose
// type an HTTP-only schema cannot hold.
type Typed string

// The ways with such jobs.
const (
	RefuseTyped Typed = ""       // goes down only when there is none
	KeepTyped   Typed = "keep"   // they stay as they are and look like http jobs, also to the application's worker
	CancelTyped Typed = "cancel" // those that could still run are cancelled; what is over stays, without its type
	DeleteTyped Typed = "delete" // all of them go
)

// TypedJobs is a count of jobs.
type TypedJobs struct {
	Type   string `json:"execution_type"`
	Status string `json:"status"`
	Jobs   int64  `json:"jobs"`
}

// typedJobs counts the jobs that are not http. It reads the whole table.
func typedJobs(ctx context.Context, conn *pgx.Conn) ([]TypedJobs, error) {
	rows, err := conn.Query(ctx, `SELECT execution_type, status, count(*) FROM jobs.tb_job_run
		WHERE execution_type <> 'http' GROUP BY 1, 2 ORDER BY 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("count the jobs that are not http: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TypedJobs])
	if err != nil {
		return nil, fmt.Errorf("count the jobs that are not http: %w", err)
	}
	return all, nil
}

// The bars that keep new jobs of other types out while old ones are dealt
// with. Dropping the column drops them; the way up lifts one that was left.
const (
	barAll  = "execution_type = 'http'"
	barOpen = "execution_type = 'http' OR status IN ('completed', 'cancelled') OR (status = 'failed' AND attempts >= max_attempts)"
)

const checkViolation = "23514"

// settleTyped deals with jobs that are not http, as Options.Typed says. The
// bar that it leaves proves that it did.
func (r *run) settleTyped(ctx context.Context, typed []TypedJobs) error {
	bar := barAll
	switch r.opts.Typed {
	case KeepTyped:
		return nil
	case RefuseTyped:
		if len(typed) > 0 {
			return &TypedJobsError{Jobs: typed}
		}
	case CancelTyped:
		bar = barOpen
	case DeleteTyped:
	default:
		return fmt.Errorf("jobs of other types can be kept, cancelled or deleted, not %q", r.opts.Typed)
	}
	up := list()[0]
	for i, s := range up.Steps { // the settings and the door that changes go through
		if i < 2 {
			if err := r.exec(ctx, s.SQL); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
	}
	const lift = "DO $$ BEGIN CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run DROP CONSTRAINT IF EXISTS tb_job_run_http_only_check'); END $$"
	steps := []Step{
		{Name: "lift the bar of an earlier run", Lock: "ACCESS EXCLUSIVE", Work: Instant, SQL: lift},
		{Name: "let no new job of another type in", Lock: "ACCESS EXCLUSIVE", Work: Instant,
			SQL: "DO $$ BEGIN CALL pg_temp.change_jobs($c$ALTER TABLE jobs.tb_job_run ADD CONSTRAINT tb_job_run_http_only_check CHECK (" + bar + ") NOT VALID$c$); END $$"},
	}
	for _, s := range steps {
		if err := r.step(ctx, up, s, Progress{Step: s.Name}); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	if r.opts.Typed != RefuseTyped {
		if err := r.settleInBatches(ctx); err != nil {
			return err
		}
	}
	prove := Step{Name: "make sure that none is left", Lock: "SHARE UPDATE EXCLUSIVE", Work: OneScan,
		SQL: "ALTER TABLE jobs.tb_job_run VALIDATE CONSTRAINT tb_job_run_http_only_check"}
	err := r.exec(ctx, "SET lock_timeout = 0")
	if err == nil {
		err = r.step(ctx, up, prove, Progress{Step: prove.Name})
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == checkViolation {
		if typed, err = typedJobs(ctx, r.conn); err == nil {
			err = &TypedJobsError{Jobs: typed}
		}
		return errors.Join(err, r.step(ctx, up, steps[0], Progress{Step: steps[0].Name}))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", prove.Name, err)
	}
	return nil
}

const settleBatch = 500

// settleInBatches cancels or deletes, resting after each transaction for as
// long as it took.
func (r *run) settleInBatches(ctx context.Context) error {
	p := Progress{Step: "cancel jobs of other types that could still run", State: Running}
	list := "SELECT id FROM jobs.tb_job_run WHERE NOT (" + barOpen + ")"
	change := "UPDATE jobs.tb_job_run SET status = 'cancelled', updated_at = now() WHERE id = ANY ($1) AND NOT (" + barOpen + ")"
	if r.opts.Typed == DeleteTyped {
		p.Step = "delete jobs of other types"
		list = "SELECT id FROM jobs.tb_job_run WHERE NOT (" + barAll + ")"
		change = "DELETE FROM jobs.tb_job_run WHERE id = ANY ($1) AND NOT (" + barAll + ")"
	}
	rows, err := r.conn.Query(ctx, list)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Step, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return fmt.Errorf("%s: %w", p.Step, err)
	}
	if err := r.exec(ctx, "SET lock_timeout = '5s'"); err != nil { // a row that somebody works on
		return fmt.Errorf("%s: %w", p.Step, err)
	}
	began := time.Now()
	for p.Total, p.Unit = int64(len(ids)), "rows"; len(ids) > 0; {
		batch := ids[:min(settleBatch, len(ids))]
		at := time.Now()
		if _, err := r.conn.Exec(ctx, change, batch); err != nil {
			return fmt.Errorf("%s: %w", p.Step, err)
		}
		ids = ids[len(batch):]
		p.Done += int64(len(batch))
		p.Elapsed = time.Since(began)
		p.Advance = p.Advance.since(Advance{}, p.Elapsed)
		r.tell(ctx, p)
		if err := pause(ctx, time.Since(at)); err != nil {
			return err
		}
	}
	return nil
}
