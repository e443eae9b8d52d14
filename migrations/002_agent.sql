-- What an agent needs of the database beyond the guide's columns: leases,
-- lanes, switches, wake-ups, live figures, the attempts' history and the audit
-- log. Additive only; an application notices none of it. May be run again.

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

-- step: add the columns of leases and retries
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_attribute
         WHERE attrelid = 'jobs.tb_job_run'::regclass AND NOT attisdropped
           AND attname IN ('agent_id', 'retry_at', 'requeued_at')) < 3 THEN
        CALL pg_temp.change_jobs($change$ALTER TABLE jobs.tb_job_run
            ADD COLUMN IF NOT EXISTS agent_id    uuid,
            ADD COLUMN IF NOT EXISTS retry_at    timestamptz,
            ADD COLUMN IF NOT EXISTS requeued_at timestamptz$change$);
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
           AND c.relname IN ('idx_tb_job_run_lane', 'idx_tb_job_run_retry_due')
    LOOP
        CALL pg_temp.change_jobs(format('DROP INDEX %s', leftover));
    END LOOP;
END $$;

-- step: let index builds wait (nobody waits behind them, and one that gives up leaves an invalid index)
SET lock_timeout = 0;

-- step: build index idx_tb_job_run_lane (a claim reads one service's waiting jobs, in their order, from where the last one ended)
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_lane
    ON jobs.tb_job_run (service_name, (coalesce(requeued_at, created_at, '-infinity'::timestamptz)), id) WHERE status = 'pending';

-- step: build index idx_tb_job_run_retry_due
-- lock: SHARE UPDATE EXCLUSIVE
-- work: two scans
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_tb_job_run_retry_due
    ON jobs.tb_job_run (retry_at) WHERE status = 'failed' AND retry_at IS NOT NULL;

-- step: bound the wait for locks again
SET lock_timeout = '50ms';

-- step: create table jobs.tb_agent
CREATE TABLE IF NOT EXISTS jobs.tb_agent (
    id               uuid PRIMARY KEY,
    name             text NOT NULL,
    host             text NOT NULL,
    pid              integer NOT NULL,
    version          text NOT NULL,
    environment      text NOT NULL DEFAULT '',
    execution_types  text[] NOT NULL,
    slots            integer NOT NULL,
    running          integer NOT NULL DEFAULT 0,
    isolation        text NOT NULL DEFAULT '',
    registry_hash    text NOT NULL DEFAULT '',
    registry_error   text NOT NULL DEFAULT '',
    state            text NOT NULL DEFAULT 'running'
                     CHECK (state IN ('running', 'paused', 'draining', 'drained', 'stopped')),
    wanted           text NOT NULL DEFAULT 'running' CHECK (wanted IN ('running', 'paused', 'drained')),
    reload_asked_at  timestamptz,
    reaped           boolean NOT NULL DEFAULT false,
    started_at       timestamptz NOT NULL DEFAULT now(),
    heartbeat_at     timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL
);

-- step: create table jobs.tb_execution_type
CREATE TABLE IF NOT EXISTS jobs.tb_execution_type (
    execution_type text PRIMARY KEY CHECK (execution_type IN ('http', 'shell', 'docker', 'serverless')),
    enabled        boolean NOT NULL DEFAULT true,
    reason         text NOT NULL DEFAULT '',
    changed_by     text NOT NULL DEFAULT '',
    changed_at     timestamptz NOT NULL DEFAULT now()
);

-- step: fill jobs.tb_execution_type
INSERT INTO jobs.tb_execution_type (execution_type)
VALUES ('http'), ('shell'), ('docker'), ('serverless') ON CONFLICT DO NOTHING;

-- step: create table jobs.tb_job_attempt
-- lock: SHARE ROW EXCLUSIVE
DO $$
BEGIN
    -- The foreign key takes a lock on jobs.tb_job_run.
    IF to_regclass('jobs.tb_job_attempt') IS NULL THEN
        CALL pg_temp.change_jobs($change$CREATE TABLE jobs.tb_job_attempt (
            job_id           uuid NOT NULL REFERENCES jobs.tb_job_run (id) ON DELETE CASCADE,
            attempt          integer NOT NULL,
            agent_id         uuid,
            started_at       timestamptz,
            finished_at      timestamptz NOT NULL DEFAULT now(),
            duration_seconds double precision,
            error_message    text NOT NULL,
            violation        text,
            resource_usage   jsonb,
            PRIMARY KEY (job_id, attempt, finished_at)
        )$change$);
    END IF;
END $$;

-- step: create table jobs.tb_job_metric
CREATE TABLE IF NOT EXISTS jobs.tb_job_metric (
    minute         timestamptz NOT NULL,
    execution_type text NOT NULL,
    service_name   text NOT NULL,
    operation      text NOT NULL,
    completed      bigint NOT NULL DEFAULT 0,
    failed         bigint NOT NULL DEFAULT 0,
    violations     bigint NOT NULL DEFAULT 0,
    busy_seconds   double precision NOT NULL DEFAULT 0,
    cpu_percent_sum double precision NOT NULL DEFAULT 0,
    cpu_samples    bigint NOT NULL DEFAULT 0,
    memory_mb_sum  double precision NOT NULL DEFAULT 0,
    memory_samples bigint NOT NULL DEFAULT 0,
    memory_mb_peak double precision NOT NULL DEFAULT 0,
    duration_hist  bigint[] NOT NULL,
    wait_hist      bigint[] NOT NULL,
    PRIMARY KEY (minute, execution_type, service_name, operation)
);

-- step: create table jobs.tb_audit
CREATE TABLE IF NOT EXISTS jobs.tb_audit (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT now(),
    actor        text NOT NULL,
    origin       text NOT NULL,
    action       text NOT NULL,
    target       text NOT NULL,
    reason       text NOT NULL DEFAULT '',
    before_value jsonb,
    after_value  jsonb
);

-- step: create function jobs.add_histogram
CREATE OR REPLACE FUNCTION jobs.add_histogram(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY n)
      FROM unnest(a, b) WITH ORDINALITY AS u(x, y, n)
$$;

-- step: create function jobs.wake_agents
-- What a wake-up says is the place in the lanes' order from which jobs may have
-- come to wait, in microseconds since 1970: agents look from there and not at
-- what they have dealt with. All rows of a transaction say the same, so that
-- PostgreSQL sends it once. Transactions that notify commit one after the other,
-- each waiting for the disk, so nobody is woken where no agent lives; one that
-- comes looks through all lanes first.
CREATE OR REPLACE FUNCTION jobs.wake_agents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM jobs.tb_agent WHERE lease_expires_at > now()) THEN
        PERFORM pg_notify('specql_jobs', (extract(epoch FROM now()) * 1000000)::bigint::text);
    END IF;
    RETURN NULL;
END $$;

-- step: create function jobs.wake_agents_for
-- For a row whose place is not that of its transaction: to the second, so that
-- many of them still say few things. An empty place is before all others.
CREATE OR REPLACE FUNCTION jobs.wake_agents_for() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    place timestamptz := coalesce(NEW.requeued_at, NEW.created_at);
BEGIN
    IF EXISTS (SELECT FROM jobs.tb_agent WHERE lease_expires_at > now()) THEN
        PERFORM pg_notify('specql_jobs', CASE WHEN isfinite(place)
            THEN (floor(extract(epoch FROM place)) * 1000000)::bigint::text ELSE '' END);
    END IF;
    RETURN NULL;
END $$;

-- step: create function jobs.tell_agents
CREATE OR REPLACE FUNCTION jobs.tell_agents() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('specql_control', CASE TG_TABLE_NAME
        WHEN 'tb_execution_type' THEN 'switch ' || (to_jsonb(NEW)->>'execution_type')
        WHEN 'tb_agent' THEN 'agent ' || (to_jsonb(NEW)->>'id')
        ELSE 'cancel ' || (to_jsonb(OLD)->>'id') END);
    RETURN NULL;
END $$;

-- step: create triggers
-- lock: SHARE ROW EXCLUSIVE
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_wake_insert') THEN
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_wake_insert
            AFTER INSERT ON jobs.tb_job_run FOR EACH STATEMENT EXECUTE FUNCTION jobs.wake_agents()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_wake_dated') THEN
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_wake_dated
            AFTER INSERT ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.status = 'pending' AND NEW.created_at IS DISTINCT FROM now())
            EXECUTE FUNCTION jobs.wake_agents_for()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_wake_update') THEN
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_wake_update
            AFTER UPDATE OF status ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.status = 'pending' AND OLD.status <> 'pending')
            EXECUTE FUNCTION jobs.wake_agents_for()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_job_run'::regclass
                      AND tgname = 'tr_tb_job_run_cancel') THEN
        CALL pg_temp.change_jobs($change$CREATE TRIGGER tr_tb_job_run_cancel
            AFTER UPDATE OF status ON jobs.tb_job_run FOR EACH ROW
            WHEN (NEW.status = 'cancelled' AND OLD.status = 'running')
            EXECUTE FUNCTION jobs.tell_agents()$change$);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_execution_type'::regclass
                      AND tgname = 'tr_tb_execution_type_switch') THEN
        CREATE TRIGGER tr_tb_execution_type_switch
            AFTER UPDATE ON jobs.tb_execution_type FOR EACH ROW EXECUTE FUNCTION jobs.tell_agents();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_agent'::regclass
                      AND tgname = 'tr_tb_agent_order') THEN
        CREATE TRIGGER tr_tb_agent_order AFTER UPDATE OF wanted, reload_asked_at ON jobs.tb_agent FOR EACH ROW
            WHEN (NEW.wanted <> OLD.wanted OR NEW.reload_asked_at IS DISTINCT FROM OLD.reload_asked_at)
            EXECUTE FUNCTION jobs.tell_agents();
    END IF;
END $$;

-- step: give new jobs time-ordered ids
-- Random ones cost a third of the throughput on a large table. Rows that bring
-- an id of their own keep it.
CREATE OR REPLACE FUNCTION jobs.new_job_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
               PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
               52, 1), 53, 1), 'hex')::uuid
$$;

-- step: make them the default of jobs.tb_job_run.id
-- lock: ACCESS EXCLUSIVE
DO $$
BEGIN
    IF (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
         WHERE adrelid = 'jobs.tb_job_run'::regclass
           AND adnum = (SELECT attnum FROM pg_attribute WHERE attrelid = 'jobs.tb_job_run'::regclass AND attname = 'id'))
       IS DISTINCT FROM 'jobs.new_job_id()' THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run ALTER COLUMN id SET DEFAULT jobs.new_job_id()');
    END IF;
END $$;

-- step: keep a twentieth of each page of jobs.tb_job_run free
-- lock: SHARE UPDATE EXCLUSIVE
-- New versions of young rows then stay together, where they would else fill the
-- gaps of old pages one by one, each of which is written whole to the WAL after a
-- checkpoint: a quarter of the throughput at 1,000,000 rows. No page is rewritten.
-- A fill factor of the application's own stays.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class c, pg_options_to_table(c.reloptions) o
                    WHERE c.oid = 'jobs.tb_job_run'::regclass AND o.option_name = 'fillfactor') THEN
        CALL pg_temp.change_jobs('ALTER TABLE jobs.tb_job_run SET (fillfactor = 95)');
        INSERT INTO jobs.tb_schema_added (name) VALUES ('fillfactor') ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- step: record migration 002
INSERT INTO jobs.tb_schema_version (version, name) VALUES (2, 'agent') ON CONFLICT DO NOTHING;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
