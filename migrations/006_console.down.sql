-- The way down of 006: types and services run as the registry says again. Loses
-- services' switches, the records of rollbacks and roll-outs, and what people
-- signed off; no job.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: drop function jobs.may_claim
DROP FUNCTION IF EXISTS jobs.may_claim(text, text);

-- step: let jobs.v_lane say nothing of services' switches
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
            WHEN l.max_cost_per_hour > 0 AND l.max_cost_per_job > l.max_cost_per_hour
            THEN format('held: one attempt may cost $%s, more than its budget of $%s an hour: raise max_cost_per_hour, or give the function less memory or time',
                        round(l.max_cost_per_job::numeric, 6), l.max_cost_per_hour)
            WHEN o.cost > clock_timestamp()
            THEN format('held: budget of $%s an hour is spent or set aside, next in %s s at the latest', l.max_cost_per_hour,
                        ceil(extract(epoch FROM o.cost - clock_timestamp())))
            WHEN l.busy_until > clock_timestamp()
            THEN format('held: %s, next try in %s s', l.busy_reason, ceil(extract(epoch FROM l.busy_until - clock_timestamp())))
       END AS held,
       CASE WHEN t.enabled THEN nullif(greatest(o.circuit, o.minute, o.hour, o.cost, l.busy_until, '-infinity'), '-infinity') END AS opens_at
  FROM jobs.tb_lane l
  JOIN jobs.tb_execution_type t USING (execution_type)
 CROSS JOIN LATERAL (
       SELECT CASE WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold
                   THEN greatest(l.open_until, l.probe_until) END AS circuit,
              jobs.gate_opens(l.service_name, 'minute', l.rate_limit_per_minute) AS minute,
              jobs.gate_opens(l.service_name, 'hour', l.max_invocations_per_hour) AS hour,
              jobs.cost_opens(l.service_name, l.max_cost_per_hour, l.max_cost_per_job) AS cost) o
  LEFT JOIN LATERAL (
       SELECT min(a.cannot->>l.service_name) AS why FROM jobs.tb_agent a
        WHERE a.lease_expires_at > now() AND a.state <> 'stopped' AND l.execution_type = ANY (a.execution_types)
       HAVING bool_and(a.cannot ? l.service_name)) c ON true;

-- step: drop trigger tr_tb_lane_switch
DO $$
BEGIN
    IF to_regclass('jobs.tb_lane') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS tr_tb_lane_switch ON jobs.tb_lane;
    END IF;
END $$;

-- step: drop tables
DROP TABLE IF EXISTS jobs.tb_migration_step, jobs.tb_rollout, jobs.tb_rollback_job, jobs.tb_rollback;

-- step: drop columns
ALTER TABLE IF EXISTS jobs.tb_agent DROP COLUMN IF EXISTS variables;
ALTER TABLE IF EXISTS jobs.tb_lane DROP COLUMN IF EXISTS enabled, DROP COLUMN IF EXISTS runs_as, DROP COLUMN IF EXISTS has_fallback,
    DROP COLUMN IF EXISTS switch_reason, DROP COLUMN IF EXISTS switched_by, DROP COLUMN IF EXISTS switched_at;
ALTER TABLE IF EXISTS jobs.tb_execution_type DROP COLUMN IF EXISTS stopped_at, DROP COLUMN IF EXISTS stopped_by,
    DROP COLUMN IF EXISTS stop_reason;

-- step: forget migration 006
DO $$
BEGIN
    IF to_regclass('jobs.tb_schema_version') IS NOT NULL THEN
        DELETE FROM jobs.tb_schema_version WHERE version = 6;
    END IF;
END $$;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
