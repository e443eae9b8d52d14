package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Task is what some agent does for all, from time to time.
type Task string

// The tasks, as jobs.tb_upkeep names them.
const (
	RollUpMetrics Task = "metrics"
	Retention     Task = "retention"
	ForgetAgents  Task = "agents"
	// ForeignIDs is the part of retention that looks at jobs whose ids do not
	// tell when they were made.
	ForeignIDs Task = "retention-ids"
	// RegistryTypes gives waiting jobs the types of a newly applied registry;
	// its outcome is that registry's hash.
	RegistryTypes Task = "types"
)

const turnSQL = `
UPDATE jobs.tb_upkeep SET done_at = now(), agent_name = $2
 WHERE task = (SELECT task FROM jobs.tb_upkeep WHERE task = $1 AND done_at <= now() - make_interval(secs => $3)
                  FOR UPDATE SKIP LOCKED)`

// Turn takes the task for this agent when nobody has done it for the time
// given. A row decides and no lock is held meanwhile: an agent that stops in
// the middle, or is frozen, keeps nobody from the next turn.
func Turn(ctx context.Context, conn *pgx.Conn, task Task, agent string, every time.Duration) (mine bool, err error) {
	tag, err := conn.Exec(ctx, turnSQL, string(task), agent, every.Seconds())
	if err != nil {
		return false, fmt.Errorf("upkeep %s: %w", task, err)
	}
	return tag.RowsAffected() == 1, nil
}

// Enter makes a task known that the migrations do not list.
func Enter(ctx context.Context, conn *pgx.Conn, task Task) error {
	_, err := conn.Exec(ctx, `INSERT INTO jobs.tb_upkeep (task) VALUES ($1) ON CONFLICT DO NOTHING`, string(task))
	if err != nil {
		return fmt.Errorf("upkeep %s: %w", task, err)
	}
	return nil
}

// Hold keeps a task that takes long: nobody else gets its turn meanwhile.
func Hold(ctx context.Context, conn *pgx.Conn, task Task, agent string) error {
	_, err := conn.Exec(ctx, `UPDATE jobs.tb_upkeep SET done_at = now() WHERE task = $1 AND agent_name = $2`, string(task), agent)
	if err != nil {
		return fmt.Errorf("upkeep %s: %w", task, err)
	}
	return nil
}

// Done records what came of a task, for people.
func Done(ctx context.Context, conn *pgx.Conn, task Task, agent, outcome string) error {
	_, err := conn.Exec(ctx, `INSERT INTO jobs.tb_upkeep (task, done_at, agent_name, outcome) VALUES ($1, now(), $2, $3)
		ON CONFLICT (task) DO UPDATE SET done_at = now(), agent_name = excluded.agent_name, outcome = excluded.outcome`,
		string(task), agent, outcome)
	if err != nil {
		return fmt.Errorf("upkeep %s: %w", task, err)
	}
	return nil
}

// Outcome reads what came of a task last; empty when it was never done.
func Outcome(ctx context.Context, db Querier, task Task) (outcome string, err error) {
	err = db.QueryRow(ctx, `SELECT outcome FROM jobs.tb_upkeep WHERE task = $1`, string(task)).Scan(&outcome)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return outcome, err
}

// Alone takes a task for this connection alone, until it is closed; mine is
// false when another connection has it.
func Alone(ctx context.Context, conn *pgx.Conn, task Task) (mine bool, err error) {
	err = conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('jobs.tb_upkeep ' || $1, 0))`, string(task)).Scan(&mine)
	if err != nil {
		return false, fmt.Errorf("upkeep %s: %w", task, err)
	}
	return mine, nil
}
