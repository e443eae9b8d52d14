package migrations

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options are how Apply and Down go about it. The zero value is all the way,
// in silence.
type Options struct {
	// Progress is told of every step, from one goroutine at a time. A slow
	// Progress makes the migration slow.
	Progress func(Progress)

	// To is the version to end at. 0 means the newest for Apply and the
	// application's own schema for Down.
	To int

	// Force lets Down drop the types of jobs that are not http.
	Force bool

	tries int // of a step that cannot get its lock; 0: maxTries
}

// Result is what a run did.
type Result struct {
	Applied []string `json:"applied"` // migrations, as Migration.String; empty: there was nothing to do
	Steps   int      `json:"steps"`
	Seconds float64  `json:"seconds"`
}

// Apply runs what MakePlan finds pending, up to Options.To, while the
// application goes on working. Only one runs on a database at a time: a
// second one waits for the first. A step that cannot get its lock is tried
// again, with growing pauses, up to 30 times.
//
// conn must be a session of its own, not in a transaction and not through a
// pooler that shares sessions. When ctx ends in the middle, conn is closed and
// what was done stays; the next Apply goes on from there.
//
// Beside MakePlan's errors it answers *PrivilegeError before it changes
// anything, and *PartialError afterwards.
func Apply(ctx context.Context, conn *pgx.Conn, opts Options) (Result, error) {
	r := newRun(conn, opts)
	defer r.close(ctx)
	var plan Plan
	look := func() (err error) {
		plan, err = MakePlan(ctx, conn)
		return err
	}
	if err := r.looking(ctx, look); err != nil { // refuse before waiting for others
		return Result{}, err
	}
	if err := r.lock(ctx); err != nil {
		return Result{}, err
	}
	if err := r.looking(ctx, look); err != nil {
		return Result{}, err
	}
	pending := slices.DeleteFunc(plan.Pending(), func(m Migration) bool { return opts.To > 0 && m.Version > opts.To })
	if len(pending) == 0 {
		r.tell(Progress{State: Idle})
		return r.result(), nil
	}
	if err := checkPrivileges(ctx, conn); err != nil {
		return Result{}, err
	}
	for _, m := range pending {
		err := r.migrate(ctx, m, m.Steps, func(found []object) []Finding { return unfinished(m.Version, found) })
		if err != nil {
			return r.result(), err
		}
	}
	return r.result(), nil
}

// Down takes back every migration above Options.To that the database has,
// newest first. The jobs stay. It answers *JobsLostError while there are jobs
// that an HTTP-only schema cannot hold, unless Options.Force is set, and else
// what Apply answers.
func Down(ctx context.Context, conn *pgx.Conn, opts Options) (Result, error) {
	r := newRun(conn, opts)
	defer r.close(ctx)
	err := r.looking(ctx, func() error {
		_, err := MakePlan(ctx, conn)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	if err := r.lock(ctx); err != nil {
		return Result{}, err
	}
	var found []object
	err = r.looking(ctx, func() (err error) {
		found, err = catalog(ctx, conn)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	recorded, err := records(ctx, conn, found)
	if err != nil {
		return Result{}, err
	}
	var applied []Migration
	for _, m := range slices.Backward(list()) {
		_, known := recorded[m.Version]
		if m.Version > opts.To && (known || len(leftovers(m.Version, found)) > 0) {
			applied = append(applied, m)
		}
	}
	if len(applied) == 0 {
		r.tell(Progress{State: Idle})
		return r.result(), nil
	}
	if err := checkPrivileges(ctx, conn); err != nil {
		return Result{}, err
	}
	if !opts.Force && opts.To < 1 && has(found, "column", jobsTable+".execution_type") {
		if err := checkNoneLost(ctx, conn); err != nil {
			return Result{}, err
		}
	}
	for _, m := range applied {
		err := r.migrate(ctx, m, m.Down, func(found []object) []Finding { return leftovers(m.Version, found) })
		if err != nil {
			return r.result(), err
		}
	}
	return r.result(), nil
}

// checkNoneLost reads the whole table when there is no such job.
func checkNoneLost(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT execution_type FROM jobs.tb_job_run WHERE execution_type <> 'http' LIMIT 1")
	if err != nil {
		return fmt.Errorf("look for jobs that are not http: %w", err)
	}
	types, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for jobs that are not http: %w", err)
	}
	if len(types) > 0 {
		return &JobsLostError{Type: types[0]}
	}
	return nil
}

// migrate runs one migration's steps, either way, and looks whether they did
// what they are for.
func (r *run) migrate(ctx context.Context, m Migration, all []Step, left func([]object) []Finding) error {
	fail := func(i int, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return &PartialError{Migration: m.String(), Applied: slices.Clone(r.applied),
			Failed: all[i], Index: i + 1, Count: len(all), Err: err}
	}
	for i, step := range all {
		if ctx.Err() != nil {
			return fail(i, ctx.Err())
		}
		p := Progress{Migration: m.String(), Step: step.Name, Index: i + 1, Count: len(all)}
		if err := r.step(ctx, m, step, p); err != nil {
			return fail(i, err)
		}
		r.steps++
	}
	var found []object
	err := r.looking(ctx, func() (err error) {
		found, err = catalog(ctx, r.conn)
		return err
	})
	if err == nil {
		if findings := left(found); len(findings) > 0 {
			err = &IncompleteError{Findings: findings}
		}
	}
	if err != nil {
		return fail(len(all)-1, err)
	}
	r.applied = append(r.applied, m.String())
	return nil
}

func (r *run) result() Result {
	return Result{Applied: slices.Clone(r.applied), Steps: r.steps, Seconds: time.Since(r.began).Seconds()}
}
