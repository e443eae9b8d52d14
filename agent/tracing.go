package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/runners"
)

// A job's trace goes on where its row brings one: input_data.traceparent, and
// input_data.tracestate beside it, as W3C Trace Context writes them. The
// runners hand the attempt's span on to the service; without a tracer they
// hand on what the row brought.

// parentOf adds the row's trace to ctx. A row without one, the usual case,
// costs a search for the key.
func parentOf(ctx context.Context, input json.RawMessage) context.Context {
	if !bytes.Contains(input, []byte(`traceparent"`)) {
		return ctx
	}
	var carried struct{ Traceparent, Tracestate string }
	if json.Unmarshal(input, &carried) != nil {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": carried.Traceparent, "tracestate": carried.Tracestate})
}

// beginSpan starts the attempt's span, below the one that the row brings.
// Without a tracer the span records nothing.
func beginSpan(ctx context.Context, tracer trace.Tracer, at *attempt) (context.Context, trace.Span) {
	ctx = parentOf(ctx, at.job.Input)
	if tracer == nil {
		return ctx, nil
	}
	j := at.job
	// https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
	attrs := []attribute.KeyValue{
		semconv.MessagingSystemKey.String("specql"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingOperationName("run"),
		semconv.MessagingDestinationName(j.Service),
		semconv.MessagingMessageID(j.ID.String()),
		attribute.String("specql.service", j.Service),
		attribute.String("specql.operation", j.Operation),
		attribute.String("specql.execution_type", string(at.lane.typ)),
		attribute.Int("specql.attempt", j.Attempt),
		attribute.Int("specql.max_attempts", j.MaxAttempts),
		attribute.Float64("specql.wait_seconds", max(0, j.StartedAt.Sub(j.CreatedAt).Seconds())),
	}
	if j.CorrelationID != "" {
		attrs = append(attrs, semconv.MessagingMessageConversationID(j.CorrelationID))
	}
	return tracer.Start(ctx, "run "+j.Service, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attrs...))
}

// endSpan says how the attempt ended. Being stopped from outside is no fault
// of the attempt's.
func endSpan(span trace.Span, end ending, err error) {
	if span == nil {
		return
	}
	span.SetAttributes(attribute.String("specql.outcome", string(end)))
	if end == failed {
		span.SetAttributes(errorType(err))
		span.SetStatus(codes.Error, shortened(printable(err.Error())))
	}
	span.End()
}

// errorType is one of few words, so that spans can be counted by it.
func errorType(err error) attribute.KeyValue {
	var config *runners.ConfigError
	rule, _, violation := runners.Violation(err)
	switch {
	case violation:
		return semconv.ErrorTypeKey.String(rule)
	case errors.As(err, &config):
		return semconv.ErrorTypeKey.String("configuration")
	case errors.Is(err, context.DeadlineExceeded):
		return semconv.ErrorTypeKey.String("timeout")
	}
	return semconv.ErrorTypeOther
}

// traceAttr names the span in the log, for whoever looks for the one by the other.
func traceAttr(span trace.Span) []slog.Attr {
	if span == nil || !span.SpanContext().IsValid() {
		return nil
	}
	return []slog.Attr{slog.String("trace_id", span.SpanContext().TraceID().String())}
}
