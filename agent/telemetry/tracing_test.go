package telemetry

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

func TestOpenTelemetrysOwnVariablesSwitchSpansOn(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		on   bool
		says string
	}{
		{nil, false, ""},
		{map[string]string{"OTEL_SERVICE_NAME": "x"}, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, true, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, false, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, false, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false, `"zipkin" is not otlp or none`},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, false, `"http/json" is not grpc or http/protobuf`},
	} {
		tracing, err := NewTracing(t.Context(), func(name string) string { return c.env[name] }, "one", "1", discard)
		if (tracing != nil) != c.on || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: on is %v, %v", c.env, tracing != nil, err)
		}
		if (tracing.Tracer() != nil) != c.on {
			t.Errorf("%v: there is a tracer: %v", c.env, !c.on)
		}
		tracing.Close()
	}
}

// received is what a collector got.
type received struct {
	collector.UnimplementedTraceServiceServer
	requests chan *collector.ExportTraceServiceRequest
}

func (r received) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.requests <- request
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP is the same over OTLP/HTTP.
func (r received) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	got := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, got)
	}
	if err != nil || request.URL.Path != "/v1/traces" {
		http.Error(w, "not a trace", http.StatusBadRequest)
		return
	}
	r.requests <- got
}

func TestSpansOfRealJobsReachACollector(t *testing.T) {
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			got := received{requests: make(chan *collector.ExportTraceServiceRequest, 10)}
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collect(t, protocol, got))
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000") // Close alone sends
			tracing, err := NewTracing(t.Context(), os.Getenv, "one", "1.2.3", discard)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t)
			handedOn := make(chan trace.SpanContext, 1)
			a := w.start(agent.Options{Config: parse(t, "shop:http"), Tracer: tracing.Tracer(), Runners: []runners.Runner{fake{jobs.HTTP, func(ctx context.Context, _ runners.Call) (runners.Result, error) {
				handedOn <- trace.SpanContextFromContext(ctx)
				return runners.Result{}, nil
			}}}})
			w.wait(1, "shop")
			w.until("the job is over", func() bool { s := a.Stats(); return len(s.Totals) == 1 && s.Unrecorded == 0 })
			tracing.Close()
			request := <-got.requests
			resource := request.ResourceSpans[0]
			for key, want := range map[string]string{"service.name": "specql-agent", "service.instance.id": "one", "service.version": "1.2.3", "deployment.environment.name": "test"} {
				if value := stringAttribute(resource.Resource.Attributes, key); value != want {
					t.Errorf("%s is %q, want %q", key, value, want)
				}
			}
			span := resource.ScopeSpans[0].Spans[0]
			sent := <-handedOn
			if span.Name != "run shop" || span.Kind != tracepb.Span_SPAN_KIND_CONSUMER || stringAttribute(span.Attributes, "specql.outcome") != "completed" {
				t.Errorf("span: %s", span)
			}
			if id := sent.SpanID(); !bytes.Equal(span.SpanId, id[:]) {
				t.Errorf("the runner got span %s, the collector %x", id, span.SpanId)
			}
		})
	}
}

// collect starts a collector and returns its endpoint.
func collect(t *testing.T, protocol string, to received) string {
	t.Helper()
	if protocol != "grpc" {
		server := httptest.NewServer(to)
		t.Cleanup(server.Close)
		return server.URL
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, to)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return "http://" + l.Addr().String()
}

func stringAttribute[A interface {
	GetKey() string
	GetValue() V
}, V interface{ GetStringValue() string }](attributes []A, key string) string {
	for _, a := range attributes {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

func TestTheLastSpansDoNotHoldUpTheEnd(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+silent.Addr().String())
	var said journal
	tracing, err := NewTracing(t.Context(), os.Getenv, "one", "1", slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Tracer().Start(t.Context(), "one")
	span.End()
	began := time.Now()
	tracing.Close()
	if took := time.Since(began); took > 2*flushTime {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(said.String(), "the last spans could not be sent") {
		t.Errorf("nothing is said: %s", said.String())
	}
}
