package migrations

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// RowFault is a rule of the contract that rows of the jobs table break.
type RowFault struct {
	Rule    string `json:"rule"`
	Rows    int64  `json:"rows"`
	Example string `json:"example"` // identifier of one of them
}

// rowRules are what every row keeps, each as the condition that breaks it.
var rowRules = []struct{ rule, broken string }{
	{"execution_type is http, shell, docker or serverless",
		"execution_type IS NULL OR execution_type NOT IN ('http', 'shell', 'docker', 'serverless')"},
	{"duration_seconds is filled for every finished attempt",
		"duration_seconds IS NULL AND started_at IS NOT NULL AND status IN ('completed', 'failed', 'cancelled') AND coalesce(completed_at, updated_at) IS NOT NULL"},
	{"duration_seconds is not negative", "duration_seconds < 0"},
	{"service_name and operation are not empty", "service_name = '' OR operation = ''"},
	{"resource_usage is an object of numbers", `resource_usage IS NOT NULL AND (jsonb_typeof(resource_usage) <> 'object'
		OR coalesce(jsonb_typeof(resource_usage->'cpu_usage_percent'), 'number') <> 'number'
		OR coalesce(jsonb_typeof(resource_usage->'memory_mb'), 'number') <> 'number'
		OR coalesce(jsonb_typeof(resource_usage->'peak_memory_mb'), 'number') <> 'number'
		OR coalesce(jsonb_typeof(resource_usage->'duration_seconds'), 'number') <> 'number')`},
	{"runner_config and security_context are objects",
		"coalesce(jsonb_typeof(runner_config), 'object') <> 'object' OR coalesce(jsonb_typeof(security_context), 'object') <> 'object'"},
	{"a running job has been started", "status = 'running' AND started_at IS NULL"},
}

// brokenRows counts the rows that break a rule, in one scan of the table.
func brokenRows(ctx context.Context, conn *pgx.Conn, found []object) ([]RowFault, error) {
	for _, column := range []string{"execution_type", "duration_seconds", "resource_usage", "runner_config", "security_context"} {
		if !has(found, "column", jobsTable+"."+column) {
			return []RowFault{}, nil // which is the greater fault
		}
	}
	var list []string
	for _, r := range rowRules {
		list = append(list, fmt.Sprintf("count(*) FILTER (WHERE %[1]s), coalesce(min(identifier) FILTER (WHERE %[1]s), '')", r.broken))
	}
	faults := make([]RowFault, len(rowRules))
	var into []any
	for i := range faults {
		faults[i].Rule = rowRules[i].rule
		into = append(into, &faults[i].Rows, &faults[i].Example)
	}
	if err := conn.QueryRow(ctx, "SELECT "+strings.Join(list, ", ")+" FROM jobs.tb_job_run").Scan(into...); err != nil {
		return nil, fmt.Errorf("look for rows that break the contract: %w", err)
	}
	broken := []RowFault{}
	for _, f := range faults {
		if f.Rows > 0 {
			broken = append(broken, f)
		}
	}
	return broken, nil
}
