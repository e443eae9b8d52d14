package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/specql/specql-ops/jobs"
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
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a.ledger.start(at, cancel)
	if a.halted() { // the stop came between claim and start
		cancel(errDrained)
	}
	began := time.Now()
	result, err := a.call(ctx, at)
	took := time.Since(began)
	result.Usage.DurationSeconds = took.Seconds()

	if ctx.Err() != nil && err != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errCancelled):
			a.ledger.finish(at, outcome{}, nil)
			return
		case errors.Is(cause, errDrained):
			a.ledger.finish(at, outcome{handBack: true}, nil)
			return
		case errors.Is(cause, errLeaseGone):
			a.ledger.finish(at, outcome{}, nil)
			return
		}
	}
	a.settle(at, result, err, took)
}

// settle turns the attempt's outcome into the row's new state.
func (a *Agent) settle(at *attempt, result runners.Result, err error, took time.Duration) {
	job := at.job
	rule, offered, violated := runners.Violation(err)
	end := jobs.Completion{Job: job, Duration: took}
	end.Usage, _ = json.Marshal(result.Usage)
	end.Security = security(result.Security, rule, offered, violated)
	output, storeErr := storable(result.Output)
	end.Output = output
	if err == nil && storeErr != nil {
		err = &runners.FinalError{Err: storeErr}
	}
	tally := func(m metrics) {
		count(m.at(at.lane.typ, job.Service, job.Operation), err == nil, violated,
			job.StartedAt.Sub(job.CreatedAt), took, result.Usage)
	}
	if err == nil {
		a.ledger.finish(at, outcome{completed: &end, circuit: well}, tally)
		return
	}
	failure := jobs.Failure{Completion: end, Error: printable(err.Error()), Violation: rule,
		Final: !runners.Retryable(err) || a.spent(at), RetryIn: a.backoff(job.Attempt, err)}
	if !failure.Final && job.Attempt < job.MaxAttempts {
		a.choreIn(failure.RetryIn)
	}
	o := outcome{failed: &failure}
	if runners.Retryable(err) && !violated { // else it says something of the job, not of its service
		o.circuit = failing
	}
	a.ledger.finish(at, o, tally)
}

// call resolves the job in its snapshot and runs it, a panic of the runner
// being a failure like any other.
func (a *Agent) call(ctx context.Context, at *attempt) (result runners.Result, err error) {
	job := at.job
	service, ok := at.config.Service(job.Service)
	if !ok {
		return result, &runners.ConfigError{Service: job.Service, Problem: "the registry does not have it"}
	}
	op, ok := service.Operation(job.Operation)
	if !ok {
		return result, &runners.ConfigError{Service: service.Name,
			Problem: fmt.Sprintf("it has no operation %q: add it to the service's operations in the registry", job.Operation)}
	}
	runner := a.runners[service.ExecutionType]
	timeout := service.TimeoutFor(op, job.TimeoutSeconds)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("runner panicked", "service", service.Name, "job", job.ID.String(), "panic", p, "stack", string(debug.Stack()))
			err = &runners.FinalError{Err: fmt.Errorf("the %s runner panicked: %v", service.ExecutionType, p)}
		}
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("timed out after %s: %w", timeout, err)
		}
	}()
	return runner.Run(ctx, runners.Call{Job: job, Service: service, Operation: op, Timeout: timeout})
}

// spent tells whether the operation's max_retries is used up.
func (a *Agent) spent(at *attempt) bool {
	service, ok := at.config.Service(at.job.Service)
	if !ok {
		return true
	}
	op, ok := service.Operation(at.job.Operation)
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
	all := make(map[string]any, len(held)+1)
	for k, v := range held {
		all[k] = v
	}
	if violated {
		all["violation"] = map[string]string{"rule": rule, "offered": printable(offered)}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil
	}
	return raw
}
