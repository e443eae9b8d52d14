//go:build unix

package ops

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
)

func TestLiveShowsWhatAgentsCountedAndWhatWaits(t *testing.T) {
	db := open(t)
	now := time.Now().Truncate(time.Minute)
	m := jobs.Metric{Minute: now, Type: jobs.Shell, Service: "convert", Operation: "run", Completed: 3, Failed: 1,
		Violations: 1, CPUPercentSum: 100, CPUSamples: 2, MemoryMBSum: 30, MemorySamples: 3, MemoryMBPeak: 20}
	for range 4 {
		m.Duration.Add(100 * time.Millisecond)
	}
	addMetric(t, db, m)
	m.Minute, m.Completed, m.Failed = now.Add(-3*time.Minute), 5, 0
	addMetric(t, db, m)
	m.Minute, m.Completed = now.Add(-2*time.Hour), 1000 // outside of the window
	addMetric(t, db, m)
	enqueue(t, db, "convert", jobs.HTTP, 7, time.Minute) // the application wrote the default type
	enqueue(t, db, "stripe", jobs.HTTP, 2, 0)
	addAgent(t, db, "a", 4, time.Minute, jobs.HTTP, jobs.Shell)
	addLanes(t, db, jobs.LaneSettings{Service: "convert", Type: jobs.Shell}, jobs.LaneSettings{Service: "stripe", Type: jobs.HTTP})
	exec(t, db, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, execution_type, started_at)
		VALUES ('r', 'convert', 'run', 'running', 'shell', now())`)

	live, err := GetLive(t.Context(), db, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(live.Types) != 4 || live.Types[1].Type != jobs.Shell {
		t.Fatalf("types: %+v", live.Types)
	}
	c := live.Types[1]
	if c.Completed != 8 || c.Failed != 1 || c.Violations != 2 || c.Running != 1 {
		t.Errorf("shell counts: %+v", c)
	}
	if c.Waiting != 7 || c.WaitingCapped || c.Oldest < 55*time.Second {
		t.Errorf("shell waits %d (capped %v) for %s; the type is the registry's", c.Waiting, c.WaitingCapped, c.Oldest)
	}
	if c.P50 < 90*time.Millisecond || c.P50 > 110*time.Millisecond {
		t.Errorf("p50 is %s, want about 100 ms", c.P50)
	}
	if *c.CPUPercent != 50 || *c.MemoryMB != 10 || *c.PeakMemoryMB != 20 {
		t.Errorf("resources: %v %v %v", *c.CPUPercent, *c.MemoryMB, *c.PeakMemoryMB)
	}
	if n := len(c.DoneSeries); n != 10 || len(c.P95Series) != 10 {
		t.Fatalf("series have %d minutes, want 10", n)
	}
	var done float64
	for _, v := range c.DoneSeries {
		done += v
	}
	if done != 9 {
		t.Errorf("the series add up to %v, want 9", done)
	}
	if live.Types[0].Waiting != 2 || live.Types[0].CPUPercent != nil {
		t.Errorf("http: %+v", live.Types[0])
	}
	if len(live.Services) != 1 || live.Services[0].Service != "convert" || live.Services[0].Completed != 8 {
		t.Errorf("services: %+v", live.Services)
	}
}

func TestLiveRefusesAWindowOutOfRange(t *testing.T) {
	db := open(t)
	for _, w := range []time.Duration{0, time.Second, 25 * time.Hour} {
		if _, err := GetLive(t.Context(), db, w); err == nil {
			t.Errorf("a window of %s is accepted", w)
		}
	}
}

func TestWaitingJobsAreCountedUpToTheCap(t *testing.T) {
	db := open(t)
	enqueue(t, db, "many", jobs.HTTP, WaitingCap+5, 0)
	live, err := GetLive(t.Context(), db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if c := live.Types[0]; c.Waiting != WaitingCap || !c.WaitingCapped {
		t.Errorf("waiting %d, capped %v", c.Waiting, c.WaitingCapped)
	}
}

func TestHeldJobsSayWhy(t *testing.T) {
	db := open(t)
	enqueue(t, db, "scripts", jobs.HTTP, 3, time.Minute) // as the application wrote it
	enqueue(t, db, "images", jobs.Docker, 2, time.Minute)
	for _, service := range []string{"unknown", "fresh", "narrow", "limited", "spent", "broken", "left"} {
		enqueue(t, db, service, jobs.HTTP, 1, time.Minute)
	}
	addAgent(t, db, "a", 4, time.Minute, jobs.HTTP, jobs.Shell)
	addAgent(t, db, "dead", 4, -time.Minute, jobs.Docker)
	lane := func(service string, t jobs.ExecutionType, g jobs.Gates) jobs.LaneSettings {
		return jobs.LaneSettings{Service: service, Type: t, Gates: g}
	}
	addLanes(t, db, lane("scripts", jobs.Shell, jobs.Gates{}), lane("images", jobs.Docker, jobs.Gates{}), lane("fresh", jobs.HTTP, jobs.Gates{}),
		jobs.LaneSettings{Service: "narrow", Type: jobs.HTTP, Concurrency: 2}, lane("limited", jobs.HTTP, jobs.Gates{PerMinute: 2}),
		lane("spent", jobs.HTTP, jobs.Gates{PerHour: 2}), lane("broken", jobs.HTTP, jobs.Gates{Threshold: 2, Recovery: time.Minute}),
		lane("left", jobs.HTTP, jobs.Gates{}))
	exec(t, db, `SELECT jobs.gate_spend('limited', 'minute', 2, 2), jobs.gate_spend('spent', 'hour', 2, 2)`)
	exec(t, db, `UPDATE jobs.tb_lane SET failures_in_row = 2, open_until = now() + interval '1 minute' WHERE service_name = 'broken'`)
	exec(t, db, `UPDATE jobs.tb_lane SET registry_hash = 'that of nobody' WHERE service_name = 'left'`)
	by := jobs.By{Actor: "anna@ops", Origin: "test", Reason: "maintenance"}
	if _, err := Switch(t.Context(), db, []jobs.ExecutionType{jobs.Shell}, false, false, by); err != nil {
		t.Fatal(err)
	}
	live, err := GetLive(t.Context(), db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"scripts": `^shell is switched off: maintenance \(anna@ops, just now\)$`,
		"images":  `^no agent runs docker$`,
		"unknown": `^no agent's registry has the service$`,
		"left":    `^no agent's registry has the service$`,
		"narrow":  `^its concurrency allows 2 at once on each agent$`,
		"limited": `^rate limit, next in \d+ s$`,
		"spent":   `^budget of the hour is spent, next in \d+ s$`,
		"broken":  `^circuit open after 2 failures in a row, next try in \d+ s$`,
	}
	if len(live.Held) != len(want) {
		t.Errorf("%d lanes are held, want %d: %+v", len(live.Held), len(want), live.Held)
	}
	for _, h := range live.Held {
		if pattern, ok := want[h.Service]; !ok || !regexp.MustCompile(pattern).MatchString(h.Reason) {
			t.Errorf("%s: %q, want %s", h.Service, h.Reason, pattern)
		}
	}
	if live.Held[0].Service != "scripts" || live.Held[0].Type != jobs.Shell {
		t.Errorf("the most held jobs do not come first: %+v", live.Held)
	}
}

func TestPausedAgentsAreNotCalledMissing(t *testing.T) {
	db := open(t)
	enqueue(t, db, "stripe", jobs.HTTP, 1, 0)
	addAgent(t, db, "a", 4, time.Minute, jobs.HTTP)
	exec(t, db, `UPDATE jobs.tb_agent SET state = 'paused'`)
	live, err := GetLive(t.Context(), db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(live.Held) != 1 || live.Held[0].Reason != "all agents are paused or draining" {
		t.Errorf("held: %+v", live.Held)
	}
}

func TestWithoutAnyAgentEverythingIsHeld(t *testing.T) {
	db := open(t)
	enqueue(t, db, "stripe", jobs.HTTP, 1, 0)
	live, err := GetLive(t.Context(), db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if len(live.Held) != 1 || live.Held[0].Reason != "no agent is running" {
		t.Errorf("held: %+v", live.Held)
	}
}

// Screens refresh each second: none of their queries may read the whole table.
func TestNoScreenScansTheJobsTable(t *testing.T) {
	db := open(t)
	exec(t, db, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, started_at, completed_at, created_at)
		SELECT 'done-' || i, 'stripe', 'charge', 'completed', now(), now(), now() - make_interval(secs => 50000 - i)
		  FROM generate_series(1, 50000) i`)
	enqueue(t, db, "one", jobs.HTTP, 20000, 0)
	enqueue(t, db, "two", jobs.Shell, 20, 0)
	exec(t, db, `VACUUM ANALYZE jobs.tb_job_run`)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), boundedSQL); err != nil {
		t.Fatal(err)
	}
	for name, q := range map[string]struct {
		sql  string
		args []any
	}{
		"lanes":   {lanesSQL, []any{WaitingCap}},
		"lane":    {laneSQL, []any{[]string{"one"}}},
		"running": {runningSQL, nil},
		"job":     {jobSQL, []any{jobs.NewID()}},
	} {
		var plan json.RawMessage
		if err := tx.QueryRow(t.Context(), "EXPLAIN (FORMAT json) "+q.sql, q.args...).Scan(&plan); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var tree any
		if err := json.Unmarshal(plan, &tree); err != nil {
			t.Fatal(err)
		}
		if scansJobs(tree) {
			t.Errorf("%s scans jobs.tb_job_run:\n%s", name, plan)
		}
	}
}

func scansJobs(node any) bool {
	switch n := node.(type) {
	case []any:
		for _, c := range n {
			if scansJobs(c) {
				return true
			}
		}
	case map[string]any:
		whole := n["Node Type"] == "Seq Scan" || n["Node Type"] == "Bitmap Heap Scan"
		if whole && n["Relation Name"] == "tb_job_run" {
			return true
		}
		for _, c := range n {
			if scansJobs(c) {
				return true
			}
		}
	}
	return false
}
