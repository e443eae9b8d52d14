package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// tallying is a ledger that counts without a database.
func tallying(t testing.TB, services ...string) *ledger {
	l := newLedger(10, 1, []jobs.ExecutionType{jobs.HTTP, jobs.Shell})
	l.apply(parse(t, services...), nil)
	return l
}

func (l *ledger) tallyOne(service, operation string, took time.Duration) {
	count(l.metrics.at(jobs.HTTP, service, operation), true, false, 2*took, took, runners.Usage{})
}

func total(t *testing.T, l *ledger, operation string) Total {
	t.Helper()
	for _, total := range l.allTotals() {
		if total.Operation == operation {
			return total
		}
	}
	t.Fatalf("no total of %s", operation)
	return Total{}
}

func TestTotalsGoOnWhileFiguresAreWrittenLostAndWrittenAgain(t *testing.T) {
	l := tallying(t, "a:http")
	for i := range 5 {
		l.tallyOne("a", "run", time.Second)
		want := int64(i + 1)
		if got := total(t, l, "run"); got.Completed != want || got.Busy != time.Duration(want)*time.Second ||
			got.Waited != 2*got.Busy || got.Duration.Count() != want {
			t.Fatalf("fresh: %d completed, busy %s, waited %s", got.Completed, got.Busy, got.Waited)
		}
		req, _, ok := l.take(time.Now().Add(time.Duration(i) * metricsEvery))
		if !ok || len(req.exchange.Metrics) != 1 {
			t.Fatalf("the figures are not handed out: %+v", req.exchange.Metrics)
		}
		if got := req.exchange.Metrics[0].Completed; got != want {
			t.Fatalf("the table gets %d, want all %d that it does not have", got, want)
		}
		if got := total(t, l, "run").Completed; got != want {
			t.Fatalf("while they are written: %d, want %d", got, want)
		}
		l.land(req)
		l.undo(req) // the database is gone
		if got := total(t, l, "run").Completed; got != want {
			t.Fatalf("after they could not be written: %d, want %d", got, want)
		}
	}
}

func TestOperationsThatRowsInventAreOneTotal(t *testing.T) {
	l := tallying(t, "a:http")
	for i := range 1000 {
		l.tallyOne("a", fmt.Sprintf("invented %d", i), time.Second)
		l.tallyOne(fmt.Sprintf("stranger %d", i), "run", time.Second)
	}
	if n := len(l.allTotals()); n != 1 {
		t.Fatalf("%d totals", n)
	}
	if got := total(t, l, UnknownOperation).Completed; got != 1000 {
		t.Errorf("%d of 1000 counted", got)
	}
	l.drainTally()
	if n := len(l.totals); n != 1 {
		t.Errorf("%d totals are kept", n)
	}
}

func TestTotalsOfServicesThatAReloadTookOutAreForgotten(t *testing.T) {
	l := tallying(t, "a:http", "b:http")
	l.tallyOne("a", "run", time.Second)
	l.tallyOne("b", "run", time.Second)
	l.drainTally()
	l.apply(parse(t, "a:http", "b:shell"), nil)
	if all := l.allTotals(); len(all) != 1 || all[0].Service != "a" || all[0].Completed != 1 {
		t.Errorf("totals: %+v", all)
	}
}

func TestStopsRulesAndDeadLettersAreCounted(t *testing.T) {
	w := newWorld(t)
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, max_attempts)
		VALUES ('lost', 'a', 'run', 1), ('stays', 'a', 'run', 3), ('refused', 'a', 'run', 3)`)
	stays := make(chan struct{})
	a, stop := w.start(Options{Drain: time.Millisecond, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, c runners.Call) (runners.Result, error) {
		switch c.Job.Identifier {
		case "stays":
			close(stays)
			<-ctx.Done()
			return runners.Result{}, ctx.Err()
		case "refused":
			return runners.Result{}, &runners.PolicyError{Service: "a", Rule: "allowed_domains", Offered: "evil.example"}
		}
		return runners.Result{}, errors.New("no luck")
	}}}})
	<-stays
	w.until("two failed", func() bool { return w.count("status = 'failed'") == 2 })
	a.ledger.pause(true) // a claim under way at the stop could take what is handed back, to hand it back again
	w.until("no claim is under way", func() bool { return !a.ledger.exchanging() })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s := a.Stats()
	if len(s.Totals) != 1 {
		t.Fatalf("totals: %+v", s.Totals)
	}
	got := s.Totals[0]
	if got.Failed != 2 || got.DeadLetters != 2 || got.Violations != 1 || got.Rules["allowed_domains"] != 1 || got.HandedBack != 1 || got.Completed != 0 {
		t.Errorf("%d failed, %d dead, %d violations %v, %d handed back, %d completed", got.Failed, got.DeadLetters, got.Violations, got.Rules, got.HandedBack, got.Completed)
	}
	if w.count("identifier = 'stays' AND status = 'pending' AND attempts = 0") != 1 {
		t.Error("the job that was handed back does not wait as before")
	}
}

// What totals cost beside the figures of the minute that are counted anyway:
// a hundred operations, and an exchange that takes the figures along every
// thousand jobs.
func BenchmarkCountingAJob(b *testing.B) {
	const operations = 100
	for _, c := range []struct {
		name  string
		drain func(*ledger)
	}{
		{"figures alone", func(l *ledger) { l.metrics.drain() }},
		{"figures and totals", func(l *ledger) { l.drainTally() }},
	} {
		b.Run(c.name, func(b *testing.B) {
			services := make([]string, operations)
			for i := range services {
				services[i] = fmt.Sprintf("service_%d:http", i)
			}
			l := tallying(b, services...)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.tallyOne(l.lanes[i%operations].service, "run", time.Millisecond)
				if i%1000 == 999 {
					c.drain(l)
				}
			}
		})
	}
}

func BenchmarkReadingTheTotals(b *testing.B) {
	services := make([]string, 100)
	for i := range services {
		services[i] = fmt.Sprintf("service_%d:http", i)
	}
	l := tallying(b, services...)
	for _, ln := range l.lanes {
		l.tallyOne(ln.service, "run", time.Millisecond)
	}
	l.drainTally()
	for b.Loop() {
		l.allTotals()
	}
}
