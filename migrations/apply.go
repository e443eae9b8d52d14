package migrations

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
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

	// Typed says what Down does with jobs of other types than http.
	Typed Typed

	// Actor is who runs it, for those who watch; empty: the database role.
	Actor string

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
// second one watches the first and then does what is left. A step that cannot
// get its lock is tried again, with growing pauses, up to 30 times.
//
// conn must be a session of its own, not in a transaction and not through a
// pooler that shares sessions. When ctx ends in the middle, conn is closed and
// what was done stays; the next Apply goes on from there.
//
// Beside MakePlan's errors it answers *jobs.PoolerError and *PrivilegeError
// before it changes anything, and *PartialError afterwards.
func Apply(ctx context.Context, conn *pgx.Conn, opts Options) (result Result, err error) {
	r := newRun(conn, opts)
	defer func() { r.close(ctx, err) }()
	var plan Plan
	look := func() (err error) {
		plan, err = MakePlan(ctx, conn)
		return err
	}
	if err := r.begin(ctx, look); err != nil {
		return Result{}, err
	}
	pending := slices.DeleteFunc(plan.Pending(), func(m Migration) bool { return opts.To > 0 && m.Version > opts.To })
	if len(pending) == 0 {
		r.tell(ctx, Progress{State: Idle})
		return r.result(), nil
	}
	if err := checkPrivileges(ctx, conn); err != nil {
		return Result{}, err
	}
	err = r.migrate(ctx, pending, false, func(m Migration, found []object) []Finding { return unfinished(m.Version, found) })
	return r.result(), err
}

// Down takes back every migration above Options.To that the database has,
// newest first. The jobs stay, but for what Options.Typed says of those that
// are not http. It answers *AgentsError while agents work on the database,
// *TypedJobsError while there are jobs that an HTTP-only schema cannot tell
// from others, and else what Apply answers.
func Down(ctx context.Context, conn *pgx.Conn, opts Options) (result Result, err error) {
	r := newRun(conn, opts)
	defer func() { r.close(ctx, err) }()
	var plan Plan
	look := func() (err error) {
		plan, err = MakeDownPlan(ctx, conn, opts.To)
		return err
	}
	if err := r.begin(ctx, look); err != nil {
		return Result{}, err
	}
	applied := plan.Pending()
	if len(applied) == 0 {
		r.tell(ctx, Progress{State: Idle})
		return r.result(), nil
	}
	if err := checkPrivileges(ctx, conn); err != nil {
		return Result{}, err
	}
	if len(plan.Agents) > 0 {
		return Result{}, &AgentsError{Names: plan.Agents}
	}
	if opts.To < 1 {
		if err := r.settleTyped(ctx, plan.Typed); err != nil {
			return Result{}, err
		}
	}
	err = r.migrate(ctx, applied, true, func(m Migration, found []object) []Finding { return leftovers(m.Version, found) })
	return r.result(), err
}

// begin makes this the only migration of the database, once it is clear that
// there can be one.
func (r *run) begin(ctx context.Context, look func() error) error {
	if err := jobs.CheckOwnSession(ctx, r.conn); err != nil {
		return err
	}
	if err := r.looking(ctx, look); err != nil { // refuse before waiting for others
		return err
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	return r.looking(ctx, look)
}

// migrate runs the migrations' steps, either way, and looks whether they did
// what they are for. The last ones may take long and keep nobody waiting, so
// they come when the objects of all migrations are there.
func (r *run) migrate(ctx context.Context, all []Migration, down bool, left func(Migration, []object) []Finding) error {
	r.record.down = down
	for _, m := range all {
		r.record.versions = append(r.record.versions, m.Version)
	}
	steps := sequence(r.record.versions, down)
	for i, s := range steps {
		fail := func(err error) error {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return &PartialError{Migration: s.m.String(), Applied: slices.Clone(r.applied),
				Failed: s.step, Index: s.index, Count: s.count, Err: err}
		}
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		if s.step.Last { // the settings of its file have ended
			if err := r.exec(ctx, prepareSQL); err != nil {
				return fail(err)
			}
		}
		p := Progress{Migration: s.m.String(), Step: s.step.Name, Index: s.index, Count: s.count, Position: i + 1, Of: len(steps),
			long: s.step.Work != Instant}
		if err := r.step(ctx, s.m, s.step, p); err != nil {
			return fail(err)
		}
		r.steps++
		next := i + 1
		if s.step.Last || next < len(steps) && steps[next].m.Version == s.m.Version && !steps[next].step.Last {
			continue // in the middle of a migration
		}
		if err := r.checked(ctx, s.m, left); err != nil {
			return fail(err)
		}
		r.applied = append(r.applied, s.m.String())
	}
	return nil
}

func (r *run) checked(ctx context.Context, m Migration, left func(Migration, []object) []Finding) error {
	var found []object
	err := r.looking(ctx, func() (err error) {
		found, err = catalog(ctx, r.conn)
		return err
	})
	if err != nil {
		return err
	}
	if findings := left(m, found); len(findings) > 0 {
		return &IncompleteError{Findings: findings}
	}
	return nil
}

func (r *run) result() Result {
	return Result{Applied: slices.Clone(r.applied), Steps: r.steps, Seconds: time.Since(r.began).Seconds()}
}
