//go:build linux

package chaos

import (
	"net/netip"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb"
)

// apart is a world with one agent on a machine of its own and one on this host.
func apart(t *testing.T, s setup) (w *world, m *machine, there *process) {
	t.Helper()
	m = newMachine(t)
	s.server = private(t, devdb.Options{Networks: []netip.Prefix{m.database.hereAddr}})
	w = newWorld(t, s)
	there = w.agentOn(m, "there")
	w.agent("here")
	return w, m, there
}

func TestCutShorterThanTheLeaseCostsNoJobASecondStart(t *testing.T) {
	t.Parallel()
	for _, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, m, there := apart(t, setup{jobs: sized(3000, 30_000), lease: 6 * time.Second})
			w.rounds(sized(2, 10), func(int) {
				w.untilBusy(there, 1)
				c.cut(m)
				time.Sleep(500 * time.Millisecond)
				c.mend(m)
			})
			w.finish()
		})
	}
}

func TestCutLongerThanTheLeaseHandsTheJobsToOthers(t *testing.T) {
	t.Parallel()
	for _, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, m, there := apart(t, setup{jobs: sized(3000, 30_000), lease: time.Second})
			w.rounds(sized(1, 10), func(round int) {
				w.untilBusy(there, 1)
				c.cut(m)
				w.until("its lease has run out and its jobs are taken over", func() (bool, error) {
					n, err := w.number(`SELECT count(*) FROM jobs.tb_agent WHERE name = 'there' AND lease_expires_at < now()
						AND NOT EXISTS (SELECT FROM jobs.tb_job_run r WHERE r.agent_id = tb_agent.id AND r.status = 'running')`)
					return n > round, err
				})
				before := w.ledger.callsOf("there")
				c.mend(m)
				w.until("it works again", func() (bool, error) { return w.ledger.callsOf("there") > before, nil })
			})
			w.finish()
		})
	}
}
