package lambdadev_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/specql/specql-ops/internal/lambdadev"
	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
)

func TestMain(m *testing.M) {
	lambdatest.Main()
	goleak.VerifyTestMain(m)
}

const region = "us-east-1"

// world is an endpoint with a function of 256 MB and a minute.
func world(t *testing.T, opt lambdadev.Options) *lambda.Client {
	t.Helper()
	c := lambdatest.Client(lambdatest.Start(t, opt).URL(), region)
	lambdatest.Create(t, c, "probe", lambdatest.Zip(t), 256, 60)
	return c
}

func invoke(t *testing.T, c *lambda.Client, e lambdatest.Event) (*lambda.InvokeOutput, string) {
	t.Helper()
	return invokeNamed(t, c, "probe", e)
}

func invokeNamed(t *testing.T, c *lambda.Client, name string, e lambdatest.Event) (*lambda.InvokeOutput, string) {
	t.Helper()
	out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: lambdatest.Payload(e), LogType: types.LogTypeTail})
	if err != nil {
		t.Fatal(err)
	}
	log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	if err != nil {
		t.Fatal(err)
	}
	return out, string(log)
}

func want(t *testing.T, what, got, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("%s is\n%s\nwant %s", what, got, pattern)
	}
}

func TestColdAndWarmStartsAreReported(t *testing.T) {
	c := world(t, lambdadev.Options{})
	out, log := invoke(t, c, lambdatest.Event{Say: "good morning"})
	var got, sought any
	if json.Unmarshal(out.Payload, &got) != nil || json.Unmarshal([]byte(lambdatest.SuccessOutput), &sought) != nil || out.FunctionError != nil {
		t.Fatalf("answer %s, error %v", out.Payload, aws.ToString(out.FunctionError))
	}
	if out.StatusCode != 200 || aws.ToString(out.ExecutedVersion) != "$LATEST" {
		t.Errorf("status %d, version %s", out.StatusCode, aws.ToString(out.ExecutedVersion))
	}
	const report = `REPORT RequestId: [0-9a-f-]{36}\tDuration: [0-9.]+ ms\tBilled Duration: [0-9]+ ms\tMemory Size: 256 MB\tMax Memory Used: [1-9][0-9]* MB\t`
	want(t, "the cold log", log, `(?s)START RequestId: [0-9a-f-]{36} Version: \$LATEST\ngood morning\nEND RequestId: [0-9a-f-]{36}\n`+report+`Init Duration: [0-9.]+ ms\t\n$`)
	if _, log = invoke(t, c, lambdatest.Event{}); strings.Contains(log, "Init Duration") {
		t.Errorf("a warm start has an init:\n%s", log)
	}
	want(t, "the warm log", log, report+`\n$`)
}

func TestFailuresAreWordedAsAWSWordsThem(t *testing.T) {
	c := world(t, lambdadev.Options{})
	lambdatest.Create(t, c, "hasty", lambdatest.Zip(t), 256, 2)
	for _, f := range []struct {
		name          string
		event         lambdatest.Event
		payload, log  string
		nextIsACold   bool
		hasTwoSeconds bool
	}{
		{"an error", lambdatest.Event{Do: lambdatest.Fail, Text: "no such image"}, `^{"errorMessage":"no such image","errorType":"errorString"}$`, `Max Memory Used: \d+ MB\t`, false, false},
		{"a panic", lambdatest.Event{Do: lambdatest.Panic, Text: "index out of range"}, `"errorMessage":"index out of range","errorType":"string","stackTrace":\[{"path":`, ``, true, false},
		{"an exit", lambdatest.Event{Do: lambdatest.Exit}, `^{"errorType":"Runtime.ExitError","errorMessage":"RequestId: [0-9a-f-]{36} Error: Runtime exited with error: exit status 3"}$`,
			`Error: Runtime exited with error: exit status 3\nRuntime.ExitError\nEND .*\nREPORT .*Status: error\tError Type: Runtime.ExitError`, true, false},
		{"too much memory", lambdatest.Event{Do: lambdatest.Allocate, Bytes: 400 << 20}, `"errorType":"Runtime.ExitError","errorMessage":"RequestId: [0-9a-f-]{36} Error: Runtime exited with error: signal: killed"`,
			`Memory Size: 256 MB\tMax Memory Used: 256 MB`, true, false},
		{"too large an answer", lambdatest.Event{Do: lambdatest.Huge, Bytes: 7 << 20}, `"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size \(6291556 bytes\)."`, ``, true, false},
		{"too much time", lambdatest.Event{Do: lambdatest.Hang}, `"errorType":"Sandbox.Timedout","errorMessage":"RequestId: [0-9a-f-]{36} Error: Task timed out after 2.00 seconds"`,
			`Z [0-9a-f-]{36} Task timed out after 2.00 seconds\n\nEND .*\nREPORT .*Duration: 2000.00 ms.*Status: timeout`, true, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			name := "probe"
			if f.hasTwoSeconds {
				name = "hasty"
			}
			out, log := invokeNamed(t, c, name, f.event)
			if out.StatusCode != 200 || aws.ToString(out.FunctionError) != "Unhandled" {
				t.Errorf("status %d, function error %q", out.StatusCode, aws.ToString(out.FunctionError))
			}
			want(t, "the payload", string(out.Payload), f.payload)
			want(t, "the log", log, f.log)
			if out, log = invokeNamed(t, c, name, lambdatest.Event{}); out.FunctionError != nil {
				t.Errorf("the next invocation fails: %s", out.Payload)
			}
			if cold := strings.Contains(log, "Init Duration"); cold != f.nextIsACold {
				t.Errorf("the next one starts cold: %t", cold)
			}
		})
	}
}

func TestAFunctionThatCannotBeginSaysHowItEnded(t *testing.T) {
	c := world(t, lambdadev.Options{})
	lambdatest.Create(t, c, "broken", lambdatest.BadInit(t), 128, 3)
	out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("broken"), LogType: types.LogTypeTail})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "the payload", string(out.Payload), `Runtime.ExitError.*Runtime exited with error: exit status 7`)
	log, _ := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	want(t, "the log", string(log), `the configuration is missing`)
}

// TestErrorsAreTheSDKsOwn: each refusal of the API is the type that the SDK has
// for it.
func TestErrorsAreTheSDKsOwn(t *testing.T) {
	server := lambdatest.Start(t, lambdadev.Options{})
	c := lambdatest.Client(server.URL(), region)
	lambdatest.Create(t, c, "probe", lambdatest.Zip(t), 256, 5)
	call := func(name string, payload []byte, qualifier *string) error {
		_, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: payload, Qualifier: qualifier})
		return err
	}
	var missing *types.ResourceNotFoundException
	if err := call("nobody", nil, nil); !errors.As(err, &missing) || missing.ErrorMessage() != "Function not found: arn:aws:lambda:us-east-1:123456789012:function:nobody" {
		t.Errorf("unknown function: %v", err)
	}
	if err := call("probe", nil, aws.String("blue")); !errors.As(err, &missing) || !strings.HasSuffix(missing.ErrorMessage(), ":probe:blue") {
		t.Errorf("unknown qualifier: %v", err)
	}
	var content *types.InvalidRequestContentException
	if err := call("probe", []byte(`{"a":`), nil); !errors.As(err, &content) {
		t.Errorf("payload that is not JSON: %v", err)
	}
	var large *types.RequestTooLargeException
	if err := call("probe", []byte(`"`+strings.Repeat("x", 6<<20)+`"`), nil); !errors.As(err, &large) {
		t.Errorf("too large a payload: %v", err)
	}
	var exists *types.ResourceConflictException
	var value *types.InvalidParameterValueException
	create := func(name string, packed []byte, runtime types.Runtime) error {
		_, err := c.CreateFunction(t.Context(), &lambda.CreateFunctionInput{FunctionName: &name, Runtime: runtime, Handler: aws.String("bootstrap"),
			Role: aws.String("arn:aws:iam::123456789012:role/function"), Code: &types.FunctionCode{ZipFile: packed}})
		return err
	}
	if err := create("probe", lambdatest.Zip(t), types.RuntimeProvidedal2023); !errors.As(err, &exists) {
		t.Errorf("a function that exists: %v", err)
	}
	if err := create("other", []byte("no zip"), types.RuntimeProvidedal2023); !errors.As(err, &value) {
		t.Errorf("a package that is none: %v", err)
	}
	if err := create("other", lambdatest.Zip(t), types.RuntimePython312); !errors.As(err, &value) {
		t.Errorf("another runtime: %v", err)
	}
	for name, change := range map[string]func(http.Header){
		"MissingAuthenticationTokenException": func(h http.Header) { h.Del("Authorization") },
		"IncompleteSignatureException":        func(h http.Header) { h.Set("Authorization", "Bearer me") },
		"InvalidSignatureException": func(h http.Header) {
			h.Set("Authorization", strings.Replace(h.Get("Authorization"), region, "eu-west-1", 1))
		},
	} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			change(r.Header)
			server.ServeHTTP(w, r)
		}))
		defer proxy.Close()
		_, err := lambdatest.Client(proxy.URL, region).Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("probe")})
		var api smithy.APIError
		if !errors.As(err, &api) || api.ErrorCode() != name {
			t.Errorf("%v, want %s", err, name)
		}
	}
}

func TestConcurrencyIsBoundedAndThrottled(t *testing.T) {
	c := world(t, lambdadev.Options{})
	if _, err := c.PutFunctionConcurrency(t.Context(), &lambda.PutFunctionConcurrencyInput{FunctionName: aws.String("probe"), ReservedConcurrentExecutions: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 2)
	release := make(chan struct{})
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{}; <-release }))
	defer gate.Close()
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if out, _ := invoke(t, c, lambdatest.Event{Tell: gate.URL}); out.FunctionError != nil {
				t.Errorf("%s", out.Payload)
			}
		})
		<-told
	}
	_, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("probe")})
	var throttled *types.TooManyRequestsException
	if !errors.As(err, &throttled) || throttled.Reason != types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded || aws.ToString(throttled.RetryAfterSeconds) == "" {
		t.Errorf("the third at once: %v", err)
	}
	close(release)
	all.Wait()
	if out, _ := invoke(t, c, lambdatest.Event{}); out.FunctionError != nil {
		t.Errorf("after them: %s", out.Payload)
	}
}

func TestEventsRunAfterTheAnswerAndDryRunsDoNot(t *testing.T) {
	c := world(t, lambdadev.Options{})
	told := make(chan struct{}, 10)
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told <- struct{}{} }))
	defer gate.Close()
	for kind, status := range map[types.InvocationType]int32{types.InvocationTypeDryRun: 204, types.InvocationTypeEvent: 202} {
		out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("probe"), InvocationType: kind, Payload: lambdatest.Payload(lambdatest.Event{Tell: gate.URL})})
		if err != nil || out.StatusCode != status {
			t.Errorf("%s: %v, %v", kind, out, err)
		}
	}
	<-told
	if len(told) > 0 {
		t.Error("a dry run ran the function")
	}
}

func TestVersionsAliasesAndLists(t *testing.T) {
	c := world(t, lambdadev.Options{})
	lambdatest.Create(t, c, "another", lambdatest.Zip(t), 512, 30)
	v, err := c.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String("probe")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: aws.String("probe"), Name: aws.String("live"), FunctionVersion: v.Version}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"probe:live", "arn:aws:lambda:us-east-1:123456789012:function:probe:live", "123456789012:function:probe:1"} {
		out, err := c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name})
		if err != nil || aws.ToString(out.ExecutedVersion) != "1" {
			t.Errorf("%s: %v", name, err)
		}
	}
	conf, err := c.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String("probe"), Qualifier: aws.String("live")})
	if err != nil || *conf.MemorySize != 256 || *conf.Timeout != 60 || conf.Architectures[0] != types.ArchitectureX8664 || aws.ToString(conf.Version) != "1" {
		t.Errorf("configuration %+v, %v", conf, err)
	}
	var names []string
	pages := lambda.NewListFunctionsPaginator(c, &lambda.ListFunctionsInput{MaxItems: aws.Int32(1)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Functions {
			names = append(names, *f.FunctionName)
		}
	}
	if strings.Join(names, " ") != "another probe" {
		t.Errorf("functions %v", names)
	}
}

func TestAnswersStreamAndFailInTheMiddle(t *testing.T) {
	c := world(t, lambdadev.Options{})
	stream := func(e lambdatest.Event) (bytes int, end types.InvokeWithResponseStreamCompleteEvent) {
		out, err := c.InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{FunctionName: aws.String("probe"), Payload: lambdatest.Payload(e), LogType: types.LogTypeTail})
		if err != nil {
			t.Fatal(err)
		}
		events := out.GetStream()
		defer events.Close()
		for e := range events.Events() {
			switch e := e.(type) {
			case *types.InvokeWithResponseStreamResponseEventMemberPayloadChunk:
				bytes += len(e.Value.Payload)
			case *types.InvokeWithResponseStreamResponseEventMemberInvokeComplete:
				end = e.Value
			}
		}
		if err := events.Err(); err != nil {
			t.Fatal(err)
		}
		return bytes, end
	}
	n, end := stream(lambdatest.Event{Do: lambdatest.Huge, Bytes: 20 << 20})
	log, _ := base64.StdEncoding.DecodeString(aws.ToString(end.LogResult))
	if n != 20<<20 || end.ErrorCode != nil || !strings.Contains(string(log), "REPORT RequestId") {
		t.Errorf("%d bytes, end %+v, log %s", n, aws.ToString(end.ErrorCode), log)
	}
	n, end = stream(lambdatest.Event{Do: lambdatest.Broken, Bytes: 1000, Text: "the disk is full"})
	if n != 1000 || aws.ToString(end.ErrorCode) != "errorString" || !strings.Contains(aws.ToString(end.ErrorDetails), "the disk is full") {
		t.Errorf("%d bytes, code %s, details %s", n, aws.ToString(end.ErrorCode), aws.ToString(end.ErrorDetails))
	}
	if n, end = stream(lambdatest.Event{Do: lambdatest.Exit}); aws.ToString(end.ErrorCode) != "Runtime.ExitError" {
		t.Errorf("%d bytes, code %s", n, aws.ToString(end.ErrorCode))
	}
}

func TestCloseEndsEveryEnvironment(t *testing.T) {
	server, err := lambdadev.Start(lambdadev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := lambdatest.Client(server.URL(), region)
	lambdatest.Create(t, c, "probe", lambdatest.Zip(t), 256, 60)
	out, _ := invoke(t, c, lambdatest.Event{Do: lambdatest.Reveal})
	var seen struct{ PID int }
	if err := json.Unmarshal(out.Payload, &seen); err != nil || seen.PID == 0 {
		t.Fatalf("%s: %v", out.Payload, err)
	}
	told := make(chan struct{})
	gate := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(told) }))
	defer gate.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, err := c.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("probe"), Payload: lambdatest.Payload(lambdatest.Event{Do: lambdatest.Hang, Tell: gate.URL})})
		if err == nil && out.FunctionError == nil {
			t.Error("a hanging function answered")
		}
	}()
	<-told
	server.Close()
	<-done
	if p, err := os.FindProcess(seen.PID); err == nil && p.Signal(syscall.Signal(0)) == nil {
		t.Errorf("process %d is still there", seen.PID)
	}
}

func TestCloseWhileEnvironmentsBeginEnds(t *testing.T) {
	for range 40 {
		server, err := lambdadev.Start(lambdadev.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c := lambdatest.Client(server.URL(), region)
		lambdatest.Create(t, c, "probe", lambdatest.Zip(t), 256, 60)
		var calls sync.WaitGroup
		begun := make(chan struct{}, 20)
		for range cap(begun) {
			calls.Go(func() { // answered, or cut off
				c.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("probe"), InvocationType: types.InvocationTypeEvent})
				begun <- struct{}{}
			})
		}
		<-begun
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			server.Close()
		}()
		select {
		case <-closed:
		case <-time.After(30 * time.Second):
			t.Fatal("it does not close")
		}
		calls.Wait()
	}
}
