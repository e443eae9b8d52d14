-- What agents share of the services' lanes: limits, what of them is spent,
-- circuits, the registry's history and whose turn upkeep is; and the views that
-- say why a job waits. Additive only; may be run again.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '50ms';

-- step: create table jobs.tb_lane (a row a service, as the agents' registry has it)
CREATE TABLE IF NOT EXISTS jobs.tb_lane (
    service_name             text PRIMARY KEY,
    execution_type           text NOT NULL CHECK (execution_type IN ('http', 'shell', 'docker', 'serverless')),
    registry_hash            text NOT NULL DEFAULT '',
    concurrency              integer NOT NULL DEFAULT 0,
    rate_limit_per_minute    integer NOT NULL DEFAULT 0,
    max_invocations_per_hour integer NOT NULL DEFAULT 0,
    failure_threshold        integer NOT NULL DEFAULT 0,
    recovery_seconds         integer NOT NULL DEFAULT 0,
    failures_in_row          integer NOT NULL DEFAULT 0,
    open_until               timestamptz,
    probe_until              timestamptz,
    updated_at               timestamptz NOT NULL DEFAULT now()
);

-- step: create table jobs.tb_lane_spent (what a rate limit or a budget has spent, in slices of a hundredth of its window)
CREATE TABLE IF NOT EXISTS jobs.tb_lane_spent (
    service_name text NOT NULL,
    gate         text NOT NULL CHECK (gate IN ('minute', 'hour')),
    slice        bigint NOT NULL,
    jobs         integer NOT NULL,
    PRIMARY KEY (service_name, gate, slice)
);

-- step: create table jobs.tb_registry_version (what agents applied, without secrets)
CREATE TABLE IF NOT EXISTS jobs.tb_registry_version (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash        text NOT NULL,
    environment text NOT NULL,
    file        text NOT NULL,
    document    text NOT NULL,
    services    integer NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT now(),
    agent_name  text NOT NULL,
    host        text NOT NULL
);

-- step: create table jobs.tb_upkeep (when what is done for all was last done)
CREATE TABLE IF NOT EXISTS jobs.tb_upkeep (
    task       text PRIMARY KEY,
    done_at    timestamptz NOT NULL DEFAULT '-infinity',
    agent_name text NOT NULL DEFAULT '',
    outcome    text NOT NULL DEFAULT ''
);

-- step: fill jobs.tb_upkeep
INSERT INTO jobs.tb_upkeep (task) VALUES ('metrics'), ('retention'), ('agents') ON CONFLICT DO NOTHING;

-- step: create function jobs.gate_opens
-- When a gate that lets at most `bound` jobs through in any window opens for
-- the next one; null: it is open now. A slice counts until the whole of it is
-- older than the window, so that the bound holds in every sliding window.
CREATE OR REPLACE FUNCTION jobs.gate_opens(service text, which text, bound integer) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    width double precision := CASE which WHEN 'minute' THEN 0.6 ELSE 36 END;
    first bigint := floor(extract(epoch FROM clock_timestamp()) / width)::bigint - 100;
    spent bigint := 0;
    s record;
BEGIN
    IF bound <= 0 THEN
        RETURN NULL;
    END IF;
    FOR s IN SELECT slice, jobs FROM jobs.tb_lane_spent
              WHERE service_name = service AND gate = which AND slice >= first ORDER BY slice DESC LOOP
        spent := spent + s.jobs;
        IF spent >= bound THEN
            RETURN to_timestamp((s.slice + 101) * width);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- step: create function jobs.gate_room
CREATE OR REPLACE FUNCTION jobs.gate_room(service text, which text, bound integer, room integer) RETURNS integer
LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN bound <= 0 THEN room ELSE least(room, greatest(0, bound - coalesce((
        SELECT sum(jobs) FROM jobs.tb_lane_spent
         WHERE service_name = service AND gate = which
           AND slice >= floor(extract(epoch FROM clock_timestamp()) / CASE which WHEN 'minute' THEN 0.6 ELSE 36 END)::bigint - 100
        ), 0)))::integer END
$$;

-- step: create function jobs.gate_spend
CREATE OR REPLACE FUNCTION jobs.gate_spend(service text, which text, bound integer, n integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now_slice bigint := floor(extract(epoch FROM clock_timestamp()) / CASE which WHEN 'minute' THEN 0.6 ELSE 36 END)::bigint;
BEGIN
    IF bound <= 0 OR n = 0 THEN
        RETURN;
    END IF;
    INSERT INTO jobs.tb_lane_spent AS t (service_name, gate, slice, jobs) VALUES (service, which, now_slice, n)
    ON CONFLICT (service_name, gate, slice) DO UPDATE SET jobs = t.jobs + excluded.jobs;
    DELETE FROM jobs.tb_lane_spent WHERE service_name = service AND gate = which AND slice < now_slice - 101;
END $$;

-- step: create function jobs.spend_again
-- Counts one more request of a running attempt, such as a retry within it,
-- against the service's rate limit and budget. Null: it is counted and may go
-- out; otherwise nothing is counted, and the seconds until there is room. The
-- lane's row is the lock under which all agents count.
CREATE OR REPLACE FUNCTION jobs.spend_again(service text, per_minute integer, per_hour integer) RETURNS double precision
LANGUAGE plpgsql AS $$
DECLARE
    opens timestamptz;
BEGIN
    PERFORM FROM jobs.tb_lane WHERE service_name = service FOR UPDATE;
    opens := greatest(jobs.gate_opens(service, 'minute', per_minute), jobs.gate_opens(service, 'hour', per_hour));
    IF opens > clock_timestamp() THEN
        RETURN extract(epoch FROM opens - clock_timestamp());
    END IF;
    PERFORM jobs.gate_spend(service, 'minute', per_minute, 1), jobs.gate_spend(service, 'hour', per_hour, 1);
    RETURN NULL;
END $$;

-- step: create function jobs.claim_gated
-- Claims jobs of a lane with a rate limit, a budget or a tripped circuit. The
-- lane's row is the lock under which all agents count; where another one holds
-- it, the lane is busy and nobody waits. What operators switched is read with the
-- snapshot that shows the jobs (jobs.may_claim, of 006 as the switches are): one
-- that came after a switch is never claimed from before it. The first row that is
-- returned is about the lane, the others are the claimed jobs.
CREATE OR REPLACE FUNCTION jobs.claim_gated(agent uuid, service text, type text, room integer, from_place timestamptz,
    from_id uuid, per_minute integer, per_hour integer, threshold integer, probe_seconds double precision)
RETURNS TABLE (busy boolean, opens_in double precision, job jobs.tb_job_run) LANGUAGE plpgsql AS $$
DECLARE
    lane jobs.tb_lane;
    n integer := 0;
    opens timestamptz;
BEGIN
    busy := false;
    SELECT * INTO lane FROM jobs.tb_lane WHERE service_name = service FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        busy := true;
        RETURN NEXT;
        RETURN;
    END IF;
    IF threshold > 0 AND lane.failures_in_row >= threshold THEN
        IF lane.open_until > clock_timestamp() THEN
            room := 0;
            opens := lane.open_until;
        ELSIF lane.probe_until > clock_timestamp() THEN
            room := 0;
            opens := lane.probe_until;
        ELSE
            room := least(room, 1); -- half-open: one job tries
        END IF;
    END IF;
    room := jobs.gate_room(service, 'minute', per_minute, room);
    room := jobs.gate_room(service, 'hour', per_hour, room);
    IF room > 0 THEN
        FOR job IN
            WITH picked AS (
                SELECT p.ctid AS place FROM jobs.tb_job_run p
                 WHERE p.service_name = service AND p.status = 'pending'
                   AND (coalesce(p.requeued_at, p.created_at, '-infinity'::timestamptz), p.id) > (from_place, from_id)
                   AND (SELECT jobs.may_claim(service, type))
                   AND EXISTS (SELECT FROM jobs.tb_agent a WHERE a.id = agent AND a.lease_expires_at > now())
                 ORDER BY coalesce(p.requeued_at, p.created_at, '-infinity'::timestamptz), p.id
                 LIMIT room FOR UPDATE SKIP LOCKED)
            UPDATE jobs.tb_job_run r
               SET status = 'running', agent_id = agent, execution_type = type,
                   attempts = coalesce(r.attempts, 0) + 1, max_attempts = coalesce(r.max_attempts, 3),
                   started_at = now(), completed_at = NULL, retry_at = NULL, updated_at = now()
             WHERE r.ctid = ANY (ARRAY (SELECT place FROM picked)) RETURNING r.*
        LOOP
            n := n + 1;
            opens_in := NULL;
            RETURN NEXT;
        END LOOP;
        PERFORM jobs.gate_spend(service, 'minute', per_minute, n), jobs.gate_spend(service, 'hour', per_hour, n);
        IF n > 0 AND threshold > 0 AND lane.failures_in_row >= threshold THEN
            opens := clock_timestamp() + make_interval(secs => probe_seconds);
            UPDATE jobs.tb_lane SET probe_until = opens WHERE service_name = service;
        END IF;
    END IF;
    job := NULL;
    opens := greatest(opens, jobs.gate_opens(service, 'minute', per_minute), jobs.gate_opens(service, 'hour', per_hour));
    opens_in := extract(epoch FROM opens - clock_timestamp());
    RETURN NEXT;
END $$;

-- step: create view jobs.v_lane (the lanes that are held for all agents, and until when)
CREATE OR REPLACE VIEW jobs.v_lane AS
SELECT l.service_name, l.execution_type, t.enabled,
       CASE WHEN NOT t.enabled
            THEN 'held: ' || l.execution_type || ' is switched off' || coalesce(': ' || nullif(t.reason, ''), '')
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
              jobs.gate_opens(l.service_name, 'hour', l.max_invocations_per_hour) AS hour) o;

-- step: create view jobs.v_job_held (jobs that wait, and what for)
CREATE OR REPLACE VIEW jobs.v_job_held AS
SELECT r.id, r.identifier, r.service_name, r.operation, coalesce(l.execution_type, r.execution_type) AS execution_type,
       coalesce(r.requeued_at, r.created_at) AS waiting_since,
       CASE WHEN r.status = 'failed' THEN format('held: retry %s of %s in %s s', r.attempts, r.max_attempts - 1,
                                                 greatest(0, ceil(extract(epoch FROM r.retry_at - clock_timestamp()))))
            WHEN l.service_name IS NULL THEN 'held: no agent''s registry has the service'
            ELSE l.held END AS held
  FROM jobs.tb_job_run r LEFT JOIN jobs.v_lane l USING (service_name)
 WHERE r.status = 'pending' OR r.status = 'failed' AND r.retry_at IS NOT NULL;

-- step: create function jobs.tell_lane
CREATE OR REPLACE FUNCTION jobs.tell_lane() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('specql_control', 'lane ' || NEW.service_name);
    RETURN NULL;
END $$;

-- step: create triggers
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'jobs.tb_lane'::regclass
                      AND tgname = 'tr_tb_lane_circuit') THEN
        CREATE TRIGGER tr_tb_lane_circuit AFTER UPDATE OF open_until ON jobs.tb_lane FOR EACH ROW
            WHEN (NEW.open_until IS DISTINCT FROM OLD.open_until) EXECUTE FUNCTION jobs.tell_lane();
    END IF;
END $$;

-- step: record migration 003
INSERT INTO jobs.tb_schema_version (version, name) VALUES (3, 'lanes') ON CONFLICT DO NOTHING;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
