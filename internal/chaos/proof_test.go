//go:build linux

package chaos

import (
	"slices"
	"strings"
	"testing"
)

// sound is a record with nothing to find: a job done at once, one after a
// failure, one after its agent died, and one that kills.
func sound() *record {
	r := &record{fed: 4, deaths: 3, slots: 1, calls: map[string][]call{}, failures: map[string]int{"b": 1}}
	add := func(job string, number int, service, status string, attempts, most int, answers ...int) {
		row := row{Job: job, Number: number, Service: service, Status: status, Attempts: attempts, Most: most, OutputNumber: -1, OutputAttempt: -1}
		if status == "completed" {
			row.OutputNumber, row.OutputAttempt = number, attempts
		}
		r.rows = append(r.rows, row)
		for i, answer := range answers {
			r.calls[job] = append(r.calls[job], call{job: job, attempt: i + 1, number: number, service: service, key: job, status: answer})
			r.moves = append(r.moves, move{Job: job, Was: "pending", Became: "running", Attempt: i + 1})
		}
		r.moves = append(r.moves, move{Job: job, Was: "running", Became: status, Attempt: attempts})
	}
	add("a", 0, "work", "completed", 1, 100, 200)
	add("b", 1, "work", "completed", 2, 100, 503, 200)
	add("c", 2, "work", "completed", 2, 100, 0, 200)
	add("d", 3, "poison", "failed", 3, 3, 0, 0, 0)
	return r
}

func TestProofFindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		want string // empty: nothing
		harm func(*record)
	}{
		{"", func(*record) {}},
		{"job 2 was lost", func(r *record) { r.rows = slices.Delete(r.rows, 2, 3) }},
		{"job 0 of work ended as running", func(r *record) { r.rows[0].Status = "running" }},
		{"job 1 of work ended as failed", func(r *record) { r.rows[1].Status = "failed" }},
		{"job 3 of poison ended as completed", func(r *record) { r.rows[3].Status = "completed" }},
		{"waits for a retry: true", func(r *record) { r.rows[3].Waits = true }},
		{"job 3 failed for good after 2 of 3 attempts", func(r *record) { r.rows[3].Attempts = 2 }},
		{"job b was completed twice", func(r *record) { r.moves = append(r.moves, move{Job: "b", Was: "running", Became: "completed"}) }},
		{"job a left its final state completed for pending", func(r *record) {
			r.moves = append(r.moves, move{Job: "a", Was: "completed", Final: true, Became: "pending"})
		}},
		{"its history does not say when", func(r *record) { r.moves = r.moves[2:] }},
		{"job 1, attempt 2, holds the result of job 1, attempt 1", func(r *record) { r.rows[1].OutputAttempt = 1 }},
		{"job 0, attempt 1, holds the result of job 7", func(r *record) { r.rows[0].OutputNumber = 7 }},
		{"job 2 is completed by attempt 2, which the ledger did not answer", func(r *record) { r.calls["c"][1].status = 0 }},
		{"attempt 2 of job 1 was started twice", func(r *record) { r.calls["b"] = append(r.calls["b"], r.calls["b"][1]) }},
		{"went out under the idempotency key", func(r *record) { r.calls["a"][0].key = "" }},
		{"3 jobs were started again though 2 agents died", func(r *record) { r.deaths = 2 }},
		{"4 jobs were started again though 3 agents died", func(r *record) { r.failures = nil }},
	} {
		r := sound()
		c.harm(r)
		faults := strings.Join(r.faults(), "\n")
		if c.want == "" && faults != "" || !strings.Contains(faults, c.want) {
			t.Errorf("want %q, found:\n%s", c.want, faults)
		}
	}
}
