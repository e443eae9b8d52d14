package jobs_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

func register(t *testing.T, conn *pgx.Conn) jobs.ID {
	t.Helper()
	info := jobs.AgentInfo{ID: jobs.NewID(), Name: "agent", Slots: 10, Types: []jobs.ExecutionType{jobs.HTTP}}
	if err := jobs.Register(t.Context(), conn, info, time.Hour); err != nil {
		t.Fatal(err)
	}
	return info.ID
}

func enqueue(t *testing.T, conn *pgx.Conn, n int) {
	t.Helper()
	_, err := conn.Exec(t.Context(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation)
		SELECT gen_random_uuid()::text, 'a', 'run' FROM generate_series(1, $1)`, n)
	if err != nil {
		t.Fatal(err)
	}
}

// TestSlidingMinuteIsNeverExceededAndNearlyAllUsed lets ten minutes pass, slice
// by slice, while two agents take all that they are given. Time passes by what
// was spent moving into the past.
func TestSlidingMinuteIsNeverExceededAndNearlyAllUsed(t *testing.T) {
	const (
		limit  = 50
		slices = 1000 // of 0.6 s
		minute = 100
	)
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agents := []jobs.ID{register(t, conn), register(t, conn)}
	gates := jobs.Gates{PerMinute: limit}
	if err := jobs.PublishLanes(t.Context(), conn, "hash", []jobs.LaneSettings{{Service: "a", Type: jobs.HTTP, Gates: gates}}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, conn, 2*limit*slices/minute)
	claim := jobs.Exchange{Claim: jobs.Claim{Gated: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 20, From: jobs.First, Gates: gates}}}}
	now := func() (slice int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT floor(extract(epoch FROM clock_timestamp()) / 0.6)::bigint").Scan(&slice); err != nil {
			t.Fatal(err)
		}
		return slice
	}
	begun := now()
	taken := map[int]int{} // by slice since the beginning
	passed := 0
	for ; passed < slices; passed++ {
		for got := 1; got > 0; { // all that there is, in turn
			got = 0
			for _, agent := range agents {
				at := now() - begun + passed
				out, err := claim.Do(t.Context(), conn, agent)
				if err != nil {
					t.Fatal(err)
				}
				taken[at] += len(out.Claimed)
				got += len(out.Claimed)
			}
		}
		// In two steps: no slice may be there twice in between.
		for _, sql := range []string{"UPDATE jobs.tb_lane_spent SET slice = 1 - slice", "UPDATE jobs.tb_lane_spent SET slice = -slice"} {
			if _, err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	last := now() - begun + passed
	total := 0
	for from := 0; from <= last; from++ {
		total += taken[from]
		within := 0
		for s := from; s < from+minute; s++ {
			within += taken[s]
		}
		if within > limit {
			t.Fatalf("%d jobs in the minute from slice %d, limit %d", within, from, limit)
		}
	}
	if most := limit * last / minute; total < most*99/100 {
		t.Errorf("%d of %d jobs that the limit permits were let through", total, most)
	}
}

func TestCompletionOfAnEarlierAttemptChangesNothing(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := register(t, conn)
	enqueue(t, conn, 1)
	claim := jobs.Exchange{Claim: jobs.Claim{Limit: 1, Lanes: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 1, From: jobs.First}}}}
	var attempts []*jobs.Job
	for range 2 { // an operator cancels the job and has it tried again, by the same agent
		out, err := claim.Do(t.Context(), conn, agent)
		if err != nil || len(out.Claimed) != 1 {
			t.Fatalf("claimed %d: %v", len(out.Claimed), err)
		}
		attempts = append(attempts, out.Claimed[0])
		if len(attempts) == 2 {
			break
		}
		for _, status := range []string{"cancelled", "pending"} {
			if _, err := conn.Exec(t.Context(), "UPDATE jobs.tb_job_run SET status = $1", status); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, late := range map[string]jobs.Exchange{
		"completed":   {Completed: []jobs.Completion{{Job: attempts[0]}}},
		"failed":      {Failed: []jobs.Failure{{Completion: jobs.Completion{Job: attempts[0]}, Error: "late"}}},
		"handed back": {HandBack: []jobs.HandBack{{Job: attempts[0]}}},
	} {
		if out, err := late.Do(t.Context(), conn, agent); err != nil || out.Recorded != 0 {
			t.Errorf("the first attempt, %s late: recorded %d, %v", name, out.Recorded, err)
		}
	}
	end := jobs.Exchange{Completed: []jobs.Completion{{Job: attempts[1]}}}
	if out, err := end.Do(t.Context(), conn, agent); err != nil || out.Recorded != 1 {
		t.Errorf("the second attempt: recorded %d, %v", out.Recorded, err)
	}
}

// A claim of a gated lane takes several snapshots, and waits for locks between
// them: what operators switched goes by the one that the jobs are seen with.
func TestAGatedClaimGoesByTheSwitchesOfTheSnapshotThatShowsTheJobs(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := register(t, conn)
	if err := jobs.PublishLanes(t.Context(), conn, "hash", []jobs.LaneSettings{{Service: "a", Type: jobs.HTTP, Gates: jobs.Gates{PerMinute: 1000}}}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, conn, 1)
	for _, c := range []struct {
		switched string
		as       jobs.ExecutionType
		want     int
	}{
		{"UPDATE jobs.tb_lane SET enabled = false", jobs.HTTP, 0},
		{"UPDATE jobs.tb_lane SET runs_as = 'http'", jobs.Shell, 0},
		{"UPDATE jobs.tb_lane SET runs_as = 'http'", jobs.HTTP, 1},
		{"UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'http'", jobs.HTTP, 0},
		{"UPDATE jobs.tb_execution_type SET stopped_at = now()", jobs.HTTP, 0},
		{"UPDATE jobs.tb_execution_type SET enabled = false WHERE execution_type = 'shell'", jobs.HTTP, 1},
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), c.switched); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := tx.QueryRow(t.Context(), `SELECT count((job).id)
			FROM jobs.claim_gated($1, 'a', $2, 10, '-infinity', '00000000-0000-0000-0000-000000000000', 1000, 0, 0, 0)`, agent, c.as).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != c.want {
			t.Errorf("%s: %d jobs were claimed as %s, want %d", c.switched, n, c.as, c.want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// spent is what is counted of a service's hour.
func spent(t *testing.T, conn *pgx.Conn, service string) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), "SELECT coalesce(sum(jobs), 0) FROM jobs.tb_lane_spent WHERE service_name = $1 AND gate = 'hour'", service).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWhatWasHandedBackUnstartedIsNotCounted(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := register(t, conn)
	gates := jobs.Gates{PerHour: 5}
	if err := jobs.PublishLanes(t.Context(), conn, "hash", []jobs.LaneSettings{{Service: "a", Type: jobs.HTTP, Gates: gates}}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, conn, 10)
	var began []*jobs.Job
	claim := func(want int) {
		t.Helper()
		e := jobs.Exchange{Claim: jobs.Claim{Gated: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 9, From: jobs.First, Gates: gates}}}}
		out, err := e.Do(t.Context(), conn, agent)
		if err != nil || len(out.Claimed) != want {
			t.Fatalf("%d jobs were claimed, want %d: %v", len(out.Claimed), want, err)
		}
		began = out.Claimed
	}
	handBack := func(unstarted bool, by jobs.ID, recorded, counted int, which ...*jobs.Job) {
		t.Helper()
		var e jobs.Exchange
		for _, j := range which {
			e.HandBack = append(e.HandBack, jobs.HandBack{Job: j, Unstarted: unstarted})
		}
		out, err := e.Do(t.Context(), conn, by)
		if err != nil || out.Recorded != recorded {
			t.Fatalf("%d were recorded, want %d: %v", out.Recorded, recorded, err)
		}
		if n := spent(t, conn, "a"); n != counted {
			t.Errorf("%d are counted in the hour, want %d", n, counted)
		}
	}
	claim(5)
	handBack(true, jobs.NewID(), 0, 5, began...)     // another agent's are not its own
	handBack(true, agent, 2, 3, began[0], began[1])  // throttled
	handBack(true, agent, 0, 3, began[0], began[1])  // the same said twice
	handBack(false, agent, 2, 3, began[2], began[3]) // stopped: they may have run
	claim(2)
	claim(0)
}

// TestAgentsThatAreThrottledUseTheWholeHourAndNoMore has agents that claim from two
// services at once and hand back at random, as many times as it takes.
func TestAgentsThatAreThrottledUseTheWholeHourAndNoMore(t *testing.T) {
	const limit = 40
	url := devdbtest.New(t, migrationstest.Migrated)
	conn := connect(t, url)
	gates := jobs.Gates{PerHour: limit}
	services := []string{"a", "b"}
	var lanes []jobs.LaneSettings
	for _, s := range services {
		lanes = append(lanes, jobs.LaneSettings{Service: s, Type: jobs.HTTP, Gates: gates})
	}
	if err := jobs.PublishLanes(t.Context(), conn, "hash", lanes); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation)
		SELECT gen_random_uuid()::text, s, 'run' FROM generate_series(1, 100), unnest($1::text[]) s`, services); err != nil {
		t.Fatal(err)
	}
	slice := func() (n int64) {
		if err := conn.QueryRow(t.Context(), "SELECT floor(extract(epoch FROM clock_timestamp()) / 36)::bigint").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := slice()
	var mu sync.Mutex
	ran := map[string]int{}
	full := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return ran["a"] >= limit && ran["b"] >= limit
	}
	var agents sync.WaitGroup
	for n := range 4 {
		conn, random := connect(t, url), rand.New(rand.NewPCG(7, uint64(n)))
		agent := register(t, conn)
		agents.Go(func() {
			var held []jobs.HandBack
			var done []jobs.Completion
			for idle := 0; idle < 200 && !full(); idle++ {
				e := jobs.Exchange{HandBack: held, Completed: done}
				for _, i := range random.Perm(len(services)) {
					e.Claim.Gated = append(e.Claim.Gated, jobs.Lane{Service: services[i], Type: jobs.HTTP, Room: 5, From: jobs.First, Gates: gates})
				}
				out, err := e.Do(t.Context(), conn, agent)
				if err != nil {
					t.Error(err)
					return
				}
				held, done = nil, nil
				for _, j := range out.Claimed {
					idle = 0
					if random.IntN(4) > 0 {
						held = append(held, jobs.HandBack{Job: j, Unstarted: true})
						continue
					}
					done = append(done, jobs.Completion{Job: j})
					mu.Lock()
					ran[j.Service]++
					mu.Unlock()
				}
			}
			last := jobs.Exchange{HandBack: held, Completed: done}
			if _, err := last.Do(t.Context(), conn, agent); err != nil {
				t.Error(err)
			}
		})
	}
	agents.Wait()
	for _, s := range services {
		if ran[s] > limit || spent(t, conn, s) > limit {
			t.Errorf("%d jobs of service %s ran and %d are counted, limit %d", ran[s], s, spent(t, conn, s), limit)
		}
		// At the end of a slice a claim may be counted in the next one and stay there.
		if before == slice() && ran[s] != limit {
			t.Errorf("%d jobs of service %s ran, the limit is %d", ran[s], s, limit)
		}
	}
}

func TestAFurtherRequestCountsAgainstTheMinuteAndTheHour(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	agent := register(t, conn)
	gates := jobs.Gates{PerMinute: 5, PerHour: 6}
	if err := jobs.PublishLanes(t.Context(), conn, "hash", []jobs.LaneSettings{{Service: "a", Type: jobs.HTTP, Gates: gates}}); err != nil {
		t.Fatal(err)
	}
	enqueue(t, conn, 10)
	claim := func(want int) {
		t.Helper()
		e := jobs.Exchange{Claim: jobs.Claim{Gated: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 3, From: jobs.First, Gates: gates}}}}
		out, err := e.Do(t.Context(), conn, agent)
		if err != nil || len(out.Claimed) != want {
			t.Fatalf("%d jobs were claimed, want %d: %v", len(out.Claimed), want, err)
		}
	}
	again := func(least, most time.Duration) {
		t.Helper()
		opens, err := jobs.SpendAgain(t.Context(), conn, "a", gates)
		if err != nil || opens < least || opens > most {
			t.Fatalf("a further request may go out in %s, want %s to %s: %v", opens, least, most, err)
		}
	}
	claim(3)
	again(0, 0)
	claim(1) // of the five in the minute
	again(time.Second, time.Minute+time.Second)
	claim(0)
	if _, err := conn.Exec(t.Context(), `UPDATE jobs.tb_lane_spent SET slice = slice - 200 WHERE gate = 'minute'`); err != nil {
		t.Fatal(err)
	}
	again(0, 0) // the sixth in the hour
	again(time.Minute, time.Hour+time.Minute)
	claim(0)
}
