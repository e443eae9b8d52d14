package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// A job that was cancelled and put back at once may start again in an agent
// whose first attempt of it has not ended yet.
func TestAJobPutBackWhileItsCancelledAttemptEndsCanBeStoppedToo(t *testing.T) {
	w := newWorld(t)
	w.enqueue(1, "a")
	type run struct {
		ctx     context.Context
		release chan struct{}
	}
	runs := make(chan run, 2)
	a, _ := w.start(Options{Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, _ runners.Call) (runners.Result, error) {
		r := run{ctx, make(chan struct{})}
		runs <- r
		<-ctx.Done()
		<-r.release // it takes its time to end
		return runners.Result{}, ctx.Err()
	}}}})
	next := func() run {
		t.Helper()
		select {
		case r := <-runs:
			return r
		case <-w.ctx.Done():
			t.Fatal("no attempt starts")
			return run{}
		}
	}
	stopped := func(r run) {
		t.Helper()
		select {
		case <-r.ctx.Done():
			if cause := context.Cause(r.ctx); !errors.Is(cause, errCancelled) {
				t.Errorf("stopped because: %v", cause)
			}
		case <-w.ctx.Done():
			t.Fatal("the attempt is not stopped")
		}
	}
	first := next()
	w.exec("UPDATE jobs.tb_job_run SET status = 'cancelled'")
	stopped(first)
	w.exec("UPDATE jobs.tb_job_run SET status = 'pending', requeued_at = now()")
	second := next()
	if running, _ := a.ledger.state(); running != 2 {
		t.Errorf("%d attempts are known, want 2", running)
	}
	close(first.release)
	w.until("the first attempt has ended", func() bool { running, _ := a.ledger.state(); return running == 1 })
	w.exec("UPDATE jobs.tb_job_run SET status = 'cancelled'")
	stopped(second)
	close(second.release)
	w.until("none runs", func() bool { running, _ := a.ledger.state(); return running == 0 })
}
