//go:build linux

package chaos

import "testing"

// Leases, retries and the order of the queue go by the database's clock.
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
}
