-- What operators decide and agents obey beyond the types' switches: a service
-- switched off or to its http fallback, the emergency stop, rollbacks and
-- guarded roll-outs; and what people sign off on the way from HTTP-only.
-- Additive only; may be run again.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: add the emergency stop to jobs.tb_execution_type (beside enabled, which it leaves as it is)
ALTER TABLE jobs.tb_execution_type
    ADD COLUMN IF NOT EXISTS stopped_at  timestamptz,
    ADD COLUMN IF NOT EXISTS stopped_by  text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS stop_reason text NOT NULL DEFAULT '';

-- step: add the service's switch to jobs.tb_lane (runs_as: the type that takes the place of the registry's; null: none)
ALTER TABLE jobs.tb_lane
    ADD COLUMN IF NOT EXISTS enabled       boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS runs_as       text CHECK (runs_as = 'http'),
    ADD COLUMN IF NOT EXISTS has_fallback  boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS switch_reason text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS switched_by   text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS switched_at   timestamptz;

-- step: add what variables an agent's services name (true: it is set there)
ALTER TABLE jobs.tb_agent ADD COLUMN IF NOT EXISTS variables jsonb NOT NULL DEFAULT '{}';

-- step: create table jobs.tb_rollback
CREATE TABLE IF NOT EXISTS jobs.tb_rollback (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state           text NOT NULL CHECK (state IN ('running', 'done', 'undoing', 'undone')),
    began_at        timestamptz NOT NULL DEFAULT now(),
    ended_at        timestamptz,
    actor           text NOT NULL,
    origin          text NOT NULL,
    reason          text NOT NULL DEFAULT '',
    types           text[] NOT NULL,
    pending_mode    text NOT NULL CHECK (pending_mode IN ('hold', 'cancel')),
    grace_seconds   double precision NOT NULL,
    stop_running    boolean NOT NULL DEFAULT false,
    switched_off    text[] NOT NULL DEFAULT '{}',
    registry_before text NOT NULL DEFAULT '',
    registry_after  text NOT NULL DEFAULT '',
    registry_file   text NOT NULL DEFAULT '',
    registry_backup text NOT NULL DEFAULT '',
    jobs_held       bigint NOT NULL DEFAULT 0,
    jobs_cancelled  bigint NOT NULL DEFAULT 0,
    jobs_left       bigint NOT NULL DEFAULT 0
);

-- step: create table jobs.tb_rollback_job (what a rollback cancelled, so that it can be undone)
CREATE TABLE IF NOT EXISTS jobs.tb_rollback_job (
    rollback_id bigint NOT NULL REFERENCES jobs.tb_rollback (id) ON DELETE CASCADE,
    job_id      uuid NOT NULL,
    PRIMARY KEY (rollback_id, job_id)
);

-- step: create table jobs.tb_rollout
CREATE TABLE IF NOT EXISTS jobs.tb_rollout (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_type text NOT NULL CHECK (execution_type IN ('shell', 'docker', 'serverless')),
    state          text NOT NULL CHECK (state IN ('running', 'passed', 'stopped', 'ended')),
    stage          text NOT NULL CHECK (stage IN ('canary', 'hundred', 'all')),
    service_name   text NOT NULL,
    canary_job     uuid,
    held_services  text[] NOT NULL DEFAULT '{}',
    least_success  double precision NOT NULL,
    most_p95       double precision,
    wanted_jobs    integer NOT NULL,
    actor          text NOT NULL,
    origin         text NOT NULL,
    reason         text NOT NULL DEFAULT '',
    began_at       timestamptz NOT NULL DEFAULT now(),
    stage_at       timestamptz NOT NULL DEFAULT now(),
    base_completed bigint NOT NULL DEFAULT 0,
    base_failed    bigint NOT NULL DEFAULT 0,
    ended_at       timestamptz,
    outcome        text NOT NULL DEFAULT ''
);

-- step: create index idx_tb_rollout_running (one roll-out of a type at a time)
CREATE UNIQUE INDEX IF NOT EXISTS idx_tb_rollout_running ON jobs.tb_rollout (execution_type) WHERE state = 'running';

-- step: create table jobs.tb_migration_step (what people sign off or waive, and what was measured once)
CREATE TABLE IF NOT EXISTS jobs.tb_migration_step (
    step   text PRIMARY KEY,
    state  text NOT NULL CHECK (state IN ('signed', 'waived', 'measured')),
    name   text NOT NULL,
    note   text NOT NULL DEFAULT '',
    at     timestamptz NOT NULL DEFAULT now(),
    value  jsonb
);

-- step: create trigger tr_tb_lane_switch
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_lane'::regclass AND tgname = 'tr_tb_lane_switch') THEN
        CREATE TRIGGER tr_tb_lane_switch AFTER UPDATE OF enabled, runs_as ON jobs.tb_lane FOR EACH ROW
            WHEN (NEW.enabled <> OLD.enabled OR NEW.runs_as IS DISTINCT FROM OLD.runs_as) EXECUTE FUNCTION jobs.tell_lane();
    END IF;
END $$;

-- step: create function jobs.may_claim
-- Whether jobs of a service may be claimed as a type's, by what operators
-- switched.
CREATE OR REPLACE FUNCTION jobs.may_claim(service text, type text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM jobs.tb_execution_type t WHERE t.execution_type = type AND t.enabled AND t.stopped_at IS NULL)
       AND coalesce((SELECT l.enabled AND (l.runs_as IS NULL OR l.runs_as = type) FROM jobs.tb_lane l WHERE l.service_name = service), true)
$$;

-- step: let jobs.v_lane say what operators switched
CREATE OR REPLACE VIEW jobs.v_lane AS
SELECT l.service_name, l.execution_type, t.enabled,
       CASE WHEN t.stopped_at IS NOT NULL
            THEN 'held: emergency stop' || coalesce(': ' || nullif(t.stop_reason, ''), '')
            WHEN NOT t.enabled
            THEN 'held: ' || t.execution_type || ' is switched off' || coalesce(': ' || nullif(t.reason, ''), '')
            WHEN NOT l.enabled
            THEN 'held: the service is switched off' || coalesce(': ' || nullif(l.switch_reason, ''), '')
            WHEN l.runs_as IS NOT NULL AND NOT l.has_fallback AND l.execution_type <> l.runs_as
            THEN 'held: switched to its http fallback, and the registry gives it no base_url'
            WHEN c.why IS NOT NULL
            THEN 'held: ' || c.why
            WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold AND o.circuit > clock_timestamp()
            THEN format('held: circuit open after %s failures in a row, next try in %s s', l.failures_in_row,
                        ceil(extract(epoch FROM o.circuit - clock_timestamp())))
            WHEN o.minute > clock_timestamp()
            THEN format('held: rate limit, next in %s s', ceil(extract(epoch FROM o.minute - clock_timestamp())))
            WHEN o.hour > clock_timestamp()
            THEN format('held: budget of the hour is spent, next in %s s', ceil(extract(epoch FROM o.hour - clock_timestamp())))
            WHEN l.max_cost_per_hour > 0 AND l.max_cost_per_job > l.max_cost_per_hour
            THEN format('held: one attempt may cost $%s, more than its budget of $%s an hour: raise max_cost_per_hour, or give the function less memory or time',
                        round(l.max_cost_per_job::numeric, 6), l.max_cost_per_hour)
            WHEN o.cost > clock_timestamp()
            THEN format('held: budget of $%s an hour is spent or set aside, next in %s s at the latest', l.max_cost_per_hour,
                        ceil(extract(epoch FROM o.cost - clock_timestamp())))
            WHEN l.busy_until > clock_timestamp()
            THEN format('held: %s, next try in %s s', l.busy_reason, ceil(extract(epoch FROM l.busy_until - clock_timestamp())))
       END AS held,
       CASE WHEN t.enabled AND t.stopped_at IS NULL AND l.enabled
            THEN nullif(greatest(o.circuit, o.minute, o.hour, o.cost, l.busy_until, '-infinity'), '-infinity') END AS opens_at
  FROM jobs.tb_lane l
  JOIN jobs.tb_execution_type t ON t.execution_type = coalesce(l.runs_as, l.execution_type)
 CROSS JOIN LATERAL (
       SELECT CASE WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold
                   THEN greatest(l.open_until, l.probe_until) END AS circuit,
              jobs.gate_opens(l.service_name, 'minute', l.rate_limit_per_minute) AS minute,
              jobs.gate_opens(l.service_name, 'hour', l.max_invocations_per_hour) AS hour,
              jobs.cost_opens(l.service_name, l.max_cost_per_hour, l.max_cost_per_job) AS cost) o
  LEFT JOIN LATERAL (
       SELECT min(a.cannot->>l.service_name) AS why FROM jobs.tb_agent a
        WHERE a.lease_expires_at > now() AND a.state <> 'stopped' AND coalesce(l.runs_as, l.execution_type) = ANY (a.execution_types)
       HAVING bool_and(a.cannot ? l.service_name)) c ON true;

-- step: record migration 006
INSERT INTO jobs.tb_schema_version (version, name) VALUES (6, 'console') ON CONFLICT DO NOTHING;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
