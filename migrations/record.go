package migrations

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

// Querier is what Look asks: a connection or a pool.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// RunState is how a run stands.
type RunState string

// The states of a run.
const (
	NeverRun    RunState = "never run"
	AtWork      RunState = "running"
	Interrupted RunState = "interrupted" // its program or the server ended; run it again
	Failed      RunState = "failed"      // Status.Error says why; run it again
	Finished    RunState = "done"
)

// Status is the last run on a database, as anybody there can see it.
type Status struct {
	State     RunState   `json:"state"`
	Down      bool       `json:"down"`
	Actor     string     `json:"actor"`
	Versions  []int      `json:"versions"` // in the order that they run
	Progress  Progress   `json:"progress"` // the last that it told
	Error     string     `json:"error,omitempty"`
	StartedAt time.Time  `json:"started_at"`
	BeatAt    time.Time  `json:"beat_at"` // when it told Progress
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	PID       int32      `json:"pid,omitempty"` // of the session at work
}

// StepStatus is one step of a run.
type StepStatus struct {
	Migration string    `json:"migration"`
	Step      Step      `json:"step"`
	State     StepState `json:"state"` // empty: still to come
}

// Steps are the run's steps in their order, each with its state.
func (s Status) Steps() []StepStatus {
	var all []StepStatus
	for _, one := range sequence(s.Versions, s.Down) {
		st := StepStatus{Migration: one.m.String(), Step: one.step}
		switch n := len(all) + 1; {
		case s.State == Finished || n < s.Progress.Position:
			st.State = Done
		case n == s.Progress.Position:
			st.State = s.Progress.State
		}
		all = append(all, st)
	}
	return all
}

// stepOf is a step in its place in a run.
type stepOf struct {
	m     Migration
	step  Step
	index int // in its migration, from 1
	count int
}

// sequence is what a run does, in order: the migrations' steps, and in the end
// those that may come last.
func sequence(versions []int, down bool) []stepOf {
	var first, last []stepOf
	for _, v := range versions {
		i := slices.IndexFunc(list(), func(m Migration) bool { return m.Version == v })
		if i < 0 {
			continue // of a newer program
		}
		m := list()[i]
		steps := m.Steps
		if down {
			steps = m.Down
		}
		for i, s := range steps {
			one := stepOf{m, s, i + 1, len(steps)}
			if s.Last {
				last = append(last, one)
			} else {
				first = append(first, one)
			}
		}
	}
	return append(first, last...)
}

const holderSQL = `SELECT l.pid FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND (l.classid::bigint << 32 | l.objid::bigint) = $1 AND l.objsubid = 1`

// Look says how the last run on the database stands, whoever started it and
// whatever became of its program. It reads one row.
func Look(ctx context.Context, db Querier) (Status, error) {
	s := Status{State: NeverRun}
	var recorded bool
	err := db.QueryRow(ctx, `SELECT to_regclass('jobs.tb_migration_run') IS NOT NULL, coalesce((`+holderSQL+`), 0)`, int64(lockKey)).
		Scan(&recorded, &s.PID)
	if err != nil {
		return s, fmt.Errorf("ask for a migration at work: %w", err)
	}
	if s.PID != 0 {
		s.State = AtWork
	}
	if !recorded {
		return s, nil
	}
	var state string
	var progress []byte
	err = db.QueryRow(ctx, `SELECT down, actor, versions, state, progress, error, started_at, beat_at, ended_at
		FROM jobs.tb_migration_run ORDER BY id DESC LIMIT 1`).
		Scan(&s.Down, &s.Actor, &s.Versions, &state, &progress, &s.Error, &s.StartedAt, &s.BeatAt, &s.EndedAt)
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &pg) && pg.Code == "42P01": // a way down has just ended
		return s, nil
	case err != nil:
		return s, fmt.Errorf("read jobs.tb_migration_run: %w", err)
	}
	if len(progress) > 0 {
		if err := json.Unmarshal(progress, &s.Progress); err != nil {
			return s, fmt.Errorf("read jobs.tb_migration_run: %w", err)
		}
	}
	switch {
	case state == "running" && s.PID == 0:
		s.State = Interrupted
	case state == "failed":
		s.State = Failed
	case state == "done":
		s.State = Finished
	}
	if s.State != AtWork {
		s.PID = 0
	}
	return s, nil
}

// recorder writes a run into jobs.tb_migration_run for others to see. It is a
// comfort only: a run goes on where it cannot write.
type recorder struct {
	id       int64 // of the run; 0: not written yet
	down     bool
	versions []int
	actor    string
	over     bool
	last     time.Time // it wrote
}

// recordEvery keeps the many short steps from being written each.
const recordEvery = 200 * time.Millisecond

func (w *recorder) write(ctx context.Context, conn *pgx.Conn, p Progress) {
	if w.over || len(w.versions) == 0 || p.State == Idle || p.State == Watching {
		return
	}
	passing := p.State == Running && p.Elapsed < beat || p.State == Done
	if passing && !p.long && time.Since(w.last) < recordEvery {
		return
	}
	w.last = time.Now()
	text, err := json.Marshal(p)
	if err != nil {
		return
	}
	if w.id == 0 {
		var there bool
		if err := conn.QueryRow(ctx, "SELECT to_regclass('jobs.tb_migration_run') IS NOT NULL").Scan(&there); err != nil || !there {
			return
		}
		_ = conn.QueryRow(ctx, `INSERT INTO jobs.tb_migration_run (actor, down, versions, position, progress)
			VALUES (coalesce(nullif($1, ''), current_user), $2, $3, $4, $5) RETURNING id`,
			w.actor, w.down, w.versions, p.Position, text).Scan(&w.id)
		return
	}
	_, err = conn.Exec(ctx, `UPDATE jobs.tb_migration_run SET position = $2, progress = $3, beat_at = now() WHERE id = $1`, w.id, p.Position, text)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // the way down has dropped it
		w.over = true
	}
}

func (w *recorder) end(ctx context.Context, conn *pgx.Conn, failure error) {
	if w.over || w.id == 0 {
		return
	}
	state, text := "done", ""
	if failure != nil {
		state, text = "failed", failure.Error()
	}
	_, _ = conn.Exec(ctx, `UPDATE jobs.tb_migration_run SET state = $2, error = $3, beat_at = now(), ended_at = now() WHERE id = $1`, w.id, state, text)
}
