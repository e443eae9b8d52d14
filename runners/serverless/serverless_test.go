package serverless_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/internal/lambdadev"
	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/serverless"
)

func TestMain(m *testing.M) {
	lambdatest.Main()
	os.Exit(m.Run())
}

func newRunner(t *testing.T, opts serverless.Options) *serverless.Runner {
	t.Helper()
	r := serverless.New(opts)
	t.Cleanup(r.Close)
	return r
}

func newCall(endpoint string, e lambdatest.Event) runners.Call {
	s := &registry.Service{Name: "resizer", Type: "function", Category: "media", ExecutionType: jobs.Serverless,
		RunnerConfig: registry.RunnerConfig{Provider: "aws", FunctionName: "probe", Region: "us-east-1", EndpointURL: endpoint},
		Operations:   []registry.Operation{{Name: "run"}}}
	return runners.Call{Service: s, Operation: &s.Operations[0], Timeout: 30 * time.Second,
		Job: &jobs.Job{ID: jobs.NewID(), Identifier: "order-17", Service: s.Name, Operation: "run", Attempt: 1, MaxAttempts: 3, Input: lambdatest.Payload(e)}}
}

// world is an endpoint with the function probe, 256 MB and 25 seconds, and
// counts of what it was asked.
type world struct {
	t      *testing.T
	dev    *lambdadev.Server
	url    string
	client *lambda.Client

	mu       sync.Mutex
	requests map[string]int // by the last part of the path
	keys     map[string]bool
	secret   bool // configurations are shown to nobody
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	w := &world{t: t, requests: map[string]int{}, keys: map[string]bool{}}
	w.dev = lambdatest.Start(t, lambdadev.Options{})
	front := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.requests[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]++
		_, key, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ = strings.Cut(key, "/")
		w.keys[key+" "+r.Header.Get("X-Amz-Security-Token")] = true
		refused := w.secret && strings.HasSuffix(r.URL.Path, "/configuration")
		w.mu.Unlock()
		if refused {
			out.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
			out.WriteHeader(http.StatusForbidden)
			io.WriteString(out, `{"Message": "not authorized to perform: lambda:GetFunctionConfiguration"}`)
			return
		}
		w.dev.ServeHTTP(out, r)
	}))
	t.Cleanup(front.Close)
	w.url, w.client = front.URL, lambdatest.Client(w.dev.URL(), "us-east-1")
	lambdatest.Create(t, w.client, "probe", lambdatest.Zip(t), 256, 25)
	lambdatest.Create(t, w.client, "hasty", lambdatest.Zip(t), 256, 2)
	return w
}

func (w *world) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests[what]
}

// configure gives the function probe so much memory from now on.
func (w *world) configure(memoryMB int32) {
	w.t.Helper()
	if _, err := w.client.UpdateFunctionConfiguration(w.t.Context(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("probe"), MemorySize: &memoryMB}); err != nil {
		w.t.Fatal(err)
	}
}

// wantBusy runs a call that must be handed back without a start.
func (w *world) wantBusy(r runners.Runner, call runners.Call) {
	w.t.Helper()
	before := w.count("invocations")
	result, err := run(w.t, r, call)
	if busy := (*runners.BusyError)(nil); !errors.As(err, &busy) || w.count("invocations") != before {
		w.t.Errorf("%v after %d calls, want it handed back", err, w.count("invocations")-before)
	}
	if result.Usage.CostUSD == nil || *result.Usage.CostUSD != 0 {
		w.t.Errorf("what was not started costs %s", result.Usage.JSON())
	}
}

func run(t *testing.T, r runners.Runner, call runners.Call) (runners.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), call.Timeout)
	defer cancel()
	return r.Run(ctx, call)
}

func TestFunctionErrorsCarryTypeMessageAndTrace(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	result, err := run(t, r, newCall(w.url, lambdatest.Event{Do: lambdatest.Panic, Text: "the image is upside down"}))
	var failed *serverless.FunctionError
	if !errors.As(err, &failed) || failed.Type != "string" || failed.Message != "the image is upside down" || len(failed.Trace) == 0 {
		t.Fatalf("%#v", err)
	}
	if !strings.Contains(err.Error(), "function probe failed: string: the image is upside down\n\tat ") || !strings.Contains(err.Error(), ".go:") {
		t.Errorf("error %s", err)
	}
	if result.Usage.CostUSD == nil || *result.Usage.CostUSD <= 0 {
		t.Errorf("a failure costs %s", result.Usage.JSON())
	}
	for what, e := range map[string]lambdatest.Event{"timeout_seconds": {Do: lambdatest.Hang}, "memory_mb": {Do: lambdatest.Allocate, Bytes: 400 << 20}} {
		call := newCall(w.url, e)
		if e.Do == lambdatest.Hang {
			call.Service.RunnerConfig.FunctionName = "hasty"
		}
		_, err := run(t, r, call)
		var limit *runners.LimitError
		if !errors.As(err, &limit) || limit.Limit != what || !runners.Retryable(err) || !strings.HasPrefix(err.Error(), "Resource limit: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = run(t, r, newCall(w.url, lambdatest.Event{Do: lambdatest.Huge, Bytes: 7 << 20}))
	if rule, _, ok := runners.Violation(err); !ok || rule != "max_response_size" || runners.Retryable(err) {
		t.Errorf("too large an answer: %v", err)
	}
}

func TestThrottlingIsBusyAndNothingIsRetriedSilently(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	if _, err := w.client.PutFunctionConcurrency(t.Context(), &lambda.PutFunctionConcurrencyInput{FunctionName: aws.String("probe"), ReservedConcurrentExecutions: aws.Int32(0)}); err != nil {
		t.Fatal(err)
	}
	result, err := run(t, r, newCall(w.url, lambdatest.Event{}))
	var busy *runners.BusyError
	if !errors.As(err, &busy) || busy.After != time.Second || !strings.Contains(busy.Reason, "ReservedFunctionConcurrentInvocationLimitExceeded") {
		t.Fatalf("%v", err)
	}
	if result.Usage.CostUSD == nil || *result.Usage.CostUSD != 0 {
		t.Errorf("a throttled call costs %s", result.Usage.JSON())
	}
	if n := w.count("invocations"); n != 1 {
		t.Errorf("%d calls were sent, want one", n)
	}
	broken := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/invocations") {
			w.mu.Lock()
			w.requests["broken"]++
			w.mu.Unlock()
		}
		out.Header().Set("X-Amzn-Errortype", "ServiceException")
		out.WriteHeader(http.StatusInternalServerError)
		io.WriteString(out, `{"Type": "Service", "Message": "out of order"}`)
	}))
	defer broken.Close()
	result, err = run(t, r, newCall(broken.URL, lambdatest.Event{}))
	if err == nil || !runners.Retryable(err) || !strings.Contains(err.Error(), "out of order") || result.Usage.CostUSD != nil {
		t.Errorf("a fault of the service: %v, usage %s", err, result.Usage.JSON())
	}
	if n := w.count("broken"); n != 1 {
		t.Errorf("%d calls were sent after a fault of the service, want one", n)
	}
}

func TestRefusalsNameWhatToDo(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	for name, f := range map[string]struct {
		change func(*runners.Call)
		words  string
		sent   int
	}{
		"no function": {func(c *runners.Call) { c.Service.RunnerConfig.FunctionName = "nobody" }, "does not know function nobody in us-east-1", 1},
		"no alias":    {func(c *runners.Call) { c.Operation.Qualifier = "blue" }, "qualifier blue", 1},
		"too large":   {func(c *runners.Call) { c.Job.Input = []byte(`"` + strings.Repeat("x", 6<<20) + `"`) }, "Resource limit: max_request_size", 0},
		"row narrows": {func(c *runners.Call) { c.Job.SecurityContext = []byte(`{"allowed_regions": ["eu-west-1"]}`) }, "not allowed", 0},
		"gcp":         {func(c *runners.Call) { c.Service.RunnerConfig.Provider = "gcp" }, "not supported", 0},
		"long words":  {func(c *runners.Call) { c.Job.CorrelationID = strings.Repeat("x", 4000) }, "client context", 0},
	} {
		before := w.count("invocations")
		call := newCall(w.url, lambdatest.Event{})
		f.change(&call)
		result, err := run(t, r, call)
		if err == nil || !strings.Contains(err.Error(), f.words) || runners.Retryable(err) {
			t.Errorf("%s: %v", name, err)
		}
		if n := w.count("invocations") - before; n != f.sent {
			t.Errorf("%s: %d calls were sent, want %d", name, n, f.sent)
		}
		if result.Usage.CostUSD == nil || *result.Usage.CostUSD != 0 {
			t.Errorf("%s costs %s", name, result.Usage.JSON())
		}
	}
}

func TestDifferencesFromTheFunctionAreWarnings(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	r := newRunner(t, serverless.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	call := newCall(w.url, lambdatest.Event{})
	call.Service.RunnerConfig.MemoryMB, call.Service.RunnerConfig.Timeout = 1024, 300
	call.Log = runners.NewLog()
	for range 2 {
		result, err := run(t, r, call)
		if err != nil {
			t.Fatal(err)
		}
		security, _ := json.Marshal(result.Security)
		for _, words := range []string{"has 256 MB of memory, the registry says memory_mb: 1024", "has a timeout of 25 s, the registry says timeout: 300"} {
			if !strings.Contains(string(security), words) {
				t.Errorf("security record %s lacks %q", security, words)
			}
			if lines, _ := call.Log.Tail(); !strings.Contains(fmt.Sprint(lines), words) {
				t.Errorf("the attempt's log lacks %q", words)
			}
		}
	}
	if n := strings.Count(log.String(), "memory_mb: 1024"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	if n := w.count("configuration"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestRegionsAndRolesChangeWithoutARestart has two regions, and an STS that gives
// each role credentials of its own.
func TestRegionsAndRolesChangeWithoutARestart(t *testing.T) {
	w := newWorld(t)
	asked := make(chan string, 10)
	tokens := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		if r.PostForm.Get("Action") != "AssumeRole" || !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDTEST/") {
			http.Error(out, "no", http.StatusForbidden)
			return
		}
		role := r.PostForm.Get("RoleArn")
		asked <- role
		fmt.Fprintf(out, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><Arn>%[1]s</Arn><AssumedRoleId>X:specql</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>AKIDROLE</AccessKeyId>
<SecretAccessKey>s</SecretAccessKey><SessionToken>token-of-%[2]s</SessionToken><Expiration>%[3]s</Expiration></Credentials>
</AssumeRoleResult></AssumeRoleResponse>`, role, role[strings.LastIndexByte(role, '/')+1:], time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer tokens.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", tokens.URL)
	elsewhere := lambdatest.Start(t, lambdadev.Options{Region: "eu-west-1"})
	lambdatest.Create(t, lambdatest.Client(elsewhere.URL(), "eu-west-1"), "probe", lambdatest.Zip(t), 256, 5)

	r := newRunner(t, serverless.Options{})
	call := newCall(w.url, lambdatest.Event{})
	reload := func(s *registry.Service) { r.Reload(&registry.Config{Services: []*registry.Service{s}}) }
	reload(call.Service)
	if _, err := run(t, r, call); err != nil || !w.keys["AKIDTEST "] {
		t.Fatalf("%v, keys %v", err, w.keys)
	}
	for _, role := range []string{"resizer", "other"} {
		with := newCall(w.url, lambdatest.Event{})
		with.Service.RunnerConfig.RoleARN = "arn:aws:iam::123456789012:role/" + role
		reload(with.Service)
		for range 2 {
			if _, err := run(t, r, with); err != nil {
				t.Fatal(err)
			}
		}
		if got := <-asked; !strings.HasSuffix(got, "/"+role) || len(asked) > 0 {
			t.Errorf("asked for %s and %d more", got, len(asked))
		}
		if !w.keys["AKIDROLE token-of-"+role] {
			t.Errorf("called with %v", w.keys)
		}
	}
	moved := newCall(elsewhere.URL(), lambdatest.Event{Do: lambdatest.Reveal})
	moved.Service.RunnerConfig.Region = "eu-west-1"
	reload(moved.Service)
	result, err := run(t, r, moved)
	if err != nil || !strings.Contains(string(result.Output), "AWS_REGION=eu-west-1") {
		t.Errorf("%v, %s", err, result.Output)
	}
}

// TestAQualifierChoosesTheVersionThatRuns: a version keeps its memory, and an
// operation's qualifier counts over its service's.
func TestAQualifierChoosesTheVersionThatRuns(t *testing.T) {
	w := newWorld(t)
	version, err := w.client.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String("probe")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: aws.String("probe"), Name: aws.String("live"), FunctionVersion: version.Version}); err != nil {
		t.Fatal(err)
	}
	w.configure(512)
	r := newRunner(t, serverless.Options{})
	for _, c := range []struct {
		service, operation, version string
		memoryMB                    float64
	}{
		{"", "", "$LATEST", 512},
		{"live", "", "1", 256},
		{"$LATEST", "live", "1", 256},
		{"live", "$LATEST", "$LATEST", 512},
		{"1", "", "1", 256},
	} {
		call := newCall(w.url, lambdatest.Event{Do: lambdatest.Reveal})
		call.Service.RunnerConfig.Qualifier, call.Operation.Qualifier = c.service, c.operation
		result, err := run(t, r, call)
		if err != nil {
			t.Fatal(err)
		}
		if result.Security["executed_version"] != c.version || !strings.Contains(string(result.Output), `AWS_LAMBDA_FUNCTION_VERSION=`+c.version+`"`) {
			t.Errorf("%+v: version %v ran", c, result.Security["executed_version"])
		}
		if got := result.Security["memory_mb"]; got != int(c.memoryMB) {
			t.Errorf("%+v: %v MB are recorded", c, got)
		}
		want := 0.20/1e6 + c.memoryMB/1024*(*result.Usage.BilledMS)/1000*0.0000166667
		if math.Abs(*result.Usage.CostUSD-want) > 1e-12 {
			t.Errorf("%+v: it cost %v, want %v", c, *result.Usage.CostUSD, want)
		}
		wantMost(t, r, call.Service, worst(c.memoryMB, 25))
	}
}

// TestAStreamThatFailsInTheMiddleIsAFailure: by the function's word it costs what
// it ran; cut off on the way nobody knows.
func TestAStreamThatFailsInTheMiddleIsAFailure(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	streamed := func(endpoint string) (runners.Result, error) {
		call := newCall(endpoint, lambdatest.Event{Do: lambdatest.Broken, Bytes: 100_000, Text: "the disk is full"})
		call.Operation.InvocationType = "response_stream"
		return run(t, r, call)
	}
	result, err := streamed(w.url)
	var failed *serverless.FunctionError
	if !errors.As(err, &failed) || failed.Type != "errorString" || failed.Message != "the disk is full" || !runners.Retryable(err) {
		t.Errorf("error %#v", err)
	}
	if result.Usage.CostUSD == nil || *result.Usage.CostUSD <= 0 || result.Usage.BilledMS == nil {
		t.Errorf("usage %s", result.Usage.JSON())
	}
	for name, cut := range map[string]bool{"cut off": true, "ended too early": false} {
		broken := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/configuration") {
				w.dev.ServeHTTP(out, r)
				return
			}
			out.Header().Set("Content-Type", "application/vnd.amazon.eventstream")
			m := eventstream.Message{Payload: []byte(`{"half": `)}
			m.Headers.Set(":message-type", eventstream.StringValue("event"))
			m.Headers.Set(":event-type", eventstream.StringValue("PayloadChunk"))
			m.Headers.Set(":content-type", eventstream.StringValue("application/octet-stream"))
			eventstream.NewEncoder().Encode(out, m)
			if cut {
				http.NewResponseController(out).Flush()
				panic(http.ErrAbortHandler)
			}
		}))
		result, err := streamed(broken.URL)
		broken.Close()
		if err == nil || !runners.Retryable(err) || len(result.Output) > 0 || result.Usage.CostUSD != nil {
			t.Errorf("%s: %v, output %s, usage %s", name, err, result.Output, result.Usage.JSON())
		}
		if !cut && !strings.Contains(err.Error(), "the function's answer broke off") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTheClientContextHasTheDocumentedKeys asserts each by its name, and the
// trace's header beside them.
func TestTheClientContextHasTheDocumentedKeys(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceFlags: trace.FlagsSampled, SpanID: trace.SpanID{0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7},
		TraceID: trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}})
	state, err := trace.ParseTraceState("vendor=opaque")
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(t.Context(), parent.WithTraceState(state))
	for _, key := range []string{"charge-7", ""} {
		call := newCall(w.url, lambdatest.Event{Do: lambdatest.Reveal})
		call.Job.CorrelationID, call.Job.TenantID, call.Job.IdempotencyKey, call.Job.Attempt = "order-7", "6f0cbb1e-4f0e-4d1e-8f5e-1c6f6d1f2a3b", key, 2
		result, err := r.Run(ctx, call)
		if err != nil {
			t.Fatal(err)
		}
		var seen struct {
			Trace   string
			Context struct {
				ClientContext struct{ Custom map[string]string }
			}
		}
		if err := json.Unmarshal(result.Output, &seen); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"job_id": call.Job.ID.String(), "identifier": "order-17", "attempt": "2", "correlation_id": "order-7",
			"tenant_id": "6f0cbb1e-4f0e-4d1e-8f5e-1c6f6d1f2a3b", "idempotency_key": cmp.Or(key, call.Job.ID.String()),
			"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=opaque"}
		if got := seen.Context.ClientContext.Custom; !maps.Equal(got, want) {
			t.Errorf("client context %v\nwant %v", got, want)
		}
		if want := "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1"; seen.Trace != want {
			t.Errorf("X-Ray's header is %q, want %q", seen.Trace, want)
		}
	}
}

func TestExamineNamesTheIdentity(t *testing.T) {
	tokens := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		io.WriteString(out, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/agent</Arn><UserId>A</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	}))
	t.Setenv("AWS_ENDPOINT_URL_STS", tokens.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "never-shown")
	t.Setenv("AWS_REGION", "eu-central-1")
	found := fmt.Sprint(serverless.Examine(t.Context()))
	if !strings.Contains(found, "of "+serverless.DefaultPrices.AsOf+" in us-east-1: $0.0000166667 a GB-second") {
		t.Errorf("no prices with their day: %s", found)
	}
	if page, err := os.ReadFile("../../docs/serverless.md"); err != nil || !strings.Contains(string(page), serverless.DefaultPrices.AsOf) {
		t.Errorf("docs/serverless.md does not give the day of the prices, %s: %v", serverless.DefaultPrices.AsOf, err)
	}
	if !strings.Contains(found, "arn:aws:iam::123456789012:user/agent of account 123456789012") || !strings.Contains(found, "eu-central-1") {
		t.Error(found)
	}
	tokens.Close()
	checks := serverless.Examine(t.Context())
	if checks[0].OK || checks[0].Advice == "" || strings.Contains(fmt.Sprint(checks), "never-shown") {
		t.Errorf("without an answer: %+v", checks)
	}
}
