-- Multi-execution for jobs.tb_job_run: execution types, runner configuration,
-- resource usage and security context beside every job.
--
-- Run it with `specql-tui migrate-schema`, or with psql:
--     psql -d your_database -f migrations/001_multi_execution.sql
-- Both give the same result, either may follow the other, and both may be run
-- again at any time: every step looks first and changes only what is missing.
-- Accepted: a database without a jobs schema, and both variants that an
-- HTTP-only application has. Existing functions and views of an application
-- are left as they are.
--
-- Every step is a statement of its own, outside a transaction (psql's default;
-- not under psql -1), because indexes are built CONCURRENTLY. No step rewrites
-- the table; those that need an exclusive lock hold it for a catalog change
-- only and give up after lock_timeout, to try again, rather than queue up the
-- application behind them. psql stops at the first error, so that nothing is
-- recorded that was not done; run it again. "-- step:" lines name the steps
-- for the progress display.

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

-- step: create schema jobs
DO $$
BEGIN
    -- IF NOT EXISTS would ask for the right to create schemas all the same.
    IF to_regnamespace('jobs') IS NULL THEN
        CREATE SCHEMA jobs;
    END IF;
END $$;

-- step: create the record of applied migrations
CREATE TABLE IF NOT EXISTS jobs.tb_schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT current_user
);

-- step: create the record of runs (what a second console reads of a migration at work)
CREATE TABLE IF NOT EXISTS jobs.tb_migration_run (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor      text NOT NULL,
    down       boolean NOT NULL,
    versions   integer[] NOT NULL,
    state      text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done', 'failed')),
    position   integer NOT NULL DEFAULT 0,
    progress   jsonb,
    error      text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at    timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);

-- step: create the record of the back-fill (where it goes on when it was interrupted)
CREATE TABLE IF NOT EXISTS jobs.tb_schema_fill (
    name        text PRIMARY KEY,
    next_block  bigint NOT NULL DEFAULT 0,
    end_block   bigint,
    rows_filled bigint NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz
);

-- step: note what an older application lacks (so that the way back is to what it had)
CREATE TABLE IF NOT EXISTS jobs.tb_schema_added (name text PRIMARY KEY);
DO $$
BEGIN
    IF to_regclass('jobs.tb_job_run') IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('jobs.tb_job_run') AND NOT attisdropped
                          AND attname = 'execution_type') THEN
        INSERT INTO jobs.tb_schema_added (name)
        SELECT c FROM unnest(ARRAY['idempotency_key', 'timeout_seconds']) c
         WHERE NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('jobs.tb_job_run') AND NOT attisdropped AND attname = c)
        UNION ALL
        SELECT r FROM unnest(ARRAY['idx_tb_job_run_pending', 'idx_tb_job_run_retry', 'idx_tb_job_run_correlation',
                                   'idx_tb_job_run_idempotency', 'v_job_stats', 'v_failing_services', 'v_job_queue_health',
                                   'v_job_retry_patterns', 'v_service_reliability']) r
         WHERE to_regclass('jobs.' || r) IS NULL
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- step: lift the bar that a way down puts up
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('jobs.tb_job_run')
                  AND conname = 'tb_job_run_http_only_check') THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run DROP CONSTRAINT tb_job_run_http_only_check');
    END IF;
END $$;

-- step: create table jobs.tb_job_run where there is none
CREATE TABLE IF NOT EXISTS jobs.tb_job_run (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    identifier      text NOT NULL UNIQUE,
    idempotency_key text,
    service_name    text NOT NULL,
    operation       text NOT NULL,
    input_data      jsonb,
    output_data     jsonb,
    error_message   text,
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    attempts        integer DEFAULT 0,
    max_attempts    integer DEFAULT 3,
    timeout_seconds integer,
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

-- step: add columns (constant defaults: no rewrite)
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    -- Looks first, so that running again takes no lock on the table.
    IF (SELECT count(*) FROM pg_attribute
         WHERE attrelid = 'jobs.tb_job_run'::regclass AND NOT attisdropped
           AND attname IN ('idempotency_key', 'timeout_seconds', 'execution_type', 'runner_config',
                           'resource_usage', 'security_context', 'duration_seconds')) < 7 THEN
        CALL pg_temp.change_jobs($change$ALTER TABLE jobs.tb_job_run
            ADD COLUMN IF NOT EXISTS idempotency_key  text,
            ADD COLUMN IF NOT EXISTS timeout_seconds  integer,
            ADD COLUMN IF NOT EXISTS execution_type   text NOT NULL DEFAULT 'http',
            ADD COLUMN IF NOT EXISTS runner_config    jsonb,
            ADD COLUMN IF NOT EXISTS resource_usage   jsonb,
            ADD COLUMN IF NOT EXISTS security_context jsonb,
            ADD COLUMN IF NOT EXISTS duration_seconds double precision$change$);
    END IF;
END $$;

-- step: constrain execution_type (not yet validated)
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint
                    WHERE conrelid = 'jobs.tb_job_run'::regclass
                      AND conname = 'tb_job_run_execution_type_check') THEN
        CALL pg_temp.change_jobs($change$ALTER TABLE jobs.tb_job_run ADD CONSTRAINT tb_job_run_execution_type_check
            CHECK (execution_type IN ('http', 'shell', 'docker', 'serverless')) NOT VALID$change$);
    END IF;
END $$;

-- step: validate the constraint (readers and writers go on)
-- lock: SHARE UPDATE EXCLUSIVE
-- work: one scan
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint
                WHERE conrelid = 'jobs.tb_job_run'::regclass
                  AND conname = 'tb_job_run_execution_type_check' AND NOT convalidated) THEN
        PERFORM set_config('lock_timeout', '0', true); -- nobody waits behind this one
        ALTER TABLE jobs.tb_job_run VALIDATE CONSTRAINT tb_job_run_execution_type_check;
    END IF;
END $$;

-- step: fold execution_type to lower case on insert
CREATE OR REPLACE FUNCTION jobs.fold_execution_type() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.execution_type := lower(NEW.execution_type);
    RETURN NEW;
END $$;

-- step: fill duration_seconds whoever finishes a job
CREATE OR REPLACE FUNCTION jobs.set_job_duration() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- completed_at may be missing (fail_job never set it) or older than the
    -- attempt that now ends.
    NEW.duration_seconds := greatest(0, extract(epoch FROM
        CASE WHEN NEW.completed_at >= NEW.started_at THEN NEW.completed_at ELSE clock_timestamp() END
        - NEW.started_at));
    RETURN NEW;
END $$;
-- As its owner: a writer may be allowed a few columns only.
CREATE OR REPLACE FUNCTION jobs.add_job_duration() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE jobs.tb_job_run
       SET duration_seconds = greatest(0, extract(epoch FROM
               CASE WHEN NEW.completed_at >= NEW.started_at THEN NEW.completed_at ELSE clock_timestamp() END
               - NEW.started_at))
     WHERE id = NEW.id;
    RETURN NULL;
END $$;

-- step: create triggers
-- lock: SHARE ROW EXCLUSIVE
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_fold_execution_type') THEN
        -- The words as they should be are told from others without folding.
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_fold_execution_type
            BEFORE INSERT ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.execution_type NOT IN ('http', 'shell', 'docker', 'serverless'))
            EXECUTE FUNCTION jobs.fold_execution_type()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_duration_insert') THEN
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_duration_insert
            BEFORE INSERT ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.status IN ('completed', 'failed', 'cancelled')
                  AND NEW.started_at IS NOT NULL AND NEW.duration_seconds IS NULL)
            EXECUTE FUNCTION jobs.set_job_duration()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_duration_update') THEN
        -- A writer that gives duration_seconds itself pays nothing for this; for
        -- others the row is written once more, in its place. No trigger on the
        -- table fires before an update: for that, whatever its condition, each row
        -- would be locked first, with a record in the WAL.
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_duration_update
            AFTER UPDATE OF status ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.status IN ('completed', 'failed', 'cancelled') AND OLD.status <> NEW.status
                  AND NEW.started_at IS NOT NULL
                  AND NEW.duration_seconds IS NOT DISTINCT FROM OLD.duration_seconds)
            EXECUTE FUNCTION jobs.add_job_duration()$change$);
    END IF;
END $$;

-- step: drop indexes that an interrupted build left invalid
-- lock: ACCESS EXCLUSIVE
DO $$
DECLARE
    leftover regclass;
BEGIN
    FOR leftover IN
        SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE i.indrelid = 'jobs.tb_job_run'::regclass AND NOT i.indisvalid
           AND c.relname IN ('idx_tb_job_run_pending', 'idx_tb_job_run_retry', 'idx_tb_job_run_correlation',
                             'idx_tb_job_run_idempotency', 'idx_tb_job_run_created', 'idx_tb_job_run_type_failed')
    LOOP
        CALL pg_temp.change_jobs(format('DROP INDEX %s', leftover));
    END LOOP;
END $$;

-- step: let index builds wait (nobody waits behind them, and one that gives up leaves an invalid index)
SET lock_timeout = 0;

-- step: build index idx_tb_job_run_pending
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_pending
    ON jobs.tb_job_run (status, created_at) WHERE status = 'pending';

-- step: build index idx_tb_job_run_retry
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_retry
    ON jobs.tb_job_run (status, attempts, max_attempts, updated_at) WHERE status IN ('failed', 'running');

-- step: build index idx_tb_job_run_correlation
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_correlation
    ON jobs.tb_job_run (correlation_id) WHERE correlation_id IS NOT NULL;

-- step: build index idx_tb_job_run_idempotency
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_idempotency
    ON jobs.tb_job_run (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- step: build index idx_tb_job_run_created (block range: serves the time windows of monitoring at next to no cost for writers)
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_created
    ON jobs.tb_job_run USING brin (created_at timestamptz_minmax_multi_ops);

-- step: build index idx_tb_job_run_type_failed (failures by type; only a failing job pays for it)
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_type_failed
    ON jobs.tb_job_run (execution_type, updated_at) WHERE status = 'failed';

-- step: bound the wait for locks again
SET lock_timeout = '50ms';

-- step: create function mark_job_started where there is none
DO $$
BEGIN
    IF to_regprocedure('jobs.mark_job_started(uuid)') IS NULL THEN
        CREATE FUNCTION jobs.mark_job_started(job_id uuid) RETURNS void LANGUAGE plpgsql AS $body$
        BEGIN
            UPDATE jobs.tb_job_run
               SET status = 'running', attempts = attempts + 1, started_at = now(), updated_at = now()
             WHERE id = job_id AND status = 'pending';
        END $body$;
    END IF;
END $$;

-- step: create function complete_job_successfully where there is none
DO $$
BEGIN
    IF to_regprocedure('jobs.complete_job_successfully(uuid, jsonb)') IS NULL THEN
        CREATE FUNCTION jobs.complete_job_successfully(job_id uuid, output jsonb) RETURNS void LANGUAGE plpgsql AS $body$
        BEGIN
            UPDATE jobs.tb_job_run
               SET status = 'completed', output_data = output, completed_at = now(), updated_at = now()
             WHERE id = job_id AND status = 'running';
        END $body$;
    END IF;
END $$;

-- step: create function fail_job where there is none
DO $$
BEGIN
    IF to_regprocedure('jobs.fail_job(uuid, text)') IS NULL THEN
        CREATE FUNCTION jobs.fail_job(job_id uuid, error_text text) RETURNS void LANGUAGE plpgsql AS $body$
        BEGIN
            UPDATE jobs.tb_job_run
               SET status = 'failed', error_message = error_text, updated_at = now()
             WHERE id = job_id AND status = 'running';
        END $body$;
    END IF;
END $$;

-- step: create view v_job_stats where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_job_stats') IS NULL THEN
        CREATE VIEW jobs.v_job_stats AS
        SELECT service_name, operation, status,
               count(*) AS total_jobs,
               avg(extract(epoch FROM completed_at - started_at))::numeric(10,2) AS avg_duration_sec,
               percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM completed_at - started_at))::numeric(10,2)
                   AS p95_duration_sec
          FROM jobs.tb_job_run
         WHERE started_at IS NOT NULL
         GROUP BY service_name, operation, status;
    END IF;
END $$;

-- step: create view v_failing_services where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_failing_services') IS NULL THEN
        CREATE VIEW jobs.v_failing_services AS
        SELECT service_name, operation,
               count(*) AS failure_count,
               max(updated_at) AS last_failure,
               array_agg(error_message) FILTER (WHERE error_message IS NOT NULL) AS recent_errors
          FROM jobs.tb_job_run
         WHERE status = 'failed' AND attempts >= max_attempts AND updated_at > now() - interval '1 hour'
         GROUP BY service_name, operation
        HAVING count(*) > 10;
    END IF;
END $$;

-- step: create view v_job_queue_health where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_job_queue_health') IS NULL THEN
        CREATE VIEW jobs.v_job_queue_health AS
        SELECT service_name, operation,
               count(*) FILTER (WHERE status = 'pending') AS pending_jobs,
               count(*) FILTER (WHERE status = 'running') AS running_jobs,
               count(*) FILTER (WHERE status = 'failed' AND attempts < max_attempts) AS retryable_failures,
               count(*) FILTER (WHERE status = 'failed' AND attempts >= max_attempts) AS permanent_failures,
               (avg(extract(epoch FROM now() - created_at)) FILTER (WHERE status = 'pending'))::numeric(10,2) AS avg_queue_age_sec,
               (max(extract(epoch FROM now() - created_at)) FILTER (WHERE status = 'pending'))::numeric(10,2) AS max_queue_age_sec
          FROM jobs.tb_job_run
         WHERE created_at > now() - interval '1 hour'
         GROUP BY service_name, operation;
    END IF;
END $$;

-- step: create view v_job_retry_patterns where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_job_retry_patterns') IS NULL THEN
        CREATE VIEW jobs.v_job_retry_patterns AS
        SELECT service_name, operation, attempts,
               count(*) AS jobs_at_attempt,
               avg(extract(epoch FROM completed_at - started_at))::numeric(10,2) AS avg_duration_at_attempt,
               count(*) FILTER (WHERE status = 'completed') AS successes_at_attempt,
               count(*) FILTER (WHERE status = 'failed') AS failures_at_attempt
          FROM jobs.tb_job_run
         WHERE attempts > 0 AND started_at IS NOT NULL AND updated_at > now() - interval '24 hours'
         GROUP BY service_name, operation, attempts;
    END IF;
END $$;

-- step: create view v_service_reliability where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_service_reliability') IS NULL THEN
        CREATE VIEW jobs.v_service_reliability AS
        SELECT service_name, operation,
               count(*) AS total_jobs,
               count(*) FILTER (WHERE status = 'completed') AS successful_jobs,
               count(*) FILTER (WHERE status = 'failed' AND attempts >= max_attempts) AS failed_jobs,
               round(count(*) FILTER (WHERE status = 'completed')::numeric / nullif(count(*), 0) * 100, 2) AS success_rate_percent,
               (avg(attempts) FILTER (WHERE status = 'completed'))::numeric(10,2) AS avg_attempts_for_success,
               max(updated_at) AS last_job_at
          FROM jobs.tb_job_run
         WHERE created_at > now() - interval '7 days'
         GROUP BY service_name, operation
        HAVING count(*) > 100;
    END IF;
END $$;

-- step: create view v_execution_performance_by_type where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_execution_performance_by_type') IS NULL THEN
        CREATE VIEW jobs.v_execution_performance_by_type AS
        SELECT execution_type, service_name, operation,
               count(*) AS total_jobs,
               count(*) FILTER (WHERE status = 'completed') AS successful_jobs,
               count(*) FILTER (WHERE status = 'failed') AS failed_jobs,
               (count(*) FILTER (WHERE status = 'completed'))::float / nullif(count(*), 0) AS success_rate,
               avg(duration_seconds)::numeric(12,4) AS avg_duration_sec,
               percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds)::numeric(12,4) AS p95_duration_sec,
               percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_seconds)::numeric(12,4) AS p99_duration_sec
          FROM jobs.tb_job_run
         WHERE started_at IS NOT NULL AND created_at > now() - interval '7 days'
         GROUP BY execution_type, service_name, operation;
    END IF;
END $$;

-- step: create view v_resource_usage_by_runner where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_resource_usage_by_runner') IS NULL THEN
        CREATE VIEW jobs.v_resource_usage_by_runner AS
        SELECT execution_type, service_name, operation,
               count(*) AS total_jobs,
               avg((resource_usage->>'cpu_usage_percent')::numeric)::numeric(12,2) AS avg_cpu_percent,
               avg((resource_usage->>'memory_mb')::numeric)::numeric(12,2) AS avg_memory_mb,
               max((resource_usage->>'peak_memory_mb')::numeric)::numeric(12,2) AS max_memory_mb,
               avg((resource_usage->>'duration_seconds')::numeric)::numeric(12,4) AS avg_duration_sec
          FROM jobs.tb_job_run
         WHERE resource_usage IS NOT NULL AND created_at > now() - interval '24 hours'
         GROUP BY execution_type, service_name, operation;
    END IF;
END $$;

-- step: create view v_runner_failure_patterns where there is none
DO $$
BEGIN
    IF to_regclass('jobs.v_runner_failure_patterns') IS NULL THEN
        CREATE VIEW jobs.v_runner_failure_patterns AS
        SELECT execution_type, service_name, operation,
               count(*) AS failure_count,
               array_agg(DISTINCT error_message) AS error_types,
               avg(attempts)::numeric(10,2) AS avg_attempts_before_failure,
               max(updated_at) AS last_failure
          FROM jobs.tb_job_run
         WHERE status = 'failed' AND attempts >= max_attempts AND created_at > now() - interval '24 hours'
         GROUP BY execution_type, service_name, operation;
    END IF;
END $$;

-- step: record migration 001
INSERT INTO jobs.tb_schema_version (version, name) VALUES (1, 'multi_execution') ON CONFLICT DO NOTHING;

-- step: fill duration_seconds of finished jobs, in paced batches
-- lock: ROW EXCLUSIVE
-- work: fill
-- when: last
-- Goes through the table by its blocks. A batch updates a few rows of each of
-- its pages, commits, and comes back to them: what the first rows left behind
-- makes room for the next ones in the same page, without new entries in any
-- index, and the table grows by a sixth instead of to twice its size. After
-- each transaction it rests for as long as that took. Rows that somebody has
-- locked, or that moved meanwhile, are left to another pass.
DO $$
DECLARE
    blocks constant integer := 256; -- of a batch
    share  constant integer := 4;   -- rows of a page in one transaction
    due    constant text := 'duration_seconds IS NULL AND started_at IS NOT NULL
        AND status IN (''completed'', ''failed'', ''cancelled'') AND coalesce(completed_at, updated_at) IS NOT NULL';
    fill   constant text := 'UPDATE jobs.tb_job_run
           SET duration_seconds = greatest(0, extract(epoch FROM
                   CASE WHEN completed_at >= started_at THEN completed_at ELSE updated_at END - started_at))
         WHERE ctid = ANY (ARRAY(SELECT place FROM (
               SELECT ctid AS place, row_number() OVER (PARTITION BY (ctid::text::point)[0]) AS n
                 FROM jobs.tb_job_run WHERE ctid >= format(''(%s,0)'', $1)::tid AND ctid < format(''(%s,0)'', $1 + $2)::tid AND ' || due || ') r
                WHERE n <= $3))';
    place  bigint;
    last   bigint;
    began  timestamptz;
    filled bigint;
    more   boolean;
BEGIN
    INSERT INTO jobs.tb_schema_fill (name) VALUES ('duration_seconds') ON CONFLICT DO NOTHING;
    LOOP
        SELECT next_block INTO place FROM jobs.tb_schema_fill WHERE name = 'duration_seconds';
        IF place = 0 THEN
            EXECUTE 'SELECT EXISTS (SELECT FROM jobs.tb_job_run WHERE ' || due || ')' INTO more;
            UPDATE jobs.tb_schema_fill SET done_at = CASE WHEN more THEN NULL ELSE coalesce(done_at, now()) END,
                   end_block = pg_relation_size('jobs.tb_job_run') / current_setting('block_size')::integer
             WHERE name = 'duration_seconds';
            COMMIT;
            EXIT WHEN NOT more;
        END IF;
        SELECT end_block INTO last FROM jobs.tb_schema_fill WHERE name = 'duration_seconds';
        WHILE place < last LOOP
            LOOP
                began := clock_timestamp();
                BEGIN
                    PERFORM set_config('lock_timeout', '50ms', true);
                    EXECUTE fill USING place, blocks, share;
                    GET DIAGNOSTICS filled = ROW_COUNT;
                EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                    filled := 0;
                END;
                EXIT WHEN filled = 0;
                UPDATE jobs.tb_schema_fill SET rows_filled = rows_filled + filled WHERE name = 'duration_seconds';
                SET LOCAL synchronous_commit = off; -- what a crash takes is filled again
                COMMIT;
                PERFORM pg_sleep(extract(epoch FROM clock_timestamp() - began));
            END LOOP;
            place := place + blocks;
            UPDATE jobs.tb_schema_fill SET next_block = CASE WHEN place < last THEN place ELSE 0 END
             WHERE name = 'duration_seconds';
            COMMIT;
        END LOOP;
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
