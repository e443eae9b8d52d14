package ops

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// ErrNoJob says that no job has the id that was asked for.
var ErrNoJob = errors.New("no such job")

const jobSQL = `
SELECT r.id, r.identifier, r.service_name, r.operation, r.execution_type, r.status, coalesce(r.attempts, 0),
       coalesce(r.max_attempts, 3), coalesce(r.created_at, r.updated_at, 'epoch'), r.started_at, r.completed_at, r.retry_at,
       r.duration_seconds, coalesce(r.error_message, ''), r.input_data, r.output_data, r.runner_config, r.resource_usage,
       r.security_context, r.timeout_seconds, coalesce(r.tenant_id::text, ''), coalesce(r.triggered_by::text, ''),
       coalesce(r.correlation_id, ''), coalesce(r.idempotency_key, ''), coalesce(r.entity_type, ''),
       coalesce(r.entity_pk, ''), coalesce(r.updated_at, r.created_at, 'epoch'), coalesce(a.name, '')
  FROM jobs.tb_job_run r LEFT JOIN jobs.tb_agent a ON a.id = r.agent_id
 WHERE r.id = $1`

const historySQL = `
SELECT t.attempt, coalesce(a.name, ''), t.started_at, t.finished_at, t.duration_seconds, t.error_message,
       coalesce(t.violation, '')
  FROM jobs.tb_job_attempt t LEFT JOIN jobs.tb_agent a ON a.id = t.agent_id
 WHERE t.job_id = $1 ORDER BY t.finished_at, t.attempt`

// GetJob reads everything about one job. ErrNoJob says that there is none.
func GetJob(ctx context.Context, db jobs.Querier, id jobs.ID) (JobDetail, error) {
	d, err := getJob(ctx, db, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return d, fmt.Errorf("%w: %s: it may have been deleted by retention", ErrNoJob, id)
	}
	return d, Explain(err)
}

func getJob(ctx context.Context, db jobs.Querier, id jobs.ID) (JobDetail, error) {
	var d JobDetail
	err := db.QueryRow(ctx, jobSQL, id).Scan(&d.ID, &d.Identifier, &d.Service, &d.Operation, &d.Type, &d.Status,
		&d.Attempts, &d.MaxAttempts, &d.CreatedAt, &d.StartedAt, &d.CompletedAt, &d.RetryAt, &d.DurationSeconds,
		&d.Error, &d.Input, &d.Output, &d.RunnerConfig, &d.ResourceUsage, &d.SecurityContext, &d.TimeoutSeconds,
		&d.TenantID, &d.TriggeredBy, &d.CorrelationID, &d.IdempotencyKey, &d.EntityType, &d.EntityPK, &d.UpdatedAt,
		&d.Agent)
	if err != nil {
		return d, err
	}
	rows, err := db.Query(ctx, historySQL, id)
	if err != nil {
		return d, err
	}
	if d.History, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AttemptRow]); err != nil {
		return d, err
	}
	if d.Logs, err = JobLogs(ctx, db, id); err != nil {
		return d, err
	}
	return d, explainWaits(ctx, db, []*JobRow{&d.JobRow})
}
