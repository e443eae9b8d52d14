//go:build linux

package chaos

import "testing"

// Leases, retries, the order of the queue and the minutes of its figures go by
// the database's clock.
func TestAgentWithAWrongClockIsLikeAnyOther(t *testing.T) {
	t.Parallel()
	if _, err := ahead(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, setup{jobs: sized(3000, 50_000)})
	wrong := w.agentAs("ahead", ahead)
	w.agent("right")
	w.rounds(sized(2, 20), func(round int) {
		w.untilBusy(wrong, 5)
		wrong.kill()
		wrong = w.agentAs("ahead", ahead)
	})
	w.finish()
	// An agent's id is a uuid of version 7, which begins with its maker's time.
	n, err := w.number(`SELECT count(*) FROM jobs.tb_agent WHERE name = 'ahead' AND
		to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) > started_at + interval '50 minutes'`)
	if err != nil || n == 0 {
		t.Errorf("no agent's clock was an hour ahead (%v)", err)
	}
	n, err = w.number(`SELECT count(*) FROM jobs.tb_job_metric WHERE minute NOT BETWEEN now() - interval '30 minutes' AND now()`)
	if err != nil || n != 0 {
		t.Errorf("%d figures stand under another minute than the database's (%v)", n, err)
	}
}
