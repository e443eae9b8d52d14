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

	"go.uber.org/goleak"

	"github.com/specql/specql-ops/runners"
)

const (
	// ample is a timeout that only a fault exceeds.
	ample = 30 * time.Second
	// soon bounds how long a runner may take to return after its context
	// ended, with room for a grace period and a busy machine.
	soon = 5 * time.Second
	// short is the timeout that Hang calls run into.
	short = 400 * time.Millisecond
	// crowd is the number of calls that run at once.
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
		{"a huge answer is bounded", hugeAnswerIsBounded},
		{"a timeout ends the attempt and is named", timeoutIsNamed},
		{"a cancelled attempt returns promptly", cancelIsPrompt},
		{"an ended context starts nothing", endedContextStartsNothing},
		{"a refusal says what is not allowed", refusalIsPolicyError},
		{"a secret reaches neither output nor security record", secretIsMasked},
		{"any number of calls run at once", manyAtOnce},
		{"a call is left as it was", callIsUnchanged},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.keep(t, h) })
	}
	goleak.VerifyNone(t, before)
}

// run makes one call with the timeout that the agent would give it, and
// checks what holds for every result.
func run(t *testing.T, ctx context.Context, r runners.Runner, call runners.Call, timeout time.Duration) (runners.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	call.Timeout = timeout
	result, err := r.Run(ctx, call)
	checkResult(t, result, err)
	return result, err
}

// checkResult fails the test when a result could not be recorded, or shows
// the planted secret. It may be called from any goroutine.
func checkResult(t *testing.T, result runners.Result, err error) {
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
}

func objectIsOutput(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), r, h.Call(t, Succeed), ample)
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
	result, err := run(t, t.Context(), r, h.Call(t, PlainText), ample)
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
	_, err := run(t, t.Context(), r, h.Call(t, Fail), ample)
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

// hugeAnswerIsBounded relies on checkResult for the bound on the output.
func hugeAnswerIsBounded(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), r, h.Call(t, HugeOutput), ample)
	var limit *runners.LimitError
	if err != nil && !errors.As(err, &limit) {
		t.Errorf("error is not a LimitError: %v", err)
	}
	if err == nil && result.Output == nil {
		t.Error("neither output nor an error that says why")
	}
}

func timeoutIsNamed(t *testing.T, h Harness) {
	r := h.New(t)
	start := time.Now()
	_, err := run(t, t.Context(), r, h.Call(t, Hang), short)
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

func cancelIsPrompt(t *testing.T, h Harness) {
	r := h.New(t)
	call := h.Call(t, Hang)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := run(t, ctx, r, call, ample)
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
	_, err := run(t, ctx, r, h.Call(t, Succeed), ample)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v does not wrap context.Canceled", err)
	}
}

func refusalIsPolicyError(t *testing.T, h Harness) {
	r := h.New(t)
	_, err := run(t, t.Context(), r, h.Call(t, Refused), ample)
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

// secretIsMasked relies on checkResult for the secret's absence; the work
// really shows what it sees, so there must be an output to look at.
func secretIsMasked(t *testing.T, h Harness) {
	r := h.New(t)
	result, err := run(t, t.Context(), r, h.Call(t, Reveal), ample)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Output) == 0 {
		t.Error("the work revealed nothing, so this shows nothing")
	}
}

func manyAtOnce(t *testing.T, h Harness) {
	r := h.New(t)
	calls := make([]runners.Call, crowd)
	for i := range calls {
		calls[i] = h.Call(t, Succeed)
	}
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(func() {
			if _, err := run(t, t.Context(), r, call, 2*ample); err != nil {
				t.Error(err)
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
	if _, err := run(t, t.Context(), r, call, ample); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(); after != before {
		t.Errorf("the call changed:\nbefore %s\nafter  %s", before, after)
	}
}
