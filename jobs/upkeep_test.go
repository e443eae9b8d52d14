package jobs_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

func addFigures(t *testing.T, conn *pgx.Conn, service string, minute time.Time, took time.Duration) {
	t.Helper()
	m := jobs.Metric{Minute: minute, Type: jobs.HTTP, Service: service, Operation: "run", Completed: 2, Failed: 1, Violations: 1,
		Busy: time.Second, CPUPercentSum: 10, CPUSamples: 1, MemoryMBSum: 5, MemorySamples: 1, MemoryMBPeak: float64(took.Milliseconds())}
	m.Duration.Add(took)
	m.Wait.Add(2 * took)
	e := jobs.Exchange{Metrics: []jobs.Metric{m}}
	if _, err := e.Do(t.Context(), conn, jobs.NewID()); err != nil {
		t.Fatal(err)
	}
}

func TestMinutesBecomeHoursAfterADayAndNothingIsLost(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	now := one[time.Time](t, conn, `SELECT now()`)
	hour := now.Add(-26 * time.Hour).UTC().Truncate(time.Hour)
	if now.Sub(hour) < 26*time.Hour { // the hour that ends 25 hours ago or before
		hour = hour.Add(-time.Hour)
	}
	var all jobs.Histogram
	const services = 60 // more than one step takes
	for i := range services {
		for _, m := range []int{0, 7, 59} {
			took := time.Duration(m/30*59+1) * time.Millisecond // twice the same
			addFigures(t, conn, fmt.Sprint("s", i), hour.Add(time.Duration(m)*time.Minute), took)
			if i == 0 {
				all.Add(took)
			}
		}
	}
	recent := now.Truncate(time.Minute).Add(-24 * time.Hour)
	addFigures(t, conn, "recent", recent, time.Millisecond)
	addFigures(t, conn, "recent", recent.Add(time.Minute), time.Millisecond)
	addFigures(t, conn, "ancient", now.Add(-31*24*time.Hour), time.Millisecond)

	steps := 0
	for ; ; steps++ {
		n, err := jobs.RollUp(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if steps < 2 {
		t.Errorf("%d operations were summed up in %d steps", services, steps)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_metric WHERE minute = $1 AND completed = 6 AND failed = 3 AND violations = 3
		AND busy_seconds = 3 AND cpu_percent_sum = 30 AND cpu_samples = 3 AND memory_mb_sum = 15 AND memory_samples = 3 AND memory_mb_peak = 60`, hour); n != services {
		t.Errorf("%d of %d hours have the sums of their minutes", n, services)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_metric WHERE minute > $1 AND minute < $1 + interval '1 hour'`, hour); n != 0 {
		t.Errorf("%d minutes are left", n)
	}
	var durations jobs.Histogram
	durations.Merge(one[[]int64](t, conn, `SELECT duration_hist FROM jobs.tb_job_metric WHERE minute = $1 AND service_name = 's0'`, hour))
	if durations != all {
		t.Error("the histogram is not the sum of the minutes'")
	}
	if n := one[int64](t, conn, `SELECT sum(x) FROM jobs.tb_job_metric, unnest(wait_hist) x WHERE minute = $1`, hour); n != 3*services {
		t.Errorf("%d of %d waits are counted", n, 3*services)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_metric WHERE service_name = 'recent'`); n != 2 {
		t.Errorf("%d of 2 recent minutes are left", n)
	}

	addFigures(t, conn, "s0", hour.Add(3*time.Minute), time.Millisecond) // figures that come late
	if n, err := jobs.RollUp(t.Context(), conn); n != 1 || err != nil {
		t.Errorf("late figures: %d, %v", n, err)
	}
	if n := one[int](t, conn, `SELECT completed FROM jobs.tb_job_metric WHERE service_name = 's0'`); n != 8 {
		t.Errorf("late figures: %d completed, want 8", n)
	}
	if n, err := jobs.DropFigures(t.Context(), conn); n != 1 || err != nil {
		t.Errorf("dropped %d of the 1 that is older than a month, %v", n, err)
	}
}

func TestRetentionDeletesWhatEndedLongAgoAndNothingElse(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	// Ids of the table's own kind, made when the job was.
	const own = `encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
		substring(int8send((extract(epoch FROM now() - make_interval(hours => %s)) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid`
	add := func(name, id, status string, hours int, more string) {
		exec(t, conn, fmt.Sprintf(`INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, created_at, updated_at, attempts, max_attempts)
			SELECT %s, '%s-' || i, '%s', 'run', '%s', now() - make_interval(hours => %d), now() - make_interval(hours => %d), 3, 3
			  FROM generate_series(1, 3) i`, id, name, name, status, hours, hours))
		if more != "" {
			exec(t, conn, `UPDATE jobs.tb_job_run SET `+more+` WHERE service_name = $1`, name)
		}
	}
	v7 := func(hours int) string { return fmt.Sprintf(own, fmt.Sprint(hours)) }
	add("gone completed", v7(200), "completed", 200, "")
	add("gone cancelled", v7(200), "cancelled", 200, "")
	add("gone dead", v7(200), "failed", 200, "")
	add("gone by the application", v7(200), "failed", 200, "attempts = NULL, max_attempts = 0, completed_at = NULL")
	add("kept pending", v7(200), "pending", 200, "")
	add("kept running", v7(200), "running", 200, "")
	add("kept retry", v7(200), "failed", 200, "attempts = 1, retry_at = now()")
	add("kept, ended lately", v7(200), "completed", 200, "completed_at = now()")
	add("kept young", v7(1), "completed", 1, "")
	add("foreign gone", `('ff' || substr(md5(random()::text), 3))::uuid`, "completed", 200, "")
	add("foreign kept", `('ff' || substr(md5(random()::text), 3))::uuid`, "completed", 1, "")
	exec(t, conn, `INSERT INTO jobs.tb_job_attempt (job_id, attempt, error_message) SELECT id, 1, 'x' FROM jobs.tb_job_run`)

	age := 7 * 24 * time.Hour
	aged, foreign, err := jobs.Spans(t.Context(), conn, age)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for i, span := range []jobs.Span{aged, foreign} {
		for more := true; more; {
			var n int
			if n, span, more, err = jobs.DeleteFinished(t.Context(), conn, span, age); err != nil {
				t.Fatal(err)
			}
			total += n
		}
		if i == 0 && one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_run WHERE service_name = 'foreign gone'`) != 3 {
			t.Error("the first span holds foreign ids")
		}
	}
	if total != 15 {
		t.Errorf("%d of 15 were deleted", total)
	}
	left := one[string](t, conn, `SELECT string_agg(DISTINCT service_name, '; ') FROM jobs.tb_job_run`)
	if want := "foreign kept; kept pending; kept retry; kept running; kept young; kept, ended lately"; left != want {
		t.Errorf("left are %s; want %s", left, want)
	}
	if n := one[int](t, conn, `SELECT count(*) FROM jobs.tb_job_attempt`); n != 18 {
		t.Errorf("%d attempts are left, want those of the 18 jobs", n)
	}
}

func TestRetentionGoesInStepsAndPassesOverWhatIsLocked(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	conn, other := connect(t, url), connect(t, url)
	exec(t, conn, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, created_at, updated_at)
		SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'j' || i, 's', 'run', 'completed', now() - interval '2 days', now() - interval '2 days'
		  FROM generate_series(1, 4500) i`)
	exec(t, other, `BEGIN`)
	exec(t, other, `SELECT FROM jobs.tb_job_run WHERE identifier = 'j10' FOR UPDATE`)
	span, _, err := jobs.Spans(t.Context(), conn, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var steps []int
	for more := true; more; {
		var n int
		if n, span, more, err = jobs.DeleteFinished(t.Context(), conn, span, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, n)
	}
	if fmt.Sprint(steps) != "[1999 2000 500]" {
		t.Errorf("the steps deleted %v", steps)
	}
	exec(t, other, `ROLLBACK`)
}

func TestAgentsAndLanesAreForgottenAWeekAfterTheyWent(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := func(name, hash string, gone time.Duration) jobs.ID {
		id := jobs.NewID()
		if err := jobs.Register(t.Context(), conn, jobs.AgentInfo{ID: id, Name: name, Types: []jobs.ExecutionType{jobs.HTTP}, Slots: 1, RegistryHash: hash}, time.Hour); err != nil {
			t.Fatal(err)
		}
		exec(t, conn, `UPDATE jobs.tb_agent SET lease_expires_at = now() + interval '1 hour' - make_interval(secs => $2) WHERE id = $1`, id, gone.Seconds())
		return id
	}
	const week = 7 * 24 * time.Hour
	agent("live", "new", 0)
	agent("lost yesterday", "old", 24*time.Hour)
	agent("long gone", "old", week+2*time.Hour)
	named := agent("long gone, with a job", "old", week+2*time.Hour)
	exec(t, conn, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, agent_id) VALUES ('r', 's', 'run', 'running', $1)`, named)

	lane := func(service, hash string, seen time.Duration) {
		if err := jobs.PublishLanes(t.Context(), conn, hash, []jobs.LaneSettings{{Service: service, Type: jobs.HTTP}}); err != nil {
			t.Fatal(err)
		}
		exec(t, conn, `UPDATE jobs.tb_lane SET updated_at = now() - make_interval(secs => $2) WHERE service_name = $1`, service, seen.Seconds())
	}
	lane("in use for long", "new", 30*24*time.Hour)
	lane("dropped lately", "old", 24*time.Hour)
	lane("dropped long ago", "old", week+time.Hour)
	exec(t, conn, `INSERT INTO jobs.tb_lane_spent SELECT 's', gate, floor(extract(epoch FROM now() - make_interval(hours => age)) / width)::bigint, 1
		FROM (VALUES ('minute', 0.6), ('hour', 36)) g(gate, width), (VALUES (1), (3)) a(age)`)

	got, err := jobs.Forget(t.Context(), conn)
	if err != nil || got != (jobs.Forgotten{Agents: 1, Lanes: 1, Slices: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
	if left := one[string](t, conn, `SELECT string_agg(name, '; ' ORDER BY name) FROM jobs.tb_agent`); left != "live; long gone, with a job; lost yesterday" {
		t.Errorf("agents: %s", left)
	}
	if left := one[string](t, conn, `SELECT string_agg(service_name, '; ' ORDER BY service_name) FROM jobs.tb_lane`); left != "dropped lately; in use for long" {
		t.Errorf("lanes: %s", left)
	}
	// A lane counts as seen from now on, not since its settings last changed.
	exec(t, conn, `UPDATE jobs.tb_agent SET registry_hash = 'newer' WHERE name = 'live'`)
	if got, err := jobs.Forget(t.Context(), conn); err != nil || got.Lanes != 0 {
		t.Errorf("a lane is forgotten at once: %+v, %v", got, err)
	}
}

func TestLanesOfAnAgentThatIsGoneDoNotStand(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	a := jobs.AgentInfo{ID: jobs.NewID(), Name: "a", Slots: 1, RegistryHash: "one"}
	if err := jobs.Register(t.Context(), conn, a, time.Hour); err != nil {
		t.Fatal(err)
	}
	stand := func() bool {
		ok, err := jobs.LanesStand(t.Context(), conn, []string{"s"})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if stand() {
		t.Error("there is no lane yet")
	}
	for hash, want := range map[string]bool{"one": true, "two": false} {
		if err := jobs.PublishLanes(t.Context(), conn, hash, []jobs.LaneSettings{{Service: "s", Type: jobs.HTTP}}); err != nil {
			t.Fatal(err)
		}
		if stand() != want {
			t.Errorf("a lane of the registry %s: stands is %v", hash, !want)
		}
	}
}

func TestATaskIsDoneByOneAndHeldByItWhileItTakesLong(t *testing.T) {
	url := devdbtest.New(t, migrationstest.Migrated)
	one1, two := connect(t, url), connect(t, url)
	turn := func(c *pgx.Conn, agent string, every time.Duration) bool {
		mine, err := jobs.Turn(t.Context(), c, jobs.Retention, agent, every)
		if err != nil {
			t.Fatal(err)
		}
		return mine
	}
	if !turn(one1, "one", time.Hour) || turn(two, "two", time.Hour) {
		t.Error("both or neither have the turn")
	}
	exec(t, one1, `UPDATE jobs.tb_upkeep SET done_at = now() - interval '2 hours'`)
	if err := jobs.Hold(t.Context(), one1, jobs.Retention, "one"); err != nil {
		t.Fatal(err)
	}
	if turn(two, "two", time.Hour) {
		t.Error("a held task was taken")
	}
	if err := jobs.Done(t.Context(), one1, jobs.Retention, "one", "7 jobs deleted"); err != nil {
		t.Fatal(err)
	}
	if got, err := jobs.Outcome(t.Context(), two, jobs.Retention); got != "7 jobs deleted" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if mine, err := jobs.Alone(t.Context(), one1, jobs.RegistryTypes); !mine || err != nil {
		t.Error(mine, err)
	}
	if mine, err := jobs.Alone(t.Context(), two, jobs.RegistryTypes); mine || err != nil {
		t.Error("two connections have a task alone", err)
	}
}
