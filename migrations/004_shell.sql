-- What agents tell of their hosts, and what attempts say: which services a host
-- cannot run and why, what it can run, and the end of each attempt's log.
-- Additive only; may be run again.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: add what agents tell of their hosts
ALTER TABLE jobs.tb_agent
    ADD COLUMN IF NOT EXISTS abilities jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS cannot    jsonb NOT NULL DEFAULT '{}';

-- step: create table jobs.tb_job_log (the end of an attempt's log; the first of its lines is number `dropped`, from 0)
-- The foreign key takes a lock on jobs.tb_job_run. It is asked for with little
-- patience, so that nobody waits behind it, and asked again.
DO $$
DECLARE
    tries integer := coalesce(nullif(current_setting('specql.lock_tries', true), ''), '100')::integer;
BEGIN
    WHILE to_regclass('jobs.tb_job_log') IS NULL LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '300ms', true);
            CREATE TABLE jobs.tb_job_log (
                job_id     uuid NOT NULL REFERENCES jobs.tb_job_run (id) ON DELETE CASCADE,
                attempt    integer NOT NULL,
                agent_id   uuid NOT NULL,
                dropped    bigint NOT NULL DEFAULT 0,
                lines      jsonb NOT NULL DEFAULT '[]',
                updated_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (job_id, attempt)
            );
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            tries := tries - 1;
            IF tries <= 0 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.1 + 0.9 * random());
        END;
    END LOOP;
END $$;

-- step: let jobs.v_lane say what no host can run
CREATE OR REPLACE VIEW jobs.v_lane AS
SELECT l.service_name, l.execution_type, t.enabled,
       CASE WHEN NOT t.enabled
            THEN 'held: ' || l.execution_type || ' is switched off' || coalesce(': ' || nullif(t.reason, ''), '')
            WHEN c.why IS NOT NULL
            THEN 'held: ' || c.why
            WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold AND o.circuit > clock_timestamp()
            THEN format('held: circuit open after %s failures in a row, next try in %s s', l.failures_in_row,
                        ceil(extract(epoch FROM o.circuit - clock_timestamp())))
            WHEN o.minute > clock_timestamp()
            THEN format('held: rate limit, next in %s s', ceil(extract(epoch FROM o.minute - clock_timestamp())))
            WHEN o.hour > clock_timestamp()
            THEN format('held: budget of the hour is spent, next in %s s', ceil(extract(epoch FROM o.hour - clock_timestamp())))
       END AS held,
       CASE WHEN t.enabled THEN nullif(greatest(o.circuit, o.minute, o.hour, '-infinity'), '-infinity') END AS opens_at
  FROM jobs.tb_lane l
  JOIN jobs.tb_execution_type t USING (execution_type)
 CROSS JOIN LATERAL (
       SELECT CASE WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold
                   THEN greatest(l.open_until, l.probe_until) END AS circuit,
              jobs.gate_opens(l.service_name, 'minute', l.rate_limit_per_minute) AS minute,
              jobs.gate_opens(l.service_name, 'hour', l.max_invocations_per_hour) AS hour) o
  LEFT JOIN LATERAL (
       SELECT min(a.cannot->>l.service_name) AS why FROM jobs.tb_agent a
        WHERE a.lease_expires_at > now() AND a.state <> 'stopped' AND l.execution_type = ANY (a.execution_types)
       HAVING bool_and(a.cannot ? l.service_name)) c ON true;

-- step: record migration 004
INSERT INTO jobs.tb_schema_version (version, name) VALUES (4, 'shell') ON CONFLICT DO NOTHING;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
