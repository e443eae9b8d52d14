package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/jobs"
)

// ending is how an attempt ended, as metrics, spans and the log call it.
type ending string

const (
	completed  ending = "completed"
	failed     ending = "failed"
	cancelled  ending = "cancelled"
	handedBack ending = "handed_back"
	leaseLost  ending = "lease_lost"
)

// endOf tells what the attempt's error means: it counts as the attempt's own
// unless the attempt was stopped from outside.
func endOf(ctx context.Context, err error) ending {
	if err == nil {
		return completed
	}
	if ctx.Err() != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errCancelled):
			return cancelled
		case errors.Is(cause, errDrained):
			return handedBack
		case errors.Is(cause, errLeaseGone):
			return leaseLost
		}
	}
	if busyOf(err) != nil { // it was not started
		return handedBack
	}
	return failed
}

// begin makes the attempt visible: a span, where spans are wanted, and a line
// of the debug log. The runner gets the context that it returns.
func (a *Agent) begin(ctx context.Context, at *attempt) (context.Context, trace.Span) {
	ctx, span := beginSpan(ctx, a.opt.Tracer, at)
	if a.log.Enabled(ctx, slog.LevelDebug) {
		a.log.LogAttrs(ctx, slog.LevelDebug, "attempt started", append(attemptAttrs(at.job), traceAttr(span)...)...)
	}
	return ctx, span
}

// end says how the attempt ended.
func (a *Agent) end(span trace.Span, at *attempt, end ending, err error, took time.Duration) {
	if ctx := context.Background(); a.log.Enabled(ctx, slog.LevelDebug) {
		attrs := append(attemptAttrs(at.job), slog.String("outcome", string(end)), slog.Duration("took", took))
		if err != nil {
			attrs = append(attrs, slog.String("error", shortened(err.Error())))
		}
		a.log.LogAttrs(ctx, slog.LevelDebug, "attempt ended", append(attrs, traceAttr(span)...)...)
	}
	endSpan(span, end, err)
}

// tellFailure says what failed and why: a job that is lost until somebody acts
// is a warning, one that will be tried again is not. The text is the one that
// the row gets, which holds no secrets.
func (a *Agent) tellFailure(at *attempt, f *jobs.Failure, dead bool) {
	leftOut, ok := a.failures.admit(at.lane, time.Now())
	if !ok {
		return
	}
	attrs := append(attemptAttrs(at.job), slog.String("error", shortened(f.Error)))
	if f.Violation != "" {
		attrs = append(attrs, slog.String("rule", f.Violation))
	}
	level, message := slog.LevelWarn, "job failed for good"
	if !dead {
		level, message = slog.LevelInfo, "attempt failed, the job is tried again"
		attrs = append(attrs, slog.Duration("again_in", f.RetryIn.Round(time.Millisecond)))
	}
	if leftOut > 0 {
		attrs = append(attrs, slog.Int("failures_not_logged", leftOut))
	}
	a.log.LogAttrs(context.Background(), level, message, attrs...)
}

func attemptAttrs(j *jobs.Job) []slog.Attr {
	return []slog.Attr{slog.String("job", j.ID.String()), slog.String("service", j.Service),
		slog.String("operation", j.Operation), slog.Int("attempt", j.Attempt)}
}

// shortened keeps a line of the log a line.
func shortened(message string) string {
	const most = 500
	if len(message) <= most {
		return message
	}
	cut := most
	for cut > 0 && message[cut]&0xc0 == 0x80 { // in the middle of a character
		cut--
	}
	return message[:cut] + "…"
}

// failureLines and failureWindow bound what one service may write into the
// log: one that is down must not bury the others. Metrics count them all.
const (
	failureLines  = 10
	failureWindow = time.Minute
)

type failureLog struct {
	mu    sync.Mutex
	lanes map[*lane]*failureCount
}

type failureCount struct {
	since         time.Time
	said, leftOut int
}

// admit tells whether the service may write another line now, and how many of
// its failures were left out since the last one.
func (f *failureLog) admit(ln *lane, now time.Time) (leftOut int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lanes == nil {
		f.lanes = map[*lane]*failureCount{}
	}
	c := f.lanes[ln]
	if c == nil {
		c = &failureCount{since: now}
		f.lanes[ln] = c
	}
	if now.Sub(c.since) >= failureWindow {
		c.since, c.said = now, 0
	}
	if c.said >= failureLines {
		c.leftOut++
		return 0, false
	}
	c.said++
	leftOut, c.leftOut = c.leftOut, 0
	return leftOut, true
}
