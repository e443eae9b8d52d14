-- The way down of 002: removes what an agent needs. Loses the agents' list,
-- the attempts' history, the live figures and the audit log; no job.

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

-- step: drop triggers
-- lock: ACCESS EXCLUSIVE
DO $$
DECLARE
    doomed name;
BEGIN
    FOR doomed IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                     AND tgname IN ('tr_tb_job_run_wake_insert', 'tr_tb_job_run_wake_dated',
                                    'tr_tb_job_run_wake_update', 'tr_tb_job_run_cancel') LOOP
        CALL pg_temp.change_jobs(format('DROP TRIGGER %I ON jobs.tb_job_run', doomed));
    END LOOP;
END $$;

-- step: drop table jobs.tb_job_attempt
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF to_regclass('jobs.tb_job_attempt') IS NOT NULL THEN -- its foreign key is the jobs table's too
        CALL pg_temp.change_jobs('DROP TABLE jobs.tb_job_attempt');
    END IF;
END $$;

-- step: drop tables
DROP TABLE IF EXISTS jobs.tb_audit, jobs.tb_job_metric, jobs.tb_execution_type, jobs.tb_agent;

-- step: give new jobs random ids again
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
         WHERE adrelid = 'jobs.tb_job_run'::regclass
           AND adnum = (SELECT attnum FROM pg_attribute WHERE attrelid = 'jobs.tb_job_run'::regclass AND attname = 'id'))
       = 'jobs.new_job_id()' THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run ALTER COLUMN id SET DEFAULT gen_random_uuid()');
    END IF;
END $$;

-- step: fill pages of jobs.tb_job_run to the end again
-- lock: SHARE UPDATE EXCLUSIVE
DO $$
BEGIN
    IF to_regclass('jobs.tb_schema_added') IS NULL THEN -- this is run again
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM jobs.tb_schema_added WHERE name = 'fillfactor')
       AND EXISTS (SELECT FROM pg_class c, pg_options_to_table(c.reloptions) o
                    WHERE c.oid = 'jobs.tb_job_run'::regclass AND o.option_name = 'fillfactor' AND o.option_value = '95') THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run RESET (fillfactor)');
    END IF;
END $$;

-- step: drop functions
DROP FUNCTION IF EXISTS jobs.tell_agents(), jobs.wake_agents(), jobs.wake_agents_for(), jobs.new_job_id(),
    jobs.add_histogram(bigint[], bigint[]);

-- step: let index drops wait (nobody waits behind them)
SET lock_timeout = 0;

-- step: drop index idx_tb_job_run_retry_due
-- lock: SHARE UPDATE EXCLUSIVE
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_retry_due;

-- step: drop index idx_tb_job_run_lane
-- lock: SHARE UPDATE EXCLUSIVE
DROP INDEX CONCURRENTLY IF EXISTS jobs.idx_tb_job_run_lane;

-- step: bound the wait for locks again
SET lock_timeout = '50ms';

-- step: drop columns
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute
                WHERE attrelid = 'jobs.tb_job_run'::regclass AND NOT attisdropped
                  AND attname IN ('agent_id', 'retry_at', 'requeued_at')) THEN
        CALL pg_temp.change_jobs($change$ALTER TABLE jobs.tb_job_run
            DROP COLUMN IF EXISTS agent_id, DROP COLUMN IF EXISTS retry_at, DROP COLUMN IF EXISTS requeued_at$change$);
    END IF;
END $$;

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
