//go:build linux

package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb"
)

// While the disk is full the server refuses what needs room in a table, and
// goes down when it can write no more of its log.
func TestFullDiskIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 160)
	server := private(t, devdb.Options{Durable: true, Folder: d.path, Settings: map[string]string{"max_wal_size": "48MB"}})
	w := newWorld(t, setup{server: server, jobs: sized(4000, 40_000), lease: time.Second})
	a, b := w.agent("a"), w.agent("b")
	w.rounds(sized(2, 20), func(round int) {
		d.fill()
		w.until("agents are refused for want of room", func() (bool, error) {
			if down(w) || strings.Contains(a.log.String(), diskFull) && strings.Contains(b.log.String(), diskFull) {
				return true, nil
			}
			_, err := w.exec(`INSERT INTO chaos.move (job, was, final, became)
				SELECT gen_random_uuid(), repeat('x', 1000), false, '' FROM generate_series(1, 1000)`)
			return false, err
		})
		if round%2 == 1 {
			w.until("the server is down for want of room for its log, or lets nobody in", func() (bool, error) {
				_, err := w.exec(`SELECT pg_switch_wal(), pg_logical_emit_message(true, 'chaos', 'x')`)
				// Where it has come up again by itself meanwhile, no session begins:
				// each would write down a cache first.
				if down(w) || err != nil && strings.Contains(err.Error(), "could not write init file") {
					return true, nil
				}
				return false, err
			})
		}
		d.free()
		w.until("the server is back", func() (bool, error) {
			if down(w) {
				return false, w.server.Restart(w.ctx, true)
			}
			_, err := w.number("SELECT 1")
			return err == nil, err
		})
	})
	w.finish()
}

// diskFull is how an agent's log tells of PostgreSQL's error disk_full.
const diskFull = "SQLSTATE 53100"

func down(w *world) bool { return w.server.PID() == 0 }
