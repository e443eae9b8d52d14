package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Switch is one execution type's row in jobs.tb_execution_type. Every agent
// obeys it with its next claim; pending jobs of a type that is off are held,
// running ones finish.
type Switch struct {
	Type      ExecutionType `json:"execution_type"`
	Enabled   bool          `json:"enabled"`
	Reason    string        `json:"reason,omitempty"`
	ChangedBy string        `json:"changed_by,omitempty"`
	ChangedAt time.Time     `json:"changed_at"`

	// The emergency stop: claiming rests, whatever Enabled says. Nil: it does not.
	StoppedAt  *time.Time `json:"stopped_at,omitempty"`
	StoppedBy  string     `json:"stopped_by,omitempty"`
	StopReason string     `json:"stop_reason,omitempty"`
}

// Claims tells whether agents claim jobs of the type.
func (s Switch) Claims() bool { return s.Enabled && s.StoppedAt == nil }

// Querier is what a connection, a pool and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Beginner starts transactions: a connection or a pool.
type Beginner interface {
	Querier
	Begin(ctx context.Context) (pgx.Tx, error)
}

const switchesSQL = `
SELECT execution_type, enabled, reason, changed_by, changed_at, stopped_at, stopped_by, stop_reason FROM jobs.tb_execution_type
 ORDER BY array_position(ARRAY['http', 'shell', 'docker', 'serverless'], execution_type)`

// Switches lists all types' switches.
func Switches(ctx context.Context, db Querier) ([]Switch, error) {
	rows, err := db.Query(ctx, switchesSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Switch])
}

// AskSwitches adds the question of Switches to a batch, for answers to come.
func AskSwitches(b *pgx.Batch, answer func(Switch)) {
	b.Queue(switchesSQL).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Switch])
		for _, s := range list {
			answer(s)
		}
		return err
	})
}

// By says who changes something, for the audit log.
type By struct {
	Actor  string // the person: operating-system user and database role
	Origin string // the program and host
	Reason string
}

// SetSwitches switches the types on or off and writes the audit log, in one
// transaction. Types that already stand so are left alone and not returned.
func SetSwitches(ctx context.Context, db Beginner, types []ExecutionType, enabled bool, by By) ([]Switch, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	rows, err := tx.Query(ctx, `
		UPDATE jobs.tb_execution_type SET enabled = $2, reason = $3, changed_by = $4, changed_at = now()
		 WHERE execution_type = ANY ($1) AND enabled <> $2
		RETURNING execution_type, enabled, reason, changed_by, changed_at, stopped_at, stopped_by, stop_reason`, types, enabled, by.Reason, by.Actor)
	if err != nil {
		return nil, err
	}
	changed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Switch])
	if err != nil {
		return nil, fmt.Errorf("switch execution types: %w", err)
	}
	action := "disable-type"
	if enabled {
		action = "enable-type"
	}
	for _, s := range changed {
		if err := Audit(ctx, tx, by, action, string(s.Type),
			map[string]bool{"enabled": !enabled}, map[string]bool{"enabled": enabled}); err != nil {
			return nil, err
		}
	}
	return changed, tx.Commit(ctx)
}

// Audit writes one row of the audit log in the transaction of the change.
func Audit(ctx context.Context, tx pgx.Tx, by By, action, target string, before, after any) error {
	b, err := json.Marshal(before)
	if err != nil {
		return err
	}
	a, err := json.Marshal(after)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO jobs.tb_audit (actor, origin, action, target, reason, before_value, after_value)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, by.Actor, by.Origin, action, target, by.Reason, string(b), string(a))
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}
