-- The way down of 001: returns to the HTTP-only schema. Loses execution_type,
-- runner_config, resource_usage, security_context and duration_seconds of
-- every job; the jobs themselves stay. Columns, functions and views that an
-- older variant lacked are kept: the application may have come to use them.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: drop views
DROP VIEW IF EXISTS jobs.v_execution_performance_by_type, jobs.v_resource_usage_by_runner, jobs.v_runner_failure_patterns;

-- step: drop triggers
DROP TRIGGER IF EXISTS tr_tb_job_run_fold_execution_type ON jobs.tb_job_run;
DROP TRIGGER IF EXISTS tr_tb_job_run_duration_insert ON jobs.tb_job_run;
DROP TRIGGER IF EXISTS tr_tb_job_run_duration_update ON jobs.tb_job_run;

-- step: drop functions
DROP FUNCTION IF EXISTS jobs.fold_execution_type(), jobs.set_job_duration();

-- step: drop index idx_tb_job_run_type_failed
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_type_failed;

-- step: drop index idx_tb_job_run_created
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_created;

-- step: drop columns
ALTER TABLE jobs.tb_job_run
    DROP CONSTRAINT IF EXISTS tb_job_run_execution_type_check,
    DROP COLUMN IF EXISTS execution_type, DROP COLUMN IF EXISTS runner_config,
    DROP COLUMN IF EXISTS resource_usage, DROP COLUMN IF EXISTS security_context,
    DROP COLUMN IF EXISTS duration_seconds;

-- step: forget the migrations
DROP TABLE IF EXISTS jobs.tb_schema_version;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
