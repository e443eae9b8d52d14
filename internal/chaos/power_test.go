//go:build linux

package chaos

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// An agent's machine loses its power, or its network for good, while it is
// sending an exchange: the server has the first half of it, with the locks
// that it took, and hears nothing more, not even that the connection is gone.
func TestMachineLostInTheMiddleOfAnExchangeHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w, m, there := apart(t, setup{jobs: sized(3000, 30_000), lease: 3 * time.Second})
	// So slow that an exchange takes long to arrive.
	m.inside("tc", "qdisc", "add", "dev", m.database.there, "root", "tbf", "rate", "200kbit", "burst", "2k", "latency", "5s")
	half := func() (bool, error) {
		n, err := w.number(`SELECT count(*) FROM pg_stat_activity WHERE client_addr = $1
			AND state = 'active' AND wait_event = 'ClientRead' AND backend_xid IS NOT NULL`, m.database.thereAddr.Addr())
		return n > 0, err
	}
	for {
		w.until("the server has a part of an exchange", half)
		unplugged.cut(m)
		time.Sleep(200 * time.Millisecond) // what was on its way has arrived
		if cut, err := half(); cut && err == nil {
			break
		}
		unplugged.mend(m)
	}
	there.kill()
	w.finish()
}

// Something on the way, such as a firewall that was started anew, loses every
// connection that the agent has, without a word. New ones go through.
func TestSilentlyLostConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	w, m, there := apart(t, setup{jobs: sized(3000, 30_000), lease: time.Second})
	w.rounds(sized(1, 10), func(int) {
		w.untilBusy(there, 1)
		for _, port := range w.portsOf(m) {
			m.inside("iptables", "-w", "-A", "OUTPUT", "-p", "tcp", "--sport", port, "-j", "DROP")
			m.inside("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "DROP")
		}
		before := w.ledger.callsOf("there")
		w.until("the agent works on other connections", func() (bool, error) {
			return w.ledger.callsOf("there") > before+w.setup.slots, nil
		})
	})
	w.finish()
}

// portsOf are the ports of the machine's connections to the database.
func (w *world) portsOf(m *machine) []string {
	w.t.Helper()
	rows, err := w.pool.Query(w.ctx, `SELECT client_port::text FROM pg_stat_activity WHERE client_addr = $1`, m.database.thereAddr.Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	ports, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(ports) == 0 {
		w.t.Fatalf("the agent has no connections: %v", err)
	}
	return ports
}

// However long the network was away, an agent that has its heartbeat back
// claims again soon.
func TestAgentClaimsAgainSoonAfterALongCut(t *testing.T) {
	t.Parallel()
	w, m, there := apart(t, setup{jobs: sized(3000, 30_000), lease: time.Second})
	w.untilBusy(there, 1)
	silent.cut(m)
	time.Sleep(7 * w.setup.lease)
	silent.mend(m)
	w.until("it has registered anew", func() (bool, error) {
		n, err := w.number(`SELECT count(*) FROM jobs.tb_agent WHERE name = 'there' AND lease_expires_at > now()`)
		return n > 0, err
	})
	before := w.ledger.callsOf("there")
	w.until("it works again", func() (bool, error) { return w.ledger.callsOf("there") > before, nil })
	// Three leases' worth, and what its connections ask for when they are back:
	// counted in heartbeats, which a slow machine slows down as well.
	const most = 9 + 6
	n, err := w.number(`SELECT count(*) FROM chaos.beat b JOIN jobs.tb_agent a ON a.id = b.agent
		WHERE a.name = 'there' AND a.lease_expires_at > now()`)
	if err != nil || n > most {
		t.Errorf("with its heartbeat back the agent needed %d heartbeats to claim again, at most %d: %v", n, most, err)
	}
	w.finish()
}
