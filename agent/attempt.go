package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Why an attempt is stopped before its own end.
var (
	errCancelled = errors.New("cancelled by an operator")
	errDrained   = errors.New("handed back: the agent is stopping")
	errLeaseGone = errors.New("the agent lost its lease")
)

// run makes one attempt and settles it with the ledger.
func (a *Agent) run(at *attempt) {
	task, err := at.resolve()
	began := time.Now()
	at.stoppable.deadline = began.Add(task.Timeout)
	defer at.stoppable.release()
	if a.halted() { // the stop came before the ledger had the attempt
		at.stoppable.end(errDrained)
	}
	ctx, span := a.begin(&at.stoppable, at)
	if err == nil {
		err = at.stoppable.Err() // what was stopped by now does not begin
	}
	var result runners.Result
	if err == nil {
		task.Log, task.ReservedUSD, task.Again = &at.log, at.reserved, a.again(task.Service)
		result, err = a.call(ctx, at.config, task)
	} else if at.reserved > 0 {
		result.Usage.CostUSD = new(float64) // nothing was started
	}
	a.logs.end(at)
	took := time.Since(began)
	result.Usage.DurationSeconds = took.Seconds()
	end := endOf(ctx, err)
	a.end(span, at, end, err, took)

	switch end {
	case completed, failed:
		a.settle(at, result, err, took)
	default:
		a.ledger.finish(at, outcome{handBack: end == handedBack, cost: result.Usage.CostUSD, busy: busyOf(err)}, func(l *ledger) { l.countStop(at, end) })
	}
}

// settle turns the attempt's outcome into the row's new state.
func (a *Agent) settle(at *attempt, result runners.Result, err error, took time.Duration) {
	job := at.job
	rule, offered, violated := runners.Violation(err)
	end := jobs.Completion{Job: job, Duration: took}
	end.Usage = result.Usage.JSON()
	end.Security = security(result.Security, rule, offered, violated)
	end.Output = result.Output
	end.Log = at.kept(err != nil)
	dead := false
	tally := func(l *ledger) {
		count(l.metrics.at(at.lane.typ, job.Service, job.Operation), err == nil, violated,
			job.StartedAt.Sub(job.CreatedAt), took, result.Usage)
		if err != nil {
			l.countFailure(at, rule, dead)
		}
	}
	if err == nil {
		a.ledger.finish(at, outcome{completed: &end, circuit: well, cost: result.Usage.CostUSD}, tally)
		return
	}
	failure := jobs.Failure{Completion: end, Error: printable(err.Error()), Violation: rule,
		Final: !runners.Retryable(err) || at.spent(), RetryIn: a.backoff(job.Attempt, err)}
	dead = failure.Final || job.Attempt >= job.MaxAttempts
	if !dead {
		a.choreIn(failure.RetryIn)
	}
	a.tellFailure(at, &failure, dead)
	o := outcome{failed: &failure, cost: result.Usage.CostUSD}
	if runners.Retryable(err) && !violated { // else it says something of the job, not of its service
		o.circuit = failing
	}
	a.ledger.finish(at, o, tally)
}

// resolve finds what the job asks for in the snapshot that it was claimed with.
func (at *attempt) resolve() (runners.Call, error) {
	job, service := at.job, at.service
	if service == nil {
		return runners.Call{Job: job}, &runners.ConfigError{Service: job.Service, Problem: "the registry does not have it"}
	}
	op, ok := service.Operation(job.Operation)
	if !ok {
		return runners.Call{Job: job}, &runners.ConfigError{Service: service.Name,
			Problem: fmt.Sprintf("it has no operation %q: add it to the service's operations in the registry", job.Operation)}
	}
	return runners.Call{Job: job, Service: service, Operation: op, Timeout: service.TimeoutFor(op, job.TimeoutSeconds)}, nil
}

// call runs the job, a panic of the runner being a failure like any other.
func (a *Agent) call(ctx context.Context, config *registry.Config, task runners.Call) (result runners.Result, err error) {
	service := task.Service
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("runner panicked", "service", service.Name, "job", task.Job.ID.String(), "panic", p, "stack", string(debug.Stack()))
			err = &runners.FinalError{Err: fmt.Errorf("the %s runner panicked: %v", service.ExecutionType, p)}
		}
		// Runners that name the timeout themselves say also what it hit.
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && strings.HasSuffix(err.Error(), context.DeadlineExceeded.Error()) {
			err = fmt.Errorf("timed out after %s: %w", task.Timeout, err)
		}
	}()
	result, err = a.runChecked(ctx, config, task)
	output, unstorable := storable(result.Output)
	if result.Output = output; err == nil && unstorable != nil {
		err = &runners.FinalError{Err: unstorable}
	}
	return result, err
}

// spent tells whether the operation's max_retries is used up.
func (at *attempt) spent() bool {
	if at.service == nil {
		return true
	}
	op, ok := at.service.Operation(at.job.Operation)
	return ok && op.MaxRetries != nil && at.job.Attempt > *op.MaxRetries
}

// backoff is exponential with full jitter, so that jobs that failed together
// do not come back together; a service's own Retry-After is its floor.
func (a *Agent) backoff(attempt int, err error) time.Duration {
	ceiling := float64(a.opt.RetryBase) * math.Exp2(float64(min(attempt-1, 62)))
	wait := time.Duration(rand.Float64() * min(ceiling, float64(a.opt.RetryCap)))
	var later *runners.RetryAfterError
	if errors.As(err, &later) {
		wait = max(wait, min(later.After, 24*time.Hour))
	}
	return wait
}

// security is what is merged into security_context.
func security(held map[string]any, rule, offered string, violated bool) json.RawMessage {
	if held == nil && !violated {
		return nil
	}
	if violated {
		all := make(map[string]any, len(held)+1)
		maps.Copy(all, held)
		all["violation"] = map[string]string{"rule": rule, "offered": printable(offered)}
		held = all
	}
	raw, err := json.Marshal(held)
	if err != nil {
		return nil
	}
	return raw
}
