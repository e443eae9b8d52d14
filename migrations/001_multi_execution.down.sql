-- The way down of 001: returns to the HTTP-only schema. Loses execution_type,
-- runner_config, resource_usage, security_context and duration_seconds of
-- every job; the jobs themselves stay. What an older application lacked goes
-- too, but for columns that it has come to fill.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '50ms';

-- step: define how a change takes its lock
-- A change that waits for its lock makes the application's next statements
-- wait behind it, so it gives up after 50 ms and tries again, and does not even
-- ask while a transaction that has lasted a second has the table. The weaker
-- lock comes first, without a bound: nobody's reads and writes wait for that
-- one, and an autovacuum on the table makes way for it. specql.lock_tries is 1
-- where the caller does the retrying.
CREATE OR REPLACE PROCEDURE pg_temp.change_jobs(change text) LANGUAGE plpgsql AS $$
DECLARE
    tries integer := coalesce(nullif(current_setting('specql.lock_tries', true), ''), '100')::integer;
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '0', true);
            LOCK TABLE jobs.tb_job_run IN SHARE UPDATE EXCLUSIVE MODE;
            IF EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
                        WHERE l.relation = 'jobs.tb_job_run'::regclass AND l.granted AND l.pid <> pg_backend_pid()
                          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                          AND a.xact_start < clock_timestamp() - interval '1 second') THEN
                RAISE lock_not_available USING MESSAGE = 'a long transaction has jobs.tb_job_run';
            END IF;
            PERFORM set_config('lock_timeout', '50ms', true);
            EXECUTE change;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            tries := tries - 1;
            IF tries <= 0 THEN
                RAISE;
            END IF;
        END;
        COMMIT;
        PERFORM pg_sleep(0.1 + 0.9 * random());
    END LOOP;
END $$;

-- step: drop views
DROP VIEW IF EXISTS jobs.v_execution_performance_by_type, jobs.v_resource_usage_by_runner, jobs.v_runner_failure_patterns;

-- step: drop triggers
-- lock: ACCESS EXCLUSIVE
DO $$
DECLARE
    doomed name;
BEGIN
    FOR doomed IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                     AND tgname IN ('tr_tb_job_run_fold_execution_type', 'tr_tb_job_run_duration_insert',
                                    'tr_tb_job_run_duration_update') LOOP
        CALL pg_temp.change_jobs(format('DROP TRIGGER %I ON jobs.tb_job_run', doomed));
    END LOOP;
END $$;

-- step: drop functions
DROP FUNCTION IF EXISTS jobs.fold_execution_type(), jobs.set_job_duration(), jobs.add_job_duration();

-- step: let index drops wait (nobody waits behind them)
SET lock_timeout = 0;

-- step: drop index idx_tb_job_run_type_failed
-- lock: SHARE UPDATE EXCLUSIVE
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_type_failed;

-- step: drop index idx_tb_job_run_created
-- lock: SHARE UPDATE EXCLUSIVE
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_created;

-- step: bound the wait for locks again
SET lock_timeout = '50ms';

-- step: drop what an older application lacked
-- lock: ACCESS EXCLUSIVE
-- work: one scan
DO $$
DECLARE
    doomed text;
    filled boolean;
    change text;
BEGIN
    CREATE TABLE IF NOT EXISTS jobs.tb_schema_added (name text PRIMARY KEY); -- gone when this is run again
    FOR doomed IN SELECT a.name FROM jobs.tb_schema_added a JOIN pg_class c ON c.relname = a.name
                    JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'jobs' AND c.relkind = 'v' LOOP
        EXECUTE format('DROP VIEW jobs.%I', doomed);
    END LOOP;
    FOR doomed IN SELECT a.name FROM jobs.tb_schema_added a JOIN pg_attribute t ON t.attname = a.name
                   WHERE t.attrelid = 'jobs.tb_job_run'::regclass AND NOT t.attisdropped LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM jobs.tb_job_run WHERE %I IS NOT NULL)', doomed) INTO filled;
        IF NOT filled THEN
            change := concat_ws(', ', change, format('DROP COLUMN %I', doomed)); -- with its index
        END IF;
    END LOOP;
    IF change IS NOT NULL THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run ' || change);
    END IF;
    FOR doomed IN SELECT a.name FROM jobs.tb_schema_added a JOIN pg_class c ON c.relname = a.name
                    JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'jobs' AND c.relkind = 'i' AND a.name <> 'idx_tb_job_run_idempotency' LOOP
        CALL pg_temp.change_jobs(format('DROP INDEX jobs.%I', doomed));
    END LOOP;
END $$;

-- step: drop columns
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute
                WHERE attrelid = 'jobs.tb_job_run'::regclass AND NOT attisdropped
                  AND attname IN ('execution_type', 'runner_config', 'resource_usage', 'security_context', 'duration_seconds')) THEN
        CALL pg_temp.change_jobs($change$ALTER TABLE jobs.tb_job_run
            DROP CONSTRAINT IF EXISTS tb_job_run_execution_type_check,
            DROP COLUMN IF EXISTS execution_type, DROP COLUMN IF EXISTS runner_config,
            DROP COLUMN IF EXISTS resource_usage, DROP COLUMN IF EXISTS security_context,
            DROP COLUMN IF EXISTS duration_seconds$change$);
    END IF;
END $$;

-- step: forget the migrations
DROP TABLE IF EXISTS jobs.tb_schema_added, jobs.tb_schema_fill, jobs.tb_migration_run, jobs.tb_schema_version;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
