package serverless_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/serverless"
)

// worst is the cost of a run of so many seconds, and ten of init, with so many MB.
func worst(memoryMB, seconds float64) float64 {
	return 0.20/1e6 + memoryMB/1024*(seconds+10)*0.0000166667
}

// wantMost compares what an attempt sets aside.
func wantMost(t *testing.T, r *serverless.Runner, s *registry.Service, want float64) {
	t.Helper()
	if got := r.MostCost(s); math.Abs(got-want) > 1e-12 {
		t.Errorf("set aside %v, want %v", got, want)
	}
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

// TestWhatCannotHaveBeenInvokedCostsNothing: only where a call was on its way and
// no answer came does nobody know what it cost.
func TestWhatCannotHaveBeenInvokedCostsNothing(t *testing.T) {
	w := newWorld(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // of STS
	broken := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if conn, _, err := out.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
	}))
	defer broken.Close()
	const role = "arn:aws:iam::123456789012:role/resizer"
	for _, c := range []struct {
		name, endpoint, role string
		sts                  int    // its answer
		code                 string // of the answer
		words                string
		again, free          bool
	}{
		{"nobody listens", "http://127.0.0.1:1", "", 0, "", "connection refused", true, true},
		{"no such host", "http://lambda.invalid", "", 0, "", "lambda.invalid", true, true},
		{"it breaks off", broken.URL, "", 0, "", "function probe in us-east-1", true, false},
		{"STS is out of order", w.url, role, 500, "InternalFailure", "credentials (AssumeRole): InternalFailure", true, true},
		{"STS throttles", w.url, role, 400, "Throttling", "credentials (AssumeRole)", true, true},
		{"the role may not be assumed", w.url, role, 403, "AccessDenied",
			"the agent's AWS identity may not assume the role " + role + ": grant it sts:AssumeRole", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
				out.WriteHeader(c.sts)
				fmt.Fprintf(out, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>%s</Code><Message>not now</Message></Error></ErrorResponse>`, c.code)
			}))
			defer tokens.Close()
			t.Setenv("AWS_ENDPOINT_URL_STS", tokens.URL)
			call := newCall(c.endpoint, lambdatest.Event{})
			call.Service.RunnerConfig.RoleARN = c.role
			before := w.count("invocations")
			result, err := run(t, newRunner(t, serverless.Options{}), call)
			if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "InvokeFunction") || runners.Retryable(err) != c.again {
				t.Errorf("error %v", err)
			}
			if cost := result.Usage.CostUSD; c.free != (cost != nil && *cost == 0) {
				t.Errorf("it costs %s", result.Usage.JSON())
			}
			if n := w.count("invocations") - before; n != 0 {
				t.Errorf("%d calls were sent", n)
			}
		})
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
	w.wantBusy(r, call)
	wantMost(t, r, call.Service, worst(256, 25))
	call.ReservedUSD = r.MostCost(call.Service)
	if _, err := run(t, r, call); err != nil {
		t.Error(err)
	}
}

// TestAnEventIsHeldToTheWorstOfAllItsTries: what was set aside is for three runs,
// and so is what a larger function may cost now.
func TestAnEventIsHeldToTheWorstOfAllItsTries(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	r := newRunner(t, serverless.Options{Now: func() time.Time { return now }})
	call := newCall(w.url, lambdatest.Event{})
	call.Service.RunnerConfig.InvocationType = "event"
	if _, err := run(t, r, call); err != nil {
		t.Fatal(err)
	}
	call.ReservedUSD = r.MostCost(call.Service)
	wantMost(t, r, call.Service, 3*worst(256, 25))
	w.configure(512)
	now = now.Add(time.Hour)
	w.wantBusy(r, call)
	wantMost(t, r, call.Service, 3*worst(512, 25))
	call.ReservedUSD = r.MostCost(call.Service)
	if _, err := run(t, r, call); err != nil {
		t.Error(err)
	}
}

// TestAFunctionThatHidesItsConfigurationSetsTheLargestAside: the registry may be
// wrong about it. What AWS bills by is known after the first run.
func TestAFunctionThatHidesItsConfigurationSetsTheLargestAside(t *testing.T) {
	w := newWorld(t)
	w.secret = true
	var log bytes.Buffer
	r := newRunner(t, serverless.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	call := newCall(w.url, lambdatest.Event{})
	call.Service.RunnerConfig.MemoryMB, call.Service.RunnerConfig.Timeout = 128, 1
	call.Service.SecurityPolicy.CostLimits.MaxCostPerHour = 5
	call.ReservedUSD = worst(128, 1) // as by the registry
	w.wantBusy(r, call)
	wantMost(t, r, call.Service, worst(10240, 900))
	call.ReservedUSD = r.MostCost(call.Service)
	result, err := run(t, r, call)
	if err != nil {
		t.Fatal(err)
	}
	security, _ := json.Marshal(result.Security)
	for what, text := range map[string]string{"the attempt's record": string(security), "the agent's log": log.String()} {
		if !strings.Contains(text, "grant") || !strings.Contains(text, "lambda:GetFunctionConfiguration") {
			t.Errorf("%s does not say what to grant: %s", what, text)
		}
	}
	wantMost(t, r, call.Service, worst(256, 900))
	if n := w.count("configuration"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestMemoryThatAWSReportsOtherwiseCountsAtOnce: a function is configured anew, and
// what was found of it is minutes old.
func TestMemoryThatAWSReportsOtherwiseCountsAtOnce(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	r := newRunner(t, serverless.Options{Now: func() time.Time { return now }})
	call := newCall(w.url, lambdatest.Event{})
	call.Service.RunnerConfig.Timeout = 25
	call.ReservedUSD = worst(256, 25)
	for _, c := range []struct {
		memoryMB int32
		asked    int
	}{{256, 1}, {256, 1}, {1024, 1}} {
		w.configure(c.memoryMB)
		if _, err := run(t, r, call); err != nil {
			t.Fatal(err)
		}
		wantMost(t, r, call.Service, worst(float64(c.memoryMB), 25))
	}
	w.wantBusy(r, call)
	if n := w.count("configuration"); n != 2 {
		t.Errorf("asked %d times, want it asked again after the report", n)
	}
	call.ReservedUSD = r.MostCost(call.Service)
	w.configure(512)
	for range 2 {
		if _, err := run(t, r, call); err != nil {
			t.Fatal(err)
		}
	}
	wantMost(t, r, call.Service, worst(512, 25))
	now = now.Add(10 * time.Minute)
	if _, err := run(t, r, call); err != nil {
		t.Fatal(err)
	}
	wantMost(t, r, call.Service, worst(512, 25))
}

func TestAnArm64FunctionHasItsOwnPrice(t *testing.T) {
	w := newWorld(t)
	if _, err := w.client.CreateFunction(t.Context(), &lambda.CreateFunctionInput{FunctionName: aws.String("arm"), Runtime: types.RuntimeProvidedal2023,
		Role: aws.String("arn:aws:iam::123456789012:role/function"), Handler: aws.String("bootstrap"), Architectures: []types.Architecture{types.ArchitectureArm64},
		MemorySize: aws.Int32(1024), Timeout: aws.Int32(5), Code: &types.FunctionCode{ZipFile: lambdatest.Zip(t)}}); err != nil {
		t.Fatal(err)
	}
	r := newRunner(t, serverless.Options{})
	call := newCall(w.url, lambdatest.Event{Sleep: 20})
	call.Service.RunnerConfig.FunctionName = "arm"
	result, err := run(t, r, call)
	if err != nil {
		t.Fatal(err)
	}
	if want := 0.20/1e6 + *result.Usage.BilledMS/1000*0.0000133334; math.Abs(*result.Usage.CostUSD-want) > 1e-12 || result.Security["architecture"] != "arm64" {
		t.Errorf("it cost %v on %v, want %v", *result.Usage.CostUSD, result.Security["architecture"], want)
	}
	wantMost(t, r, call.Service, 0.20/1e6+15*0.0000133334)
}
