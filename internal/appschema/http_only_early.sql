-- The jobs schema of an HTTP-only SpecQL application, as its compiler wrote it
-- before multi-execution, in the older variant: without idempotency_key,
-- timeout_seconds, the idempotency index and the last three views.
CREATE SCHEMA jobs;

CREATE TABLE jobs.tb_job_run (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    identifier      text NOT NULL UNIQUE,
    service_name    text NOT NULL,
    operation       text NOT NULL,
    input_data      jsonb,
    output_data     jsonb,
    error_message   text,
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    attempts        integer DEFAULT 0,
    max_attempts    integer DEFAULT 3,
    tenant_id       uuid,
    triggered_by    uuid,
    correlation_id  text,
    entity_type     text,
    entity_pk       text,
    created_at      timestamptz DEFAULT now(),
    started_at      timestamptz,
    completed_at    timestamptz,
    updated_at      timestamptz DEFAULT now()
);

CREATE INDEX idx_tb_job_run_pending ON jobs.tb_job_run (status, created_at) WHERE status = 'pending';
CREATE INDEX idx_tb_job_run_retry ON jobs.tb_job_run (status, attempts, max_attempts, updated_at)
    WHERE status IN ('failed', 'running');
CREATE INDEX idx_tb_job_run_correlation ON jobs.tb_job_run (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE FUNCTION jobs.mark_job_started(job_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE jobs.tb_job_run
       SET status = 'running', attempts = attempts + 1, started_at = now(), updated_at = now()
     WHERE id = job_id AND status = 'pending';
END $$;

CREATE FUNCTION jobs.complete_job_successfully(job_id uuid, output jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE jobs.tb_job_run
       SET status = 'completed', output_data = output, completed_at = now(), updated_at = now()
     WHERE id = job_id AND status = 'running';
END $$;

CREATE FUNCTION jobs.fail_job(job_id uuid, error_text text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE jobs.tb_job_run
       SET status = 'failed', error_message = error_text, updated_at = now()
     WHERE id = job_id AND status = 'running';
END $$;

CREATE VIEW jobs.v_job_stats AS
SELECT service_name, operation, status,
       count(*) AS total_jobs,
       avg(extract(epoch FROM completed_at - started_at))::numeric(10,2) AS avg_duration_sec,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM completed_at - started_at))::numeric(10,2)
           AS p95_duration_sec
  FROM jobs.tb_job_run
 WHERE started_at IS NOT NULL
 GROUP BY service_name, operation, status;

CREATE VIEW jobs.v_failing_services AS
SELECT service_name, operation,
       count(*) AS failure_count,
       max(updated_at) AS last_failure,
       array_agg(error_message) FILTER (WHERE error_message IS NOT NULL) AS recent_errors
  FROM jobs.tb_job_run
 WHERE status = 'failed' AND attempts >= max_attempts AND updated_at > now() - interval '1 hour'
 GROUP BY service_name, operation
HAVING count(*) > 10;
