-- The way down of 003: removes what agents share of the lanes. Loses the
-- registry's history and what rate limits and budgets have spent; no job.

\set ON_ERROR_STOP on

-- step: bound the wait for locks
SET client_min_messages = warning;
SET statement_timeout = 0;
SET lock_timeout = '50ms';

-- step: drop views
DROP VIEW IF EXISTS jobs.v_job_held, jobs.v_lane;

-- step: drop functions of the gates
DROP FUNCTION IF EXISTS jobs.claim_gated(uuid, text, text, integer, timestamptz, uuid, integer, integer, integer, double precision),
    jobs.spend_again(text, integer, integer), jobs.gate_spend(text, text, integer, integer), jobs.gate_room(text, text, integer, integer),
    jobs.gate_opens(text, text, integer);

-- step: drop tables
DROP TABLE IF EXISTS jobs.tb_upkeep, jobs.tb_registry_version, jobs.tb_lane_spent, jobs.tb_lane;

-- step: drop functions
DROP FUNCTION IF EXISTS jobs.tell_lane();

-- step: forget migration 003
DO $$
BEGIN
    IF to_regclass('jobs.tb_schema_version') IS NOT NULL THEN
        DELETE FROM jobs.tb_schema_version WHERE version = 3;
    END IF;
END $$;

-- step: end the bound on the wait for locks
RESET lock_timeout;
RESET statement_timeout;
RESET client_min_messages;
