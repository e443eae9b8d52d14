package runnertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

const (
	// ample is a timeout that only a fault exceeds.
	ample = 2 * time.Minute
	// soon bounds how long a runner may take to return after its context
	// ended, with room for a grace period and a busy machine.
	soon = 5 * time.Second
	// short is the timeout that Hang calls run into.
	short = 400 * time.Millisecond
	// crowd is the number of calls that run at once where the harness says
	// nothing else.
	crowd = 50
)

// Suite runs every promise as a subtest. It sets an environment variable, so
// the calling test cannot be parallel.
func Suite(t *testing.T, h Harness) {
	t.Helper()
	t.Setenv(SecretEnv, Secret)
	before := goleak.IgnoreCurrent()

	for _, promise := range []struct {
		name string
		keep func(*testing.T, Harness)
	}{
		{"a JSON object in the answer is the output", objectIsOutput},
		{"any other answer is kept with its code beside it", textIsKept},
		{"a failed service is an error that may be retried", failureIsRetryable},
		{"work that breaks off is an error that may be retried", crashIsRetryable},
		{"a huge answer is bounded, marked, and its rest counted", hugeAnswerIsBounded},
		{"a timeout ends the attempt and is named", timeoutIsNamed},
		{"a nearer deadline ends the attempt before its timeout", deadlineIsKept},
		{"a cancelled attempt returns promptly", cancelIsPrompt},
		{"an ended context starts nothing", endedContextStartsNothing},
		{"a refusal says what is not allowed", refusalIsPolicyError},
		{"no row makes a runner panic", noRowPanics},
		{"a secret reaches neither output, security record, error nor log", secretIsMasked},
		{"the work learns which job and attempt it is, and of the trace", jobIsNamed},
		{"usage says what is measured and nothing else", usageIsPresent},
		{"any number of calls run at once, each with its own answer", manyAtOnce},
		{"a call is left as it was", callIsUnchanged},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.keep(t, h) })
	}
	goleak.VerifyNone(t, before)
}

// run makes one call with the timeout that the agent would give it, and
// checks what holds for every result.
func run(t *testing.T, ctx context.Context, h Harness, r runners.Runner, call runners.Call, timeout time.Duration) (runners.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	call.Timeout = timeout
	if call.Log == nil {
		call.Log = runners.NewLog()
	}
	result, err := r.Run(ctx, call)
	checkResult(t, h, result, err)
	lines, _ := call.Log.Tail()
	for _, line := range lines {
		if strings.Contains(line.Text, Secret) {
			t.Errorf("the secret is in the log: %s", line.Text)
		}
	}
	return result, err
}

// checkResult fails the test when a result could not be recorded, shows the
// planted secret, or claims to have measured what the runner cannot measure.
// It may be called from any goroutine.
func checkResult(t *testing.T, h Harness, result runners.Result, err error) {
	t.Helper()
	if result.Output != nil {
		var object map[string]json.RawMessage
		if e := json.Unmarshal(result.Output, &object); e != nil || object == nil {
			t.Errorf("output is not a JSON object: %.200s", result.Output)
		}
	}
	if len(result.Output) > MaxOutputBytes {
		t.Errorf("output has %d bytes, more than %d", len(result.Output), MaxOutputBytes)
	}
	security, e := json.Marshal(result.Security)
	if e != nil {
		t.Errorf("what security held cannot be recorded as JSON: %v", e)
	}
	if bytes.Contains(result.Output, []byte(Secret)) {
		t.Error("the secret is in the output")
	}
	if bytes.Contains(security, []byte(Secret)) {
		t.Error("the secret is in the security record")
	}
	if err != nil && strings.Contains(err.Error(), Secret) {
		t.Error("the secret is in the error")
	}
	for name, value := range usage(t, result) {
		if name != "duration_seconds" && len(h.Measures) == 0 {
			t.Errorf("usage has %s = %v, of work that is done elsewhere", name, value)
		}
	}
}

// usage is what resource_usage will hold.
func usage(t *testing.T, result runners.Result) map[string]float64 {
	t.Helper()
	var fields map[string]float64
	if err := json.Unmarshal(result.Usage.JSON(), &fields); err != nil {
		t.Errorf("usage is not an object of numbers: %s", result.Usage.JSON())
	}
	return fields
}

func objectIsOutput(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), h, r, h.Call(t, Succeed), ample)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(result.Output, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(SuccessOutput), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("output = %s, want %s", result.Output, SuccessOutput)
	}
}

func textIsKept(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), h, r, h.Call(t, PlainText), ample)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Body       *string `json:"body"`
		Stdout     *string `json:"stdout"`
		StatusCode *int    `json:"status_code"`
		ExitCode   *int    `json:"exit_code"`
	}
	if err := json.Unmarshal(result.Output, &got); err != nil {
		t.Fatal(err)
	}
	text := got.Body
	if text == nil {
		text = got.Stdout
	}
	if text == nil || strings.TrimSpace(*text) != PlainTextOutput {
		t.Errorf("output = %s, want %q under body or stdout", result.Output, PlainTextOutput)
	}
	if got.StatusCode == nil && got.ExitCode == nil {
		t.Errorf("output = %s, want status_code or exit_code beside the text", result.Output)
	}
}

func failureIsRetryable(t *testing.T, h Harness) {
	r := h.New(t)
	_, err := run(t, t.Context(), h, r, h.Call(t, Fail), ample)
	if err == nil {
		t.Fatal("no error from a service that failed")
	}
	if !runners.Retryable(err) {
		t.Errorf("not retryable: %v", err)
	}
	if !strings.Contains(err.Error(), FailureText) {
		t.Errorf("error %q does not give the service's reason %q", err, FailureText)
	}
}

func crashIsRetryable(t *testing.T, h Harness) {
	r := h.New(t)
	_, err := run(t, t.Context(), h, r, h.Call(t, Crash), ample)
	if err == nil {
		t.Fatal("no error from work that broke off")
	}
	if !runners.Retryable(err) {
		t.Errorf("not retryable: %v", err)
	}
	if _, err := run(t, t.Context(), h, r, h.Call(t, Succeed), ample); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
}

// hugeAnswerIsBounded relies on checkResult for the bound on the output.
func hugeAnswerIsBounded(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), h, r, h.Call(t, HugeOutput), ample)
	var limit *runners.LimitError
	if err != nil && !errors.As(err, &limit) {
		t.Errorf("error is not a LimitError: %v", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(result.Output, &fields); err != nil {
		t.Fatalf("no output beside error %v", limit)
	}
	for _, name := range []string{"stdout", "body"} {
		kept, ok := fields[name].(string)
		if !ok {
			continue
		}
		cut, _ := fields[name+"_truncated_bytes"].(float64)
		if cut <= 0 || int(cut)+len(kept) < HugeOutputBytes {
			t.Errorf("%d bytes kept and %v counted as %s_truncated_bytes, of at least %d", len(kept), cut, name, HugeOutputBytes)
		}
		if end := kept[max(0, len(kept)-100):]; !strings.Contains(end, "cut off") {
			t.Errorf("the text does not say at its end that the rest was cut off: %q", end)
		}
		return
	}
	t.Errorf("output has neither stdout nor body: %.200s", result.Output)
}

func timeoutIsNamed(t *testing.T, h Harness) {
	r := h.New(t)
	start := time.Now()
	_, err := run(t, t.Context(), h, r, h.Call(t, Hang), short)
	if took := time.Since(start); took > short+soon {
		t.Errorf("returned %s after a timeout of %s", took, short)
	}
	if err == nil {
		t.Fatal("no error from an attempt that timed out")
	}
	if !strings.Contains(err.Error(), "time") || !strings.Contains(err.Error(), short.String()) {
		t.Errorf("error %q does not name the timeout of %s", err, short)
	}
	if !runners.Retryable(err) {
		t.Errorf("not retryable: %v", err)
	}
}

func deadlineIsKept(t *testing.T, h Harness) {
	r := h.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	start := time.Now()
	_, err := run(t, ctx, h, r, h.Call(t, Hang), ample)
	if took := time.Since(start); took > short+soon {
		t.Errorf("returned %s after a deadline of %s", took, short)
	}
	if err == nil || !runners.Retryable(err) {
		t.Errorf("error %v, want one that may be retried", err)
	}
}

func cancelIsPrompt(t *testing.T, h Harness) {
	r := h.New(t)
	call := h.Call(t, Hang)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := run(t, ctx, h, r, call, ample)
		done <- err
	}()
	h.AwaitHang(t)
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v does not wrap context.Canceled", err)
		}
	case <-time.After(soon):
		t.Fatalf("still running %s after it was cancelled", soon)
	}
}

func endedContextStartsNothing(t *testing.T, h Harness) {
	r := h.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang, after := h.Call(t, Hang), h.Call(t, Succeed)
	result, err := run(t, ctx, h, r, hang, ample)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v does not wrap context.Canceled", err)
	}
	if len(result.Output) > 0 {
		t.Errorf("output %s of what was not started", result.Output)
	}
	if _, err := run(t, t.Context(), h, r, after, ample); err != nil { // behind whatever was begun
		t.Error(err)
	}
	if h.Hung(t) {
		t.Error("the work began")
	}
}

func refusalIsPolicyError(t *testing.T, h Harness) {
	r := h.New(t)
	_, err := run(t, t.Context(), h, r, h.Call(t, Refused), ample)
	var policy *runners.PolicyError
	if !errors.As(err, &policy) {
		t.Fatalf("error is not a PolicyError: %v", err)
	}
	if !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("error %q does not say \"not allowed\"", err)
	}
	if policy.Rule == "" || policy.Offered == "" || policy.Service == "" {
		t.Errorf("refusal leaves out rule, value or service: %+v", policy)
	}
	if runners.Retryable(err) {
		t.Error("a refusal must not be retried")
	}
}

// noRowPanics runs rows that no application should write. Whether such a row
// is an error is the runner's to say.
func noRowPanics(t *testing.T, h Harness) {
	r := h.New(t)
	long := json.RawMessage(`{"deep": ` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`)
	for _, raw := range []json.RawMessage{nil, {}, json.RawMessage("null"), json.RawMessage("[1]"), json.RawMessage(`"text"`),
		json.RawMessage("{"), json.RawMessage("{\"timeout\": \"soon\", \"a\": \"\\u0000\"}"), json.RawMessage("\xff"), long} {
		for _, field := range []func(*jobs.Job){
			func(j *jobs.Job) { j.Input = raw },
			func(j *jobs.Job) { j.RunnerConfig = raw },
			func(j *jobs.Job) { j.SecurityContext = raw },
			func(j *jobs.Job) {
				j.Identifier, j.CorrelationID, j.TenantID, j.IdempotencyKey = string(raw), "\n", "\x7f", "é"
			},
		} {
			call := h.Call(t, Succeed)
			job := *call.Job
			call.Job = &job
			field(&job)
			func() {
				defer func() {
					if p := recover(); p != nil {
						t.Errorf("a row with %.60q panics: %v", raw, p)
					}
				}()
				_, _ = run(t, t.Context(), h, r, call, ample)
			}()
		}
	}
	if _, err := run(t, t.Context(), h, r, h.Call(t, Succeed), ample); err != nil {
		t.Errorf("an orderly row afterwards: %v", err)
	}
}

// secretIsMasked relies on run for the secret's absence; the work really
// shows what it sees, so there must be an output to look at.
func secretIsMasked(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), h, r, h.Call(t, Reveal), ample)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Output) == 0 {
		t.Error("the work revealed nothing, so this shows nothing")
	}
}

func jobIsNamed(t *testing.T, h Harness) {
	r := h.New(t)
	traceID := trace.TraceID{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36}
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: traceID, SpanID: trace.SpanID{0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7}, TraceFlags: trace.FlagsSampled,
	})
	for _, given := range []string{"order-4711-charge", ""} {
		call := h.Call(t, Reveal)
		job := *call.Job
		call.Job = &job
		job.Attempt, job.MaxAttempts = 5273, 9000
		job.IdempotencyKey, job.CorrelationID, job.TenantID = given, "corr-81c4", "6f0cbb1e-4f0e-4d1e-8f5e-1c6f6d1f2a3b"
		result, err := run(t, trace.ContextWithSpanContext(t.Context(), span), h, r, call, ample)
		if err != nil {
			t.Fatal(err)
		}
		for what, value := range map[string]string{
			"job id": job.ID.String(), "identifier": job.Identifier, "attempt": "5273", "idempotency key": given,
			"correlation id": job.CorrelationID, "tenant": job.TenantID, "trace": "00-" + traceID.String() + "-00f067aa0ba902b7-01",
		} {
			if !bytes.Contains(result.Output, []byte(value)) {
				t.Errorf("the work does not see the %s %q", what, value)
			}
		}
		// Without a key of the application's, the job's id is the key.
		if given == "" && bytes.Count(result.Output, []byte(job.ID.String())) < 2 {
			t.Error("the work does not see the job's id as idempotency key too")
		}
	}
}

func usageIsPresent(t *testing.T, h Harness) {
	r := h.New(t)
	for _, b := range []Behaviour{Succeed, Fail} {
		result, _ := run(t, t.Context(), h, r, h.Call(t, b), ample)
		found := usage(t, result)
		for _, name := range h.Measures {
			value, there := found[name]
			if !there || value < 0 || value == 0 && name != "cpu_usage_percent" {
				t.Errorf("%s: usage is %s, want a %s", b, result.Usage.JSON(), name)
			}
		}
	}
}

func manyAtOnce(t *testing.T, h Harness) {
	r := h.New(t)
	if h.Crowd == 0 {
		h.Crowd = crowd
	}
	kinds := []Behaviour{Succeed, Reveal, Fail}
	var wg sync.WaitGroup
	for i := range h.Crowd {
		kind := kinds[i%len(kinds)]
		call := h.Call(t, kind)
		wg.Go(func() {
			result, err := run(t, t.Context(), h, r, call, 2*ample)
			switch {
			case (err != nil) != (kind == Fail):
				t.Errorf("%s: error %v", kind, err)
			case kind == Reveal && !bytes.Contains(result.Output, []byte(call.Job.ID.String())):
				t.Errorf("%s: the answer is not the one of job %s", kind, call.Job.ID)
			}
		})
	}
	wg.Wait()
}

func callIsUnchanged(t *testing.T, h Harness) {
	r := h.New(t)
	call := h.Call(t, Succeed)
	snapshot := func() string {
		b, err := json.Marshal([]any{call.Job, call.Service, call.Operation})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := snapshot()
	if _, err := run(t, t.Context(), h, r, call, ample); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(); after != before {
		t.Errorf("the call changed:\nbefore %s\nafter  %s", before, after)
	}
}
