//go:build unix

package ops

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
)

// idOfItsTime makes a time-ordered id for the instant at.
const idOfItsTime = `(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text), 1, 19))::uuid`

func TestPagesHoldEveryJobOnceInBothDirections(t *testing.T) {
	db := open(t)
	// From seconds to months old, several at the same instant, one of the future;
	// with ids of that time, of now, and of none.
	exec(t, db, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, created_at)
		SELECT CASE i / 4 % 3 WHEN 0 THEN gen_random_uuid() WHEN 1 THEN jobs.new_job_id() ELSE `+idOfItsTime+` END,
		       'j' || i, 's', 'op', at
		  FROM (SELECT i, now() + interval '2 s' - make_interval(secs => floor(i / 3) ^ 4) AS at FROM generate_series(0, 199) i) jobs`)
	want := map[jobs.ID]bool{}
	var down, up []JobRow
	page := Page{Size: 7}
	for {
		rows, err := ListJobs(t.Context(), db, Filter{}, page)
		if err != nil {
			t.Fatal(err)
		}
		down = append(down, rows...)
		if len(rows) < page.Size {
			break
		}
		page.After = cursor(rows[len(rows)-1])
	}
	for i, r := range down {
		if want[r.ID] {
			t.Fatalf("job %s comes twice", r.Identifier)
		}
		want[r.ID] = true
		if i > 0 && r.CreatedAt.After(down[i-1].CreatedAt) {
			t.Fatalf("job %s is newer than the one before it", r.Identifier)
		}
	}
	if len(down) != 200 {
		t.Fatalf("%d jobs came, want 200", len(down))
	}
	page = Page{Size: 7, Before: cursor(down[199])}
	for {
		rows, err := ListJobs(t.Context(), db, Filter{}, page)
		if err != nil {
			t.Fatal(err)
		}
		up = append(rows, up...)
		if len(rows) < page.Size {
			break
		}
		page.Before = cursor(rows[0])
	}
	if len(up) != 199 {
		t.Fatalf("%d jobs came on the way back, want 199", len(up))
	}
	for i := range up {
		if up[i].ID != down[i].ID {
			t.Fatalf("place %d: %s on the way back, %s before", i, up[i].Identifier, down[i].Identifier)
		}
	}
}

// A page of a burst must not cost what the burst holds.
func TestAPageReadsLittleMoreThanItsRows(t *testing.T) {
	db := open(t)
	const quiet, burst = 20_000, 30_000 // in minutes, and in nine seconds
	exec(t, db, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, created_at)
		SELECT `+idOfItsTime+`,
		       'j' || i, 's', 'op', 'completed', at
		  FROM (SELECT i, now() - CASE WHEN i <= $2::int THEN i * interval '9 s' / $2 ELSE (i - $2) * interval '1 min' END AS at
		          FROM generate_series($1::int, 1, -1) i) jobs`, quiet+burst, burst)
	exec(t, db, "VACUUM ANALYZE jobs.tb_job_run")
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	fetched := func() (n int) {
		t.Helper()
		err := tx.QueryRow(t.Context(), `SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)
			  FROM pg_stat_xact_user_tables WHERE relid = 'jobs.tb_job_run'::regclass`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const ranges = 20_000 // two ranges of blocks hold less
	var rows []JobRow
	for _, c := range []struct {
		name  string
		first string // SQL
		page  func() Page
		under int
	}{
		{"the newest", "SELECT", func() Page { return Page{Size: 20} }, ranges},
		{"those after them", "SELECT", func() Page { return Page{Size: 20, After: cursor(rows[19])} }, ranges},
		{"on from its first second", "SELECT", func() Page {
			at := rows[0].CreatedAt.Add(-8 * time.Second)
			return Page{Size: 20, OldestFirst: true, After: Cursor{CreatedAt: at, ID: jobs.FirstID(at)}}
		}, ranges},
		{"the newest after jobs of last month were queued", `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, created_at)
			SELECT 'late' || i, 's', 'op', now() - interval '20 days' FROM generate_series(1, 200) i`,
			func() Page { return Page{Size: 20} }, burst + ranges/2},
	} {
		if _, err := tx.Exec(t.Context(), c.first); err != nil {
			t.Fatal(err)
		}
		before := fetched()
		if rows, err = ListJobs(t.Context(), tx, Filter{}, c.page()); err != nil || len(rows) != 20 {
			t.Fatalf("%s: %d jobs, %v", c.name, len(rows), err)
		}
		if n := fetched() - before; n >= c.under {
			t.Errorf("%s: %d rows were read for 20", c.name, n)
		}
	}
}

func cursor(r JobRow) Cursor { return Cursor{CreatedAt: r.CreatedAt, ID: r.ID} }

func TestFiltersSelect(t *testing.T) {
	db := open(t)
	enqueue(t, db, "stripe_api", jobs.HTTP, 3, 0)
	enqueue(t, db, "convert", jobs.Shell, 2, 2*time.Hour)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'failed' WHERE identifier = 'convert-1'`)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'failed', attempts = 3 WHERE identifier = 'stripe_api-1'`)
	all, err := ListJobs(t.Context(), db, Filter{}, Page{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]int{
		"":                                  5,
		"type:shell":                        2,
		"type:shell,http":                   5,
		"status:failed":                     2,
		"status:failed type:http":           1,
		"dead":                              1,
		"dead type:shell":                   0,
		"status:dead,pending":               4,
		"status:dead,failed":                2,
		"service:stripe_api":                3,
		"age>1h":                            2,
		"age<1h":                            3,
		"STRIPE":                            3,
		"convert-2":                         1,
		"100%":                              0,
		"id:" + all[0].ID.String():          1,
		"id:" + jobs.NewID().String():       0,
		"op":                                5,
		"service:stripe_api,convert age>1h": 2,
	} {
		f, err := ParseFilter(words)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := ListJobs(t.Context(), db, f, Page{Size: 10})
		if err != nil {
			t.Fatal(err)
		}
		n, capped, err := CountJobs(t.Context(), db, f)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != want || n != int64(want) || capped {
			t.Errorf("%q lists %d and counts %d, want %d", words, len(rows), n, want)
		}
	}
}

func TestListRefusesAPageOutOfRange(t *testing.T) {
	db := open(t)
	for _, n := range []int{0, -1, MaxPage + 1} {
		if _, err := ListJobs(t.Context(), db, Filter{}, Page{Size: n}); err == nil {
			t.Errorf("a page of %d is accepted", n)
		}
	}
}

func TestListSaysWhyJobsWait(t *testing.T) {
	db := open(t)
	addAgent(t, db, "a", 4, time.Minute, jobs.HTTP)
	addLanes(t, db, jobs.LaneSettings{Service: "limited", Type: jobs.HTTP, Gates: jobs.Gates{PerMinute: 5}},
		jobs.LaneSettings{Service: "script", Type: jobs.Shell}, jobs.LaneSettings{Service: "open", Type: jobs.HTTP})
	exec(t, db, `SELECT jobs.gate_spend('limited', 'minute', 5, 5)`)
	for _, service := range []string{"limited", "script", "stranger", "open"} {
		enqueue(t, db, service, jobs.HTTP, 1, 0)
	}
	enqueue(t, db, "limited-done", jobs.HTTP, 1, 0)
	exec(t, db, `UPDATE jobs.tb_job_run SET status = 'completed' WHERE service_name = 'limited-done'`)
	rows, err := ListJobs(t.Context(), db, Filter{}, Page{Size: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		want := map[string]string{"limited": `^rate limit, next in \d+ s$`, "script": "^no agent runs shell$",
			"stranger": "^no agent's registry has the service$"}[r.Service]
		if want == "" {
			want = "^$"
		}
		if !regexp.MustCompile(want).MatchString(r.HeldReason) {
			t.Errorf("%s: %q, want %s", r.Service, r.HeldReason, want)
		}
	}
}

func TestJobShowsItsHistoryAndWhyItWaits(t *testing.T) {
	db := open(t)
	agent := addAgent(t, db, "worker-1", 1, time.Minute, jobs.HTTP)
	id := jobs.NewID()
	exec(t, db, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data, attempts, agent_id,
		timeout_seconds, correlation_id, execution_type) VALUES ($1, 'x', 'images', 'resize', '{"a": 1}', 1, $2, 9, 'c-1', 'docker')`, id, agent)
	exec(t, db, `INSERT INTO jobs.tb_job_attempt (job_id, attempt, agent_id, error_message, violation, duration_seconds)
		VALUES ($1, 1, $2, 'Resource limit: memory', 'memory_mb', 1.5)`, id, agent)
	d, err := GetJob(t.Context(), db, id)
	if err != nil {
		t.Fatal(err)
	}
	if d.Identifier != "x" || d.Agent != "worker-1" || *d.TimeoutSeconds != 9 || d.CorrelationID != "c-1" ||
		string(d.Input) != `{"a": 1}` || d.Output != nil {
		t.Errorf("detail: %+v", d)
	}
	if d.HeldReason != "no agent runs docker" {
		t.Errorf("held: %q", d.HeldReason)
	}
	if len(d.History) != 1 || d.History[0].Agent != "worker-1" || d.History[0].Violation != "memory_mb" {
		t.Errorf("history: %+v", d.History)
	}
	missing := jobs.NewID()
	if _, err := GetJob(t.Context(), db, missing); !errors.Is(err, ErrNoJob) || !strings.Contains(err.Error(), missing.String()) {
		t.Errorf("a missing job: %v", err)
	}
}

func TestAgentsThatLostTheirLeaseAreShownAsLost(t *testing.T) {
	db := open(t)
	addAgent(t, db, "z-alive", 2, time.Minute, jobs.HTTP)
	addAgent(t, db, "a-lost", 2, -time.Minute, jobs.HTTP)
	addAgent(t, db, "forgotten", 2, -48*time.Hour, jobs.HTTP)
	list, err := ListAgents(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Name != "z-alive" || list[0].State != "running" || list[1].State != "lost" {
		t.Errorf("agents: %+v", list)
	}
}
