-- The way down of 005: removes budgets in USD and what is told of throttled
-- services. Loses what was spent of the budgets; no job.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: let jobs.v_lane say nothing of costs and throttling
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

-- step: drop the functions of the budget
DROP FUNCTION IF EXISTS jobs.claim_priced(uuid, text, text, integer, timestamptz, uuid, integer, integer, integer,
        double precision, double precision, double precision),
    jobs.settle_costs(uuid, text[], uuid[], integer[], double precision[]),
    jobs.cost_opens(text, double precision, double precision), jobs.cost_spent(text);

-- step: drop tables
DROP TABLE IF EXISTS jobs.tb_lane_reserved, jobs.tb_lane_cost;

-- step: drop the columns of jobs.tb_lane
ALTER TABLE jobs.tb_lane
    DROP COLUMN IF EXISTS max_cost_per_hour, DROP COLUMN IF EXISTS max_cost_per_job,
    DROP COLUMN IF EXISTS busy_until, DROP COLUMN IF EXISTS busy_reason;

-- step: forget migration 005
DO $$
BEGIN
    IF to_regclass('jobs.tb_schema_version') IS NOT NULL THEN
        DELETE FROM jobs.tb_schema_version WHERE version = 5;
    END IF;
END $$;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
