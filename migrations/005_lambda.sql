-- What agents share of money and of throttled services: a budget in USD over a
-- sliding hour, what attempts have set aside of it, and lanes that wait because
-- what runs their jobs has no room. Additive only; may be run again.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '2s';

-- step: add budgets and throttling to jobs.tb_lane
ALTER TABLE jobs.tb_lane
    ADD COLUMN IF NOT EXISTS max_cost_per_hour double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS max_cost_per_job  double precision NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS busy_until        timestamptz,
    ADD COLUMN IF NOT EXISTS busy_reason       text NOT NULL DEFAULT '';

-- step: create table jobs.tb_lane_cost (what a service's attempts have cost in USD, in slices of 36 seconds)
CREATE TABLE IF NOT EXISTS jobs.tb_lane_cost (
    service_name text NOT NULL,
    slice        bigint NOT NULL,
    usd          double precision NOT NULL,
    PRIMARY KEY (service_name, slice)
);

-- step: create table jobs.tb_lane_reserved (the most that attempts under way may cost; it counts while their agent lives)
CREATE TABLE IF NOT EXISTS jobs.tb_lane_reserved (
    service_name text NOT NULL,
    job_id       uuid NOT NULL,
    attempt      integer NOT NULL,
    agent_id     uuid NOT NULL,
    usd          double precision NOT NULL,
    reserved_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (service_name, job_id, attempt, agent_id)
);

-- step: create function jobs.cost_spent
-- What of a service's budget is spent: the attempts that ended within the hour,
-- and the most that those under way may cost. A slice counts until the whole of it
-- is older than the hour, so that the bound holds in every sliding hour.
CREATE OR REPLACE FUNCTION jobs.cost_spent(service text, OUT settled double precision, OUT reserved double precision)
LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT sum(usd) FROM jobs.tb_lane_cost
                      WHERE service_name = service AND slice >= floor(extract(epoch FROM clock_timestamp()) / 36)::bigint - 100), 0),
           coalesce((SELECT sum(r.usd) FROM jobs.tb_lane_reserved r JOIN jobs.tb_agent a ON a.id = r.agent_id
                      WHERE r.service_name = service AND a.lease_expires_at > now()), 0)
$$;

-- step: create function jobs.cost_opens
-- When there is room for one more attempt that may cost so much, as far as slices
-- that leave the hour make it; null: there is room now. What is set aside may make
-- room earlier, when those attempts end.
CREATE OR REPLACE FUNCTION jobs.cost_opens(service text, bound double precision, per_job double precision) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    spent record;
    over double precision;
    s record;
BEGIN
    IF bound <= 0 THEN
        RETURN NULL;
    END IF;
    SELECT * INTO spent FROM jobs.cost_spent(service);
    over := spent.settled + spent.reserved + per_job - bound * (1 + 1e-9);
    IF over <= 0 THEN
        RETURN NULL;
    END IF;
    FOR s IN SELECT slice, usd FROM jobs.tb_lane_cost
              WHERE service_name = service AND slice >= floor(extract(epoch FROM clock_timestamp()) / 36)::bigint - 100 ORDER BY slice LOOP
        over := over - s.usd;
        IF over <= 0 THEN
            RETURN to_timestamp((s.slice + 101) * 36);
        END IF;
    END LOOP;
    RETURN clock_timestamp() + interval '1 hour';
END $$;

-- step: create function jobs.claim_priced
-- jobs.claim_gated for a lane with a budget in USD: it sets aside the most that
-- each claimed job may cost. While attempts are under way what they have set aside
-- may come back at any moment, so a full lane is looked at again soon.
CREATE OR REPLACE FUNCTION jobs.claim_priced(agent uuid, service text, type text, room integer, from_place timestamptz,
    from_id uuid, per_minute integer, per_hour integer, threshold integer, probe_seconds double precision,
    usd_per_hour double precision, usd_per_job double precision)
RETURNS TABLE (busy boolean, opens_in double precision, job jobs.tb_job_run) LANGUAGE plpgsql AS $$
DECLARE
    spent record;
    got record;
    fits integer := room;
    opens timestamptz;
    room_at timestamptz;
    n integer := 0;
BEGIN
    PERFORM FROM jobs.tb_lane WHERE service_name = service FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        busy := true;
        RETURN NEXT;
        RETURN;
    END IF;
    UPDATE jobs.tb_lane SET max_cost_per_job = usd_per_job WHERE service_name = service AND max_cost_per_job <> usd_per_job;
    SELECT * INTO spent FROM jobs.cost_spent(service);
    IF usd_per_job > 0 THEN
        fits := greatest(0, least(room, floor((usd_per_hour * (1 + 1e-9) - spent.settled - spent.reserved) / usd_per_job)))::integer;
    END IF;
    IF fits > 0 THEN
        FOR got IN
            SELECT * FROM jobs.claim_gated(agent, service, type, fits, from_place, from_id, per_minute, per_hour, threshold, probe_seconds)
        LOOP
            job := got.job;
            IF job.id IS NULL THEN
                opens := clock_timestamp() + make_interval(secs => got.opens_in);
                CONTINUE;
            END IF;
            n := n + 1;
            INSERT INTO jobs.tb_lane_reserved AS t (service_name, job_id, attempt, agent_id, usd)
            VALUES (service, job.id, job.attempts, agent, usd_per_job)
            ON CONFLICT (service_name, job_id, attempt, agent_id) DO UPDATE SET usd = excluded.usd, reserved_at = now();
            RETURN NEXT;
        END LOOP;
    END IF;
    busy := false;
    job := NULL;
    room_at := jobs.cost_opens(service, usd_per_hour, usd_per_job);
    IF room_at IS NOT NULL AND (spent.reserved > 0 OR n > 0) THEN
        room_at := least(room_at, clock_timestamp() + interval '250 milliseconds');
    END IF;
    opens := greatest(opens, room_at);
    opens_in := extract(epoch FROM opens - clock_timestamp());
    RETURN NEXT;
END $$;

-- step: create function jobs.settle_costs
-- Puts what attempts have cost in the place of what they had set aside, once for
-- each; null leaves the whole of it.
CREATE OR REPLACE FUNCTION jobs.settle_costs(agent uuid, services text[], ids uuid[], tries integer[], costs double precision[]) RETURNS void
LANGUAGE sql AS $$
    WITH gone AS (
        DELETE FROM jobs.tb_lane_reserved r
         USING unnest(services, ids, tries, costs) AS f(service, id, attempt, cost)
         WHERE r.service_name = f.service AND r.job_id = f.id AND r.attempt = f.attempt AND r.agent_id = agent
        RETURNING r.service_name, coalesce(f.cost, r.usd) AS usd)
    INSERT INTO jobs.tb_lane_cost AS t (service_name, slice, usd)
    SELECT service_name, floor(extract(epoch FROM clock_timestamp()) / 36)::bigint, sum(usd)
      FROM gone GROUP BY service_name HAVING sum(usd) > 0 ORDER BY service_name
    ON CONFLICT (service_name, slice) DO UPDATE SET usd = t.usd + excluded.usd
$$;

-- step: let jobs.v_lane say what is spent and what is throttled
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

-- step: record migration 005
INSERT INTO jobs.tb_schema_version (version, name) VALUES (5, 'lambda') ON CONFLICT DO NOTHING;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
