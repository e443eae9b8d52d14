package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// LaneSwitch is what operators decided about one service, in its row of
// jobs.tb_lane. It outlives registries; agents obey it with their next claim.
type LaneSwitch struct {
	Service   string        `json:"service_name"`
	Type      ExecutionType `json:"execution_type"` // by the registry
	Enabled   bool          `json:"enabled"`
	Fallback  bool          `json:"fallback"`     // it runs by http in place of Type
	CanFall   bool          `json:"has_fallback"` // its base_url says where
	Reason    string        `json:"reason,omitempty"`
	ChangedBy string        `json:"changed_by,omitempty"`
	ChangedAt *time.Time    `json:"changed_at,omitempty"`
}

// Runs is the type that runs the service now.
func (s LaneSwitch) Runs() ExecutionType {
	if s.Fallback {
		return HTTP
	}
	return s.Type
}

const laneColumns = `service_name, execution_type, enabled, runs_as IS NOT NULL, has_fallback, switch_reason, switched_by, switched_at`

const laneSwitchesSQL = `SELECT ` + laneColumns + ` FROM jobs.tb_lane ORDER BY service_name`

// LaneSwitches lists every service that agents have published.
func LaneSwitches(ctx context.Context, db Querier) ([]LaneSwitch, error) {
	rows, err := db.Query(ctx, laneSwitchesSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[LaneSwitch])
}

// Fallbacks lists the services that run by http in place of their own type.
func Fallbacks(ctx context.Context, db Querier) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT service_name FROM jobs.tb_lane WHERE runs_as = 'http' ORDER BY service_name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// SwitchedOff lists the services that operators switched off.
func SwitchedOff(ctx context.Context, db Querier) ([]string, error) {
	rows, err := db.Query(ctx, `SELECT service_name FROM jobs.tb_lane WHERE NOT enabled ORDER BY service_name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// LaneChange is one thing to do to services' switches.
type LaneChange string

// The changes. Each undoes the one beside it.
const (
	DisableService LaneChange = "disable"
	EnableService  LaneChange = "enable"
	FallBack       LaneChange = "fallback"
	NoFallback     LaneChange = "no-fallback"
)

var laneChangeSQL = map[LaneChange]string{
	DisableService: `enabled = false` + laneChangeEnd + ` AND enabled`,
	EnableService:  `enabled = true` + laneChangeEnd + ` AND NOT enabled`,
	FallBack:       `runs_as = 'http'` + laneChangeEnd + ` AND runs_as IS NULL AND has_fallback AND execution_type <> 'http'`,
	NoFallback:     `runs_as = NULL` + laneChangeEnd + ` AND runs_as IS NOT NULL`,
}

const laneChangeEnd = `, switch_reason = $2, switched_by = $3, switched_at = now(), updated_at = now() WHERE service_name = ANY ($1)`

// SwitchLanes changes services' switches and writes the audit log, in the
// transaction given. Services that stand so already, and a fallback where none
// is, are left alone and not returned.
func SwitchLanes(ctx context.Context, tx pgx.Tx, services []string, change LaneChange, by By) ([]LaneSwitch, error) {
	rows, err := tx.Query(ctx, `UPDATE jobs.tb_lane SET `+laneChangeSQL[change]+` RETURNING `+laneColumns, services, by.Reason, by.Actor)
	if err != nil {
		return nil, err
	}
	changed, err := pgx.CollectRows(rows, pgx.RowToStructByPos[LaneSwitch])
	if err != nil {
		return nil, fmt.Errorf("%s services: %w", change, err)
	}
	for _, s := range changed {
		before, after := map[string]bool{"enabled": !s.Enabled}, map[string]bool{"enabled": s.Enabled}
		if change == FallBack || change == NoFallback {
			before, after = map[string]bool{"fallback": !s.Fallback}, map[string]bool{"fallback": s.Fallback}
		}
		if err := Audit(ctx, tx, by, string(change)+"-service", s.Service, before, after); err != nil {
			return nil, err
		}
	}
	return changed, nil
}
