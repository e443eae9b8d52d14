-- The way down of 002: removes what an agent needs. Loses the agents' list,
-- the attempts' history, the live figures and the audit log; no job.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: drop triggers
DROP TRIGGER IF EXISTS tr_tb_job_run_wake_insert ON jobs.tb_job_run;
DROP TRIGGER IF EXISTS tr_tb_job_run_wake_dated ON jobs.tb_job_run;
DROP TRIGGER IF EXISTS tr_tb_job_run_wake_update ON jobs.tb_job_run;
DROP TRIGGER IF EXISTS tr_tb_job_run_cancel ON jobs.tb_job_run;

-- step: drop tables
DROP TABLE IF EXISTS jobs.tb_audit, jobs.tb_job_metric, jobs.tb_job_attempt, jobs.tb_execution_type, jobs.tb_agent;

-- step: give new jobs random ids again
ALTER TABLE jobs.tb_job_run ALTER COLUMN id SET DEFAULT gen_random_uuid();

-- step: drop functions
DROP FUNCTION IF EXISTS jobs.tell_agents(), jobs.wake_agents(), jobs.wake_agents_for(), jobs.new_job_id(),
    jobs.add_histogram(bigint[], bigint[]);

-- step: drop index idx_tb_job_run_retry_due
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_retry_due;

-- step: drop index idx_tb_job_run_lane
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_lane;

-- step: drop columns
ALTER TABLE jobs.tb_job_run
    DROP COLUMN IF EXISTS agent_id, DROP COLUMN IF EXISTS retry_at, DROP COLUMN IF EXISTS requeued_at;

-- step: forget migration 002
DO $$
BEGIN
    IF to_regclass('jobs.tb_schema_version') IS NOT NULL THEN
        DELETE FROM jobs.tb_schema_version WHERE version = 2;
    END IF;
END $$;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
