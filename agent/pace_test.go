package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// TestJobsAreClaimedEarly: as many beyond the free slots as are likely to end while
// the claim is under way, which no idle slot then waits for; never more than there
// are slots, and none where attempts take long, fail, or spend of gates.
func TestJobsAreClaimedEarly(t *testing.T) {
	const slots, claim = 10, 4 * time.Millisecond
	config := parse(t, "a:http", "gated:http")
	config.Services[1].SecurityPolicy.RateLimitPerMinute = 60
	begin := time.Now()
	for name, c := range map[string]struct {
		service string
		end     func(q *queue, a *attempt) // of each attempt before the second claim
		ended   int
		after   time.Duration // the claim's answer
		want    int           // room of the second claim
	}{
		"all end at once":         {"a", (*queue).complete, 10, claim, 20},
		"half of them":            {"a", (*queue).complete, 5, claim, 10},
		"in twice a claim's time": {"a", (*queue).complete, 10, 2 * claim, 15},
		"long ones":               {"a", (*queue).complete, 1, 50 * claim, 1},
		"they fail":               {"a", (*queue).fail, 10, claim, 10},
		"handed back":             {"a", (*queue).handBack, 10, claim, 10},
		"with gates":              {"gated", (*queue).complete, 10, claim, 10},
	} {
		t.Run(name, func(t *testing.T) {
			q := &queue{ledger: newLedger(slots, 1, []jobs.ExecutionType{jobs.HTTP}), waiting: map[string][]jobs.Place{}}
			l := q.ledger
			l.apply(config, nil)
			l.woken = jobs.Last
			ask := func(at time.Time) *request {
				t.Helper()
				l.byName[c.service].from = jobs.First
				req, _, ok := l.take(at)
				if !ok || !req.asks() {
					t.Fatal("nothing is claimed")
				}
				return req
			}
			answer := func(req *request, at time.Time) {
				out := jobs.Exchanged{Gates: make([]jobs.Gate, len(req.gated))}
				for range roomOf(req) {
					out.Claimed = append(out.Claimed, &jobs.Job{ID: jobs.NewID(), Service: c.service, Place: jobs.Place{Micros: int64(len(out.Claimed)) + 1}})
				}
				for i := range out.Gates {
					out.Gates[i].Claimed = len(out.Claimed)
				}
				started, _ := l.done(req, &out, at, claim)
				l.land(req)
				q.running = append(q.running, started...)
			}
			first := ask(begin)
			if room := roomOf(first); room != slots {
				t.Fatalf("the first claim has room for %d", room)
			}
			answer(first, begin.Add(claim))
			l.pace.since = begin.Add(claim)
			for _, a := range q.running[:c.ended] {
				c.end(q, a)
			}
			second := ask(begin.Add(claim + c.after))
			if room := roomOf(second); room != c.want {
				t.Fatalf("the second claim has room for %d, want %d", room, c.want)
			}
			answer(second, begin.Add(claim+c.after+claim))
			if claimed := l.slots - l.free; claimed > 2*slots {
				t.Errorf("%d jobs are claimed for %d slots", claimed, slots)
			}
		})
	}
}

func roomOf(req *request) (room int) {
	for _, ln := range req.exchange.Claim.Gated {
		room += ln.Room
	}
	return room + req.exchange.Claim.Limit
}

// TestJobsThatFindNoSlotAreLeftToOthers: an agent at its quickest comes to jobs that
// take long. It runs as many as it has slots; what it had claimed early waits again
// as if nothing had been, and another agent runs it.
func TestJobsThatFindNoSlotAreLeftToOthers(t *testing.T) {
	const slots, quick, long = 4, 4000, 20
	w := newWorld(t)
	config := parse(t, "a:http")
	w.enqueue(quick+long, "a")
	w.exec(`UPDATE jobs.tb_job_run SET input_data = '{"long": true}', created_at = created_at + interval '1 second'
		WHERE id IN (SELECT id FROM jobs.tb_job_run LIMIT $1)`, long)
	var first atomic.Pointer[Agent]
	var early, most, now atomic.Int64
	goOn := make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	run := func(count bool) runners.Runner {
		return fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
			if count {
				raise(&most, now.Add(1))
				defer now.Add(-1)
				if a := first.Load(); a != nil {
					a.ledger.mu.Lock()
					raise(&early, int64(-a.ledger.free))
					a.ledger.mu.Unlock()
				}
			}
			if string(c.Job.Input) == `{"long": true}` {
				<-goOn
			}
			return runners.Result{}, nil
		}}
	}
	a, _ := w.start(Options{Config: config, Slots: slots, Runners: []runners.Runner{run(true)}})
	first.Store(a)
	w.until("the quick ones have ended", func() bool { return w.count("status = 'completed'") == quick })
	w.until("the others wait for an agent with room", func() bool {
		return w.count("status = 'running'") == slots && w.count("status = 'pending' AND attempts = 0") == long-slots
	})
	if n := a.Stats().Running; n != slots {
		t.Errorf("%d jobs are said to run in %d slots", n, slots)
	}
	w.start(Options{Config: config, Slots: long, Runners: []runners.Runner{run(false)}})
	w.until("they run", func() bool { return w.count("status = 'running' AND attempts = 1") == long })
	release()
	w.until("all is done", func() bool { return w.count("status = 'completed' AND attempts = 1") == quick+long })
	if most.Load() > slots || early.Load() == 0 {
		t.Errorf("%d jobs ran at a time in %d slots, at most %d were claimed early", most.Load(), slots, early.Load())
	}
}

func raise(most *atomic.Int64, to int64) {
	for was := most.Load(); was < to && !most.CompareAndSwap(was, to); was = most.Load() {
	}
}
