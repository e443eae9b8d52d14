package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// flushTime is how long the last spans may take to get away.
const flushTime = 5 * time.Second

// exportFaultsEvery bounds how often an unreachable collector is logged.
const exportFaultsEvery = time.Minute

// Tracing sends the attempts' spans to an OTLP collector. A nil one sends
// nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
	log      *slog.Logger
}

// NewTracing does what OpenTelemetry's own variables say: an endpoint
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) or
// OTEL_TRACES_EXPORTER=otlp switches spans on; OTEL_TRACES_EXPORTER=none and
// OTEL_SDK_DISABLED=true switch them off; protocol, headers, certificates,
// sampler, batches and resource attributes have theirs too. It returns nil when
// spans are off, and an error for a value that it does not know. It does not
// wait for the collector.
func NewTracing(ctx context.Context, getenv func(string) string, name, version string, log *slog.Logger) (*Tracing, error) {
	on, err := tracingWanted(getenv)
	if err != nil || !on {
		return nil, err
	}
	exporter, err := newExporter(ctx, getenv)
	if err != nil {
		return nil, fmt.Errorf("OpenTelemetry: %w", err)
	}
	described, err := resource.New(ctx, resource.WithHost(), resource.WithTelemetrySDK(),
		resource.WithAttributes(semconv.ServiceName("specql-agent"), semconv.ServiceVersion(version), semconv.ServiceInstanceID(name)),
		resource.WithFromEnv()) // which has the last word
	if err != nil {
		return nil, fmt.Errorf("OpenTelemetry: describe this agent: %w", err)
	}
	var said atomic.Int64
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { // the SDK's only way to tell
		now := time.Now().UnixNano()
		if last := said.Load(); now-last >= int64(exportFaultsEvery) && said.CompareAndSwap(last, now) {
			log.Warn("spans could not be sent", "error", err)
		}
	}))
	return newTracing(sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described)), log), nil
}

func newTracing(provider *sdktrace.TracerProvider, log *slog.Logger) *Tracing {
	return &Tracing{provider: provider, log: log}
}

func tracingWanted(getenv func(string) string) (bool, error) {
	if getenv("OTEL_SDK_DISABLED") == "true" {
		return false, nil
	}
	switch exporter := getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "none":
		return false, nil
	case "otlp":
		return true, nil
	case "":
		return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "", nil
	default:
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER: %q is not otlp or none", exporter)
	}
}

func newExporter(ctx context.Context, getenv func(string) string) (sdktrace.SpanExporter, error) {
	protocol := cmp.Or(getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), getenv("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf")
	switch protocol {
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	}
	return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL: %q is not grpc or http/protobuf", protocol)
}

// Tracer makes the spans; nil when none are wanted.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer("github.com/specql/specql-ops/agent")
}

// Close sends what is left, for at most five seconds.
func (t *Tracing) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.log.Warn("the last spans could not be sent", "error", err)
	}
}
