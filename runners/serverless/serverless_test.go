package serverless_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

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
		w.mu.Unlock()
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

func run(t *testing.T, r runners.Runner, call runners.Call) (runners.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), call.Timeout)
	defer cancel()
	return r.Run(ctx, call)
}

func TestUsageAndCostComeFromTheReport(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	call := newCall(w.url, lambdatest.Event{Sleep: 30, Say: "resized"})
	call.Log = runners.NewLog()
	result, err := run(t, r, call)
	if err != nil {
		t.Fatal(err)
	}
	u := result.Usage
	if u.BilledMS == nil || *u.BilledMS < 30 || u.InitMS == nil || *u.InitMS <= 0 || u.PeakMemoryMB == nil || *u.PeakMemoryMB <= 0 {
		t.Fatalf("usage %s", u.JSON())
	}
	want := 0.20/1e6 + 0.25*(*u.BilledMS)/1000*0.0000166667
	if u.CostUSD == nil || math.Abs(*u.CostUSD-want) > 1e-12 {
		t.Errorf("cost %v, want %v: %s", u.CostUSD, want, u.JSON())
	}
	lines, _ := call.Log.Tail()
	if !strings.Contains(fmt.Sprint(lines), "resized") || !strings.Contains(fmt.Sprint(lines), "REPORT RequestId") {
		t.Errorf("the log is %v", lines)
	}
	call.Service.RunnerConfig.PricePerGBSecond, call.Service.RunnerConfig.PricePerMillionRequests = 0.001, 5
	if result, err = run(t, r, call); err != nil || result.Usage.InitMS != nil {
		t.Fatalf("warm: %v, %s", err, result.Usage.JSON())
	}
	want = 5/1e6 + 0.25*(*result.Usage.BilledMS)/1000*0.001
	if math.Abs(*result.Usage.CostUSD-want) > 1e-12 {
		t.Errorf("cost %v at the registry's prices, want %v", *result.Usage.CostUSD, want)
	}
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

func TestEventsAreHandedOverAndCostTheMost(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	told := make(chan struct{}, 1)
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{} }))
	defer gate.Close()
	call := newCall(w.url, lambdatest.Event{Tell: gate.URL})
	call.Service.RunnerConfig.InvocationType = "event"
	result, err := run(t, r, call)
	if err != nil || !strings.Contains(string(result.Output), `"status_code":202`) || result.Usage.CostUSD != nil {
		t.Errorf("%v, %s, %s", err, result.Output, result.Usage.JSON())
	}
	<-told
	once := 0.20/1e6 + 0.25*35*0.0000166667 // 25 seconds, and ten of init
	if most := r.MostCost(call.Service); math.Abs(most-3*once) > 1e-12 {
		t.Errorf("set aside %v, want three times %v", most, once)
	}
}

func TestMoreThanWasSetAsideIsNotStarted(t *testing.T) {
	w := newWorld(t)
	r := newRunner(t, serverless.Options{})
	call := newCall(w.url, lambdatest.Event{})
	call.Service.RunnerConfig.MemoryMB, call.Service.RunnerConfig.Timeout = 128, 1
	call.ReservedUSD = r.MostCost(call.Service)
	_, err := run(t, r, call)
	var busy *runners.BusyError
	if !errors.As(err, &busy) || w.count("invocations") != 0 {
		t.Fatalf("%v after %d calls", err, w.count("invocations"))
	}
	if call.ReservedUSD = r.MostCost(call.Service); call.ReservedUSD < 0.20/1e6+0.25*35*0.0000166667-1e-12 {
		t.Errorf("set aside %v once the function is known", call.ReservedUSD)
	}
	if _, err := run(t, r, call); err != nil {
		t.Error(err)
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
	if !strings.Contains(found, "arn:aws:iam::123456789012:user/agent of account 123456789012") || !strings.Contains(found, "eu-central-1") {
		t.Error(found)
	}
	tokens.Close()
	checks := serverless.Examine(t.Context())
	if checks[0].OK || checks[0].Advice == "" || strings.Contains(fmt.Sprint(checks), "never-shown") {
		t.Errorf("without an answer: %+v", checks)
	}
}
