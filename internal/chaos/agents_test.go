//go:build linux

package chaos

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestKilledAgentsLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{jobs: sized(5000, 100_000)})
	agents := []*process{w.agent("a-1"), w.agent("b-1"), w.agent("c-1")}
	w.rounds(sized(8, 100), func(round int) {
		i := round % len(agents)
		w.untilBusy(agents[i], 5)
		agents[i].kill()
		agents[i] = w.agent(fmt.Sprintf("%c-%d", 'a'+i, round+2))
	})
	if r := w.finish(); r.deaths < sized(8, 100) {
		t.Errorf("%d leases ran out: fewer than agents were killed", r.deaths)
	}
}

// The frozen agent's calls are answered while it does not look. When it goes
// on it has results for jobs that others run by then, or have done.
func TestFrozenAgentsLateResultsChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{jobs: sized(4000, 100_000)})
	frozen := w.agent("frozen")
	w.agent("b")
	w.agent("c")
	const held = 30 // of its 40 slots
	rounds := sized(2, 20)
	w.rounds(rounds, func(round int) {
		others := "completed"
		// Before the freeze: the lease may run out while it is waited for. The
		// jobs that fail first are let through, so that all that is held is run again.
		letGo := w.ledger.hold(func(c call) bool { return c.agent == "frozen" && !failsFirst(c.number) })
		if round%2 == 0 {
			others = "running"
			letOthersGo := w.ledger.hold(func(c call) bool { return c.agent != "frozen" && c.attempt > 1 && !failsFirst(c.number) })
			defer letOthersGo()
		}
		w.untilHeld(frozen, held)
		frozen.freeze(w.ctx, t)
		letGo()
		w.until("its jobs are "+others+" by others", func() (bool, error) {
			n, err := w.number(`SELECT count(*) FROM jobs.tb_job_attempt a JOIN jobs.tb_job_run r ON r.id = a.job_id
				WHERE a.agent_id = (SELECT id FROM jobs.tb_agent WHERE name = 'frozen' ORDER BY started_at DESC LIMIT 1)
				  AND a.error_message LIKE '%lost its lease%' AND r.status = $1 AND r.attempts > a.attempt`, others)
			return n >= held, err
		})
		before := w.ledger.callsOf("frozen")
		frozen.signal(t, syscall.SIGCONT)
		w.until("it works again", func() (bool, error) { return w.ledger.callsOf("frozen") > before, nil })
	})
	if r := w.finish(); r.duplicates() < held*rounds {
		t.Errorf("%d jobs were started again: fewer than the frozen agent had under way", r.duplicates())
	}
	if !strings.Contains(frozen.log.String(), "results not recorded") {
		t.Error("the frozen agent does not say that its late results were not recorded")
	}
}

// Whatever agent calls for a job that kills is killed by it, each time, and
// started anew as by a service manager.
func TestPoisonJobsEndAsDeadLettersAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	jobs, every := sized(4000, 50_000), sized(1000, 5000) // one in so many
	w := newWorld(t, setup{jobs: jobs, lease: time.Second, service: func(n int) string {
		if n < jobs && n%every == every/2 {
			return "poison"
		}
		return "work"
	}})
	never := make(chan struct{})
	w.ledger.follow(func(c call) reply {
		if c.service == "poison" {
			w.named(c.agent).kill()
			return reply{hold: never}
		}
		return steady(c)
	})
	agents := make([]*process, 3)
	starts := 0
	w.until("every poison job is a dead letter", func() (bool, error) {
		for i, p := range agents {
			if p != nil && !p.alive() && !p.killed.Load() {
				t.Fatalf("agent %s ended by itself", p.name)
			}
			if p == nil || !p.alive() {
				starts++
				agents[i] = w.agent(fmt.Sprintf("%c-%d", 'a'+i, starts))
			}
		}
		n, err := w.number(`SELECT count(*) FROM jobs.tb_job_run WHERE service_name = 'poison' AND status = 'failed' AND attempts = max_attempts`)
		return n == jobs/every, err
	})
	for job, calls := range w.finish().calls {
		// An attempt may also be lost unstarted, with an agent that another one killed.
		if calls[0].service == "poison" && len(calls) > 3 {
			t.Errorf("poison job %s was started %d times in 3 attempts", job, len(calls))
		}
	}
}
