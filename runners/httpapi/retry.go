package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specql/specql-ops/runners"
)

const (
	maxBackoff = 30 * time.Second
	// maxRetryAfter bounds what a service may ask for, so that a wrong date
	// does not park a job for years.
	maxRetryAfter = 24 * time.Hour
)

// defaultRetryStatuses are retry_status_codes where the registry gives none.
var defaultRetryStatuses = []int{
	http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
	http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

func (a *attempt) retryStatuses() []int {
	if codes := a.call.Service.RunnerConfig.RetryConfig.RetryStatusCodes; len(codes) > 0 {
		return codes
	}
	return defaultRetryStatuses
}

// runWithRetries tries until the service succeeds, or another try is not
// allowed, not safe, or would begin after the deadline.
func (a *attempt) runWithRetries(ctx context.Context) error {
	trace(ctx, a.header)
	for try := 0; ; try++ {
		f := a.try(ctx)
		if f != nil && f.status == http.StatusUnauthorized && a.grant != nil {
			f = a.tryWithNewToken(ctx, f)
		}
		if f == nil {
			return nil
		}
		wait, not := a.nextTry(ctx, try, f)
		if not != "" {
			if try < a.call.Service.RunnerConfig.RetryConfig.MaxRetries && !f.lasting {
				a.call.Log.Note("not tried again within this attempt: " + not)
			}
			if f.retryAfter >= 0 && !f.lasting {
				return &runners.RetryAfterError{Err: f.err, After: f.retryAfter}
			}
			return f.err
		}
		a.runner.opts.Log.LogAttrs(ctx, slog.LevelDebug, "http try failed, trying again",
			slog.String("service", a.call.Service.Name), slog.String("job", a.call.Job.ID.String()),
			slog.Int("try", try+1), slog.Duration("wait", wait), slog.String("error", f.err.Error()))
		a.call.Log.Note("next try in " + string(appendDuration(nil, wait)))
		if err := a.runner.opts.Sleep(ctx, wait); err != nil {
			return a.ended(err)
		}
		if opens, not := a.again(ctx); not != "" {
			a.call.Log.Note("not tried again within this attempt: " + not)
			if opens > 0 {
				return &runners.RetryAfterError{Err: f.err, After: opens}
			}
			return f.err
		}
		a.result.Output = nil // the failed try's
	}
}

// again asks whether the service's limits have room for one more request. Where
// not is not empty, it gives the reason why they have not, and opens when they
// will; 0: nobody knows.
func (a *attempt) again(ctx context.Context) (opens time.Duration, not string) {
	if a.call.Again == nil {
		return 0, ""
	}
	opens, err := a.call.Again(ctx)
	switch {
	case err != nil:
		return 0, "whether the service's rate limit has room cannot be known: " + err.Error()
	case opens > 0:
		return opens, "the service's rate limit is used up, next in " + string(appendDuration(nil, opens))
	}
	return 0, ""
}

// tryWithNewToken tries once more where a service refused a token that had been
// kept: it may have been revoked, and a refused request was not acted upon. Where
// the service's limits have no room now, a later attempt brings the new token.
func (a *attempt) tryWithNewToken(ctx context.Context, refused *failure) *failure {
	if a.renewed {
		return refused
	}
	a.renewed = true
	a.grant.drop(ctx, a.token)
	if opens, not := a.again(ctx); not != "" {
		a.call.Log.Note("not tried again with a new token: " + not)
		err := refused.err
		if final := (*runners.FinalError)(nil); errors.As(err, &final) {
			err = final.Err
		}
		if opens > 0 {
			err = &runners.RetryAfterError{Err: err, After: opens}
		}
		return &failure{err: err, status: refused.status, reached: true, lasting: true, retryAfter: -1}
	}
	a.result.Output = nil
	return a.try(ctx)
}

// nextTry decides whether to try again within this attempt: after wait where
// not is empty, else not gives the reason.
func (a *attempt) nextTry(ctx context.Context, try int, f *failure) (wait time.Duration, not string) {
	config := a.call.Service.RunnerConfig.RetryConfig
	switch {
	case f.lasting:
		return 0, "it would fare no better"
	case try >= config.MaxRetries:
		return 0, "retry_config.max_retries is reached"
	case f.reached && !a.safe:
		return 0, "a " + a.method + " without an idempotency_key is not safe to repeat"
	case f.status != 0 && !slices.Contains(a.retryStatuses(), f.status):
		return 0, "status " + strconv.Itoa(f.status) + " is not in retry_config.retry_status_codes"
	}
	wait = f.retryAfter
	if wait < 0 {
		wait = backoff(a.runner.opts.RetryBase, config.BackoffFactor, try, a.runner.opts.Jitter())
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return 0, "the wait of " + string(appendDuration(nil, wait)) + " would end after the attempt's timeout"
	}
	return wait, ""
}

// backoff is exponential with full jitter: anything up to base × factor^try,
// and up to 30 s at most ("Exponential Backoff And Jitter", AWS Architecture
// Blog, 2015). A factor of 0 means 2.
func backoff(base time.Duration, factor float64, try int, jitter float64) time.Duration {
	if factor <= 0 {
		factor = 2
	}
	ceiling := min(float64(base)*math.Pow(factor, float64(try)), float64(maxBackoff))
	return time.Duration(ceiling * jitter)
}

// retryAfter reads the header Retry-After, seconds or a date (RFC 9110,
// section 10.2.3); negative when it says nothing that can be read.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return -1
	}
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return -1
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}
