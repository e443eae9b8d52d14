package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// journal is a log that tests read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) lines(with string) (lines []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.b.String()) {
		if strings.Contains(line, with) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (j *journal) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: level}))
}

// spans is an exporter in memory, with the tracer that fills it.
func spans(t *testing.T) (*tracetest.InMemoryExporter, trace.Tracer) {
	t.Helper()
	kept := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(kept))
	t.Cleanup(func() { provider.Shutdown(context.Background()) })
	return kept, provider.Tracer("test")
}

func attributes(s tracetest.SpanStub) map[attribute.Key]attribute.Value {
	m := map[attribute.Key]attribute.Value{}
	for _, kv := range s.Attributes {
		m[kv.Key] = kv.Value
	}
	return m
}

const (
	rowTrace  = "0af7651916cd43dd8448eb211c80319c"
	rowParent = "00-" + rowTrace + "-b7ad6b7169203331-01"
)

func TestEachAttemptIsASpanBelowTheRowsAndTheServiceGetsIt(t *testing.T) {
	w := newWorld(t)
	kept, tracer := spans(t)
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, correlation_id, input_data)
		VALUES ('one', 'a', 'run', 'order-17', jsonb_build_object('traceparent', $1::text))`, rowParent)
	var mu sync.Mutex
	var handedOn []trace.SpanContext
	w.start(Options{Tracer: tracer, Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, c runners.Call) (runners.Result, error) {
		mu.Lock()
		handedOn = append(handedOn, trace.SpanContextFromContext(ctx))
		mu.Unlock()
		if c.Job.Attempt == 1 {
			return runners.Result{}, errors.New("no luck")
		}
		return runners.Result{}, nil
	}}}})
	w.until("the second attempt's span", func() bool { return len(kept.GetSpans()) == 2 })
	for i, span := range kept.GetSpans() {
		if span.Name != "run a" || span.SpanKind != trace.SpanKindConsumer {
			t.Errorf("span %q of kind %s", span.Name, span.SpanKind)
		}
		if span.SpanContext.TraceID().String() != rowTrace || span.Parent.SpanID().String() != "b7ad6b7169203331" || !span.Parent.IsRemote() {
			t.Errorf("span of trace %s below %s: the row's trace does not go on", span.SpanContext.TraceID(), span.Parent.SpanID())
		}
		if handedOn[i].SpanID() != span.SpanContext.SpanID() || handedOn[i].TraceID() != span.SpanContext.TraceID() {
			t.Errorf("the runner got %v, not the attempt's span", handedOn[i])
		}
		all := attributes(span)
		var id string
		w.scan(&id, "SELECT id FROM jobs.tb_job_run")
		want := map[attribute.Key]any{"messaging.system": "specql", "messaging.operation.type": "process", "messaging.destination.name": "a",
			"messaging.message.id": id, "messaging.message.conversation_id": "order-17", "specql.operation": "run",
			"specql.execution_type": "http", "specql.attempt": int64(i + 1), "specql.max_attempts": int64(3)}
		for key, value := range want {
			if got := all[key].AsInterface(); got != value {
				t.Errorf("attempt %d: %s is %v, want %v", i+1, key, got, value)
			}
		}
		if wait := all["specql.wait_seconds"].AsFloat64(); wait < 0 || wait > 60 {
			t.Errorf("attempt %d waited %v s", i+1, wait)
		}
	}
	first, second := kept.GetSpans()[0], kept.GetSpans()[1]
	if first.Status.Code != codes.Error || first.Status.Description != "no luck" || attributes(first)["error.type"].AsString() != "_OTHER" {
		t.Errorf("the failed attempt: %+v", first.Status)
	}
	if second.Status.Code == codes.Error || attributes(second)["specql.outcome"].AsString() != "completed" {
		t.Errorf("the second attempt: %+v", second.Status)
	}
}

func TestBeingStoppedIsNoFaultOfTheSpan(t *testing.T) {
	kept, tracer := spans(t)
	_, span := beginSpan(t.Context(), tracer, anAttempt(`{}`))
	endSpan(span, cancelled, context.Canceled)
	if s := kept.GetSpans()[0]; s.Status.Code == codes.Error || attributes(s)["specql.outcome"].AsString() != "cancelled" {
		t.Errorf("%+v", s)
	}
}

func TestErrorsOfSpansAreFewWords(t *testing.T) {
	for want, err := range map[string]error{
		"allowed_domains": &runners.PolicyError{Rule: "allowed_domains", Offered: "evil.example"},
		"memory_mb":       fmt.Errorf("wrapped: %w", &runners.LimitError{Limit: "memory_mb"}),
		"configuration":   &runners.ConfigError{Service: "a", Problem: "odd"},
		"timeout":         fmt.Errorf("timed out after 1s: %w", context.DeadlineExceeded),
		"_OTHER":          errors.New("17 is not 18"),
	} {
		if got := errorType(err).Value.AsString(); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}

func TestOnlyATraceparentThatIsOneIsTaken(t *testing.T) {
	for input, want := range map[string]bool{
		`{"traceparent": "` + rowParent + `"}`:                             true,
		`{"traceparent": "` + rowParent + `", "tracestate": "vendor=1"}`:   true,
		`{"traceparent": "` + rowParent + `", "tracestate": "b@d=\u0001"}`: true, // the state alone is dropped
		`{}`:                              false,
		`null`:                            false,
		``:                                false,
		`["traceparent"]`:                 false,
		`{"traceparent": 17}`:             false,
		`{"traceparent": "00-0-0-01"}`:    false,
		`{"traceparent": "x\r\nEvil: 1"}`: false,
		`{"deeper": {"traceparent": "` + rowParent + `"}}`: false,
	} {
		carried := trace.SpanContextFromContext(parentOf(t.Context(), json.RawMessage(input)))
		if carried.IsValid() != want {
			t.Errorf("%s: a trace is %v, want %v", input, carried.IsValid(), want)
		}
	}
}

func TestWithoutATracerTheRowsTraceIsHandedOn(t *testing.T) {
	ctx, span := beginSpan(t.Context(), nil, anAttempt(`{"traceparent": "`+rowParent+`"}`))
	if span != nil || trace.SpanContextFromContext(ctx).TraceID().String() != rowTrace {
		t.Errorf("the runner gets %v", trace.SpanContextFromContext(ctx))
	}
}

func TestWatchingAnAttemptCostsNoAllocationWhereNobodyWatches(t *testing.T) {
	a := &Agent{log: (&journal{}).logger(slog.LevelInfo)}
	at, ctx := anAttempt(`{"n": 1, "text": "trace"}`), t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, span := a.begin(ctx, at)
		a.end(span, at, endOf(ctx, nil), nil, time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations an attempt", n)
	}
}

func TestTheDebugLogNamesJobServiceAttemptAndTrace(t *testing.T) {
	w := newWorld(t)
	_, tracer := spans(t)
	j := &journal{}
	w.enqueue(1, "a")
	w.start(Options{Tracer: tracer, Log: j.logger(slog.LevelDebug), Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	w.until("both lines", func() bool { return len(j.lines("attempt ended")) == 1 })
	var id string
	w.scan(&id, "SELECT id FROM jobs.tb_job_run")
	for _, line := range append(j.lines("attempt started"), j.lines("attempt ended")...) {
		if !regexpMatch(`job=`+id+` service=a operation=run attempt=1 .*trace_id=[0-9a-f]{32}`, line) {
			t.Errorf("the log says %s", line)
		}
	}
}

func TestFailuresAreLoggedByTheirWeight(t *testing.T) {
	w := newWorld(t)
	j := &journal{}
	w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, max_attempts) VALUES ('one', 'a', 'run', 2)`)
	w.start(Options{Log: j.logger(slog.LevelInfo), Config: parse(t, "a:http"), Runners: []runners.Runner{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) {
		return runners.Result{}, errors.New("the service said no")
	}}}})
	w.until("the dead letter", func() bool { return len(j.lines("failed for good")) == 1 })
	if lines := j.lines("tried again"); len(lines) != 1 || !regexpMatch(`level=INFO .*service=a operation=run attempt=1 error="the service said no" again_in=`, lines[0]) {
		t.Errorf("the first failure: %s", lines)
	}
	if line := j.lines("failed for good")[0]; !regexpMatch(`level=WARN .*service=a operation=run attempt=2 error="the service said no"`, line) {
		t.Errorf("the last failure: %s", line)
	}
}

func TestAServiceThatIsDownDoesNotBuryTheLog(t *testing.T) {
	var f failureLog
	down, other := &lane{service: "down"}, &lane{service: "other"}
	start := time.Now()
	said := 0
	for i := range 5000 {
		if _, ok := f.admit(down, start.Add(time.Duration(i)*time.Millisecond)); ok {
			said++
		}
	}
	if said != failureLines {
		t.Errorf("%d lines for 5000 failures", said)
	}
	if _, ok := f.admit(other, start); !ok {
		t.Error("another service's failure is not logged")
	}
	if leftOut, ok := f.admit(down, start.Add(failureWindow)); !ok || leftOut != 5000-failureLines {
		t.Errorf("a minute later: logged %v, %d left out", ok, leftOut)
	}
	if leftOut, ok := f.admit(down, start.Add(failureWindow)); !ok || leftOut != 0 {
		t.Errorf("what was left out is said once: %d", leftOut)
	}
}

func TestLongErrorsAreCutBetweenCharacters(t *testing.T) {
	if got := shortened(strings.Repeat("é", 400)); got != strings.Repeat("é", 250)+"…" {
		t.Errorf("%d bytes: %q", len(got), got[len(got)-8:])
	}
	if got := shortened("x" + strings.Repeat("é", 400)); got != "x"+strings.Repeat("é", 249)+"…" {
		t.Errorf("%d bytes: %q", len(got), got[len(got)-8:])
	}
}

// anAttempt is one that no agent runs.
func anAttempt(input string) *attempt {
	now := time.Now()
	return &attempt{lane: &lane{service: "a", typ: jobs.HTTP}, job: &jobs.Job{ID: jobs.NewID(), Service: "a", Operation: "run",
		Input: json.RawMessage(input), Attempt: 1, MaxAttempts: 3, CreatedAt: now, StartedAt: now}}
}

func BenchmarkWatchingAnAttemptThatNobodyWatches(b *testing.B) {
	a := &Agent{log: (&journal{}).logger(slog.LevelInfo)}
	at, ctx := anAttempt(`{"order": 17, "customer": "acme", "lines": [{"sku": "a-1", "count": 3}, {"sku": "b-2", "count": 1}]}`), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, span := a.begin(ctx, at)
		a.end(span, at, endOf(ctx, nil), nil, time.Millisecond)
	}
}

func BenchmarkWatchingAnAttemptWithASpan(b *testing.B) {
	a := &Agent{log: (&journal{}).logger(slog.LevelInfo)}
	a.opt.Tracer = sdktrace.NewTracerProvider().Tracer("bench")
	at, ctx := anAttempt(`{"traceparent": "`+rowParent+`"}`), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, span := a.begin(ctx, at)
		a.end(span, at, endOf(ctx, nil), nil, time.Millisecond)
	}
}
