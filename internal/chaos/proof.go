//go:build linux

package chaos

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// historySQL keeps every status that a job is given. The row is the record;
// this is how it came to be.
const historySQL = `
CREATE SCHEMA chaos;
CREATE TABLE chaos.move (
    n       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job     uuid NOT NULL,
    was     text NOT NULL,
    final   boolean NOT NULL, -- what it was, no agent may leave
    became  text NOT NULL,
    attempt integer
);
CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.move (job, was, final, became, attempt) VALUES (OLD.id, OLD.status,
        OLD.status IN ('completed', 'cancelled') OR OLD.status = 'failed' AND OLD.attempts >= OLD.max_attempts,
        NEW.status, NEW.attempts);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER UPDATE OF status ON jobs.tb_job_run FOR EACH ROW EXECUTE FUNCTION chaos.note();
CREATE TABLE chaos.beat (agent uuid NOT NULL); -- a row a heartbeat
CREATE FUNCTION chaos.note_beat() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.beat (agent) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER UPDATE OF heartbeat_at ON jobs.tb_agent FOR EACH ROW EXECUTE FUNCTION chaos.note_beat()`

// record is all that the proof looks at.
type record struct {
	fed      int               // jobs that the database acknowledged
	rows     []row             // the table
	moves    []move            // its history, in order
	calls    map[string][]call // the ledger's, by job
	failures map[string]int    // attempts recorded as failed, by job; not those lost with a lease
	deaths   int               // agents, or incarnations of one, whose lease ran out
	slots    int               // of each
}

type row struct {
	Job      string
	Number   int
	Service  string
	Status   string
	Attempts int
	Most     int  // max_attempts
	Waits    bool // for a retry
	// What the result says of itself; -1 without one.
	OutputNumber, OutputAttempt int
}

type move struct {
	Job     string
	Was     string
	Final   bool
	Became  string
	Attempt int
}

// ends is the status in which a service's jobs must end.
func ends(service string) string {
	if service == "poison" {
		return "failed"
	}
	return "completed"
}

// faults is everything that speaks against the queue.
func (r *record) faults() (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	r.ended(fault)
	r.completedOnce(fault)
	r.resultsAreTrue(fault)
	r.startedOnce(fault)
	return faults
}

type faultf func(format string, args ...any)

// ended: every job that was enqueued is in the table, in its final state.
func (r *record) ended(fault faultf) {
	seen := map[int]bool{}
	for _, row := range r.rows {
		seen[row.Number] = true
		if row.Status != ends(row.Service) || row.Waits {
			fault("job %d of %s ended as %s (attempt %d of %d, waits for a retry: %t), not as %s",
				row.Number, row.Service, row.Status, row.Attempts, row.Most, row.Waits, ends(row.Service))
		}
		if row.Status == "failed" && row.Attempts != row.Most {
			fault("job %d failed for good after %d of %d attempts", row.Number, row.Attempts, row.Most)
		}
	}
	for n := range r.fed {
		if !seen[n] {
			fault("job %d was lost: it was enqueued and is not in the table", n)
		}
	}
}

// completedOnce: no job was completed twice, and none left a final state.
func (r *record) completedOnce(fault faultf) {
	completed := map[string]int{}
	for _, m := range r.moves {
		if m.Final {
			fault("job %s left its final state %s for %s", m.Job, m.Was, m.Became)
		}
		if m.Became == "completed" {
			if completed[m.Job]++; completed[m.Job] == 2 {
				fault("job %s was completed twice", m.Job)
			}
		}
	}
	for _, row := range r.rows {
		if row.Status == "completed" && completed[row.Job] == 0 {
			fault("job %d is completed, and its history does not say when", row.Number)
		}
	}
}

// resultsAreTrue: a recorded result is the answer to the attempt that the row
// names, and the ledger gave it.
func (r *record) resultsAreTrue(fault faultf) {
	for _, row := range r.rows {
		if row.Status != "completed" {
			continue
		}
		if row.OutputNumber != row.Number || row.OutputAttempt != row.Attempts {
			fault("job %d, attempt %d, holds the result of job %d, attempt %d", row.Number, row.Attempts, row.OutputNumber, row.OutputAttempt)
		}
		given := false
		for _, c := range r.calls[row.Job] {
			given = given || c.attempt == row.Attempts && c.status == 200
		}
		if !given {
			fault("job %d is completed by attempt %d, which the ledger did not answer", row.Number, row.Attempts)
		}
	}
}

// startedOnce: no attempt was started twice, and a job more than once only
// after a failure that was recorded, or because the agent that had it was
// given up for dead. So there are no more such starts than that agents' slots.
func (r *record) startedOnce(fault faultf) {
	type attempt struct {
		job string
		n   int
	}
	started := map[attempt]bool{}
	for job, calls := range r.calls {
		for _, c := range calls {
			if started[attempt{job, c.attempt}] {
				fault("attempt %d of job %d was started twice", c.attempt, c.number)
			}
			started[attempt{job, c.attempt}] = true
			if c.service == "work" && c.key != job {
				fault("attempt %d of job %d went out under the idempotency key %q", c.attempt, c.number, c.key)
			}
		}
	}
	if n := r.duplicates(); n > r.deaths*r.slots {
		fault("%d jobs were started again though %d agents died with %d slots each", n, r.deaths, r.slots)
	}
}

// duplicates counts the starts beyond a job's first that no recorded failure
// explains.
func (r *record) duplicates() (n int) {
	for job, calls := range r.calls {
		n += max(0, len(calls)-1-r.failures[job])
	}
	return n
}

// finish waits until every job has ended, stops the agents in order, and
// proves that all is as it should be. Every scenario ends with it.
func (w *world) finish() *record {
	w.t.Helper()
	w.enough.Store(true)
	if err := <-w.fedAll; err != nil {
		w.t.Fatalf("enqueue the jobs: %v", err)
	}
	w.until("every job has ended", func() (bool, error) {
		left, err := w.number(`SELECT count(*) FROM jobs.tb_job_run WHERE status IN ('pending', 'running') OR retry_at IS NOT NULL`)
		return left == 0, err
	})
	for _, p := range w.agents {
		if !p.alive() {
			continue // killed by the scenario
		}
		if err := p.stop(w.ctx); err != nil {
			w.t.Error(err)
		}
	}
	r, err := w.record()
	if err != nil {
		w.t.Fatalf("read what happened: %v", err)
	}
	calls := 0
	for _, c := range r.calls {
		calls += len(c)
	}
	w.t.Logf("%d jobs in %.1f s: %d calls, %d jobs started again, %d leases lost", len(r.rows), time.Since(w.began).Seconds(), calls, r.duplicates(), r.deaths)
	const most = 20
	for i, fault := range r.faults() {
		if i == most {
			w.t.Errorf("and %d more", len(r.faults())-most)
			break
		}
		w.t.Error(fault)
	}
	return r
}

// record reads what the table and the ledger say. An agent that left in order
// is stopped; any other one's lease ran out.
func (w *world) record() (*record, error) {
	r := &record{fed: int(w.fed.Load()), calls: w.ledger.all(), failures: map[string]int{}, slots: w.setup.slots}
	rows, err := w.pool.Query(w.ctx, `SELECT id::text, (input_data->>'n')::int, service_name, status, attempts, max_attempts,
		retry_at IS NOT NULL, coalesce((output_data->>'n')::int, -1), coalesce((output_data->>'attempt')::int, -1) FROM jobs.tb_job_run`)
	if err != nil {
		return nil, err
	}
	if r.rows, err = pgx.CollectRows(rows, pgx.RowToStructByPos[row]); err != nil {
		return nil, err
	}
	if rows, err = w.pool.Query(w.ctx, `SELECT job::text, was, final, became, attempt FROM chaos.move ORDER BY n`); err != nil {
		return nil, err
	}
	if r.moves, err = pgx.CollectRows(rows, pgx.RowToStructByPos[move]); err != nil {
		return nil, err
	}
	var job string
	if rows, err = w.pool.Query(w.ctx, `SELECT job_id::text FROM jobs.tb_job_attempt WHERE error_message NOT LIKE '%lost its lease%'`); err != nil {
		return nil, err
	}
	if _, err = pgx.ForEachRow(rows, []any{&job}, func() error { r.failures[job]++; return nil }); err != nil {
		return nil, err
	}
	r.deaths, err = w.number(`SELECT count(*) FROM jobs.tb_agent WHERE state <> 'stopped'`)
	return r, err
}
