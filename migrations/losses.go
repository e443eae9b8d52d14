package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Loss is data that a way down takes.
type Loss struct {
	What string `json:"what"`
	Rows int64  `json:"rows"`
}

// tableLosses are the tables whose rows somebody might miss, with the
// migration that made each.
var tableLosses = []struct {
	since       int
	table, what string
}{
	{2, "tb_job_attempt", "failed attempts' records"},
	{2, "tb_job_metric", "minutes and hours of live figures"},
	{2, "tb_audit", "entries of the audit log"},
	{2, "tb_agent", "agents' registrations"},
	{3, "tb_registry_version", "registry versions"},
	{3, "tb_lane", "services' lanes"},
}

// MakeDownPlan says what Down to a version would do and what would be lost,
// and changes nothing. Where it goes below version 1 it reads the whole jobs
// table. It answers what MakePlan answers.
func MakeDownPlan(ctx context.Context, conn *pgx.Conn, to int) (Plan, error) {
	p, found, recorded, err := survey(ctx, conn)
	if err != nil {
		return p, err
	}
	p.Down = true
	for _, m := range slices.Backward(list()) {
		planned := Planned{Migration: m, Todo: p.todo(m.Down)}
		r, known := recorded[m.Version]
		if known {
			planned.Recorded, planned.AppliedAt, planned.AppliedBy = true, &r.at, r.by
		}
		planned.Run = m.Version > to && (known || len(leftovers(m.Version, found)) > 0)
		p.Migrations = append(p.Migrations, planned)
	}
	if len(p.Pending()) == 0 {
		return p, nil
	}
	for _, l := range tableLosses {
		if l.since > to && has(found, "table", "jobs."+l.table) {
			if err := p.lose(ctx, conn, l.what, "SELECT count(*) FROM jobs."+l.table); err != nil {
				return p, err
			}
		}
	}
	if has(found, "column", "jobs.tb_agent.lease_expires_at") {
		rows, err := conn.Query(ctx, `SELECT name || '@' || host FROM jobs.tb_agent
			WHERE lease_expires_at > now() AND state <> 'stopped' ORDER BY 1`)
		if err == nil {
			p.Agents, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			return p, fmt.Errorf("look for agents at work: %w", err)
		}
	}
	if to >= 1 || !has(found, "column", jobsTable+".execution_type") {
		return p, nil
	}
	if p.Typed, err = typedJobs(ctx, conn); err != nil {
		return p, err
	}
	return p, p.loseColumns(ctx, conn, found)
}

func (p *Plan) lose(ctx context.Context, conn *pgx.Conn, what, count string) error {
	l := Loss{What: what}
	if err := conn.QueryRow(ctx, count).Scan(&l.Rows); err != nil {
		return fmt.Errorf("count %s: %w", what, err)
	}
	if l.Rows > 0 {
		p.Losses = append(p.Losses, l)
	}
	return nil
}

// loseColumns counts what the jobs' own columns hold, in one scan. What an
// older application lacked and has come to fill is kept, and is no loss.
func (p *Plan) loseColumns(ctx context.Context, conn *pgx.Conn, found []object) error {
	columns := []struct{ name, what string }{
		{"runner_config", "jobs' runner_config"},
		{"resource_usage", "jobs' resource_usage"},
		{"security_context", "jobs' security_context"},
		{"duration_seconds", "jobs' duration_seconds"},
	}
	for _, c := range columns {
		if !has(found, "column", jobsTable+"."+c.name) {
			return nil // half of the way has been gone
		}
	}
	counts := make([]int64, len(columns))
	err := conn.QueryRow(ctx, `SELECT count(runner_config), count(resource_usage), count(security_context), count(duration_seconds)
		FROM jobs.tb_job_run`).Scan(&counts[0], &counts[1], &counts[2], &counts[3])
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("count what the jobs' new columns hold: %w", err)
	}
	for i, c := range columns {
		if counts[i] > 0 {
			p.Losses = append(p.Losses, Loss{What: c.what, Rows: counts[i]})
		}
	}
	return nil
}
