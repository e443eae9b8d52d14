package serverless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

var errBrokenOff = errors.New("the function's answer broke off")

// FunctionError is a function's own failure.
type FunctionError struct {
	Function string
	Type     string   // "errorString", "ValueError", "Runtime.ExitError" …
	Message  string   // as the function words it
	Trace    []string // a line a frame, the innermost first as the runtime has it; bounded
}

// Error gives type, message and trace.
func (e *FunctionError) Error() string {
	text := fmt.Sprintf("function %s failed: ", e.Function)
	if e.Type != "" {
		text += e.Type + ": "
	}
	text += e.Message
	for _, line := range e.Trace {
		text += "\n\tat " + line
	}
	return text
}

// Bounds of a trace in an error message.
const (
	maxFrames = 12
	maxLine   = 300 // bytes
	maxWords  = 2000
)

// functionError reads the payload of an invocation that failed: the error object
// that every runtime writes, with the trace in the form of its language.
func functionError(s *registry.Service, said *answer, r report) error {
	var payload struct {
		Type       string            `json:"errorType"`
		Message    json.RawMessage   `json:"errorMessage"`
		StackTrace []json.RawMessage `json:"stackTrace"` // Go, Java, Python, .NET
		Trace      []json.RawMessage `json:"trace"`      // Node.js, Ruby
	}
	e := &FunctionError{Function: s.RunnerConfig.FunctionName, Type: said.functionError}
	if err := json.Unmarshal(said.payload, &payload); err != nil {
		e.Message = shorten(string(said.payload), maxWords)
	} else {
		if payload.Type != "" {
			e.Type = payload.Type
		}
		if json.Unmarshal(payload.Message, &e.Message) != nil {
			e.Message = string(payload.Message)
		}
		e.Message = shorten(e.Message, maxWords)
		e.Trace = traceLines(append(payload.StackTrace, payload.Trace...))
	}
	memory := fmt.Sprintf("%d MB", r.memoryMB)
	switch _, words, _ := strings.Cut(e.Message, "Task timed out after "); {
	case e.Type == "Sandbox.Timedout" || words != "" && r.status == "timeout" || words != "" && payload.Type == "":
		return &runners.LimitError{Limit: "timeout_seconds", Allowed: "the timeout of function " + e.Function + " itself: " + shorten(e.Message, maxLine)}
	case e.Type == "Runtime.OutOfMemory", strings.Contains(e.Message, "signal: killed") && r.memoryMB > 0 && r.usedMB >= r.memoryMB:
		return &runners.LimitError{Limit: "memory_mb", Used: fmt.Sprintf("all of it (%d MB at last)", r.usedMB), Allowed: memory + ", which function " + e.Function + " has"}
	case e.Type == "Function.ResponseSizeTooLarge":
		return &runners.FinalError{Err: &runners.LimitError{Limit: "max_response_size", Used: "more", Allowed: "6 MB in a buffered answer; invocation_type: response_stream takes more"}}
	}
	return e
}

// traceLines writes frames as lines, whatever the runtime makes them of.
func traceLines(frames []json.RawMessage) []string {
	var lines []string
	for i, raw := range frames {
		if i == maxFrames {
			lines = append(lines, fmt.Sprintf("… %d more", len(frames)-i))
			break
		}
		var text string
		var frame struct {
			Path  string `json:"path"`
			Line  int    `json:"line"`
			Label string `json:"label"`
		}
		switch {
		case json.Unmarshal(raw, &text) == nil:
			text = strings.Join(strings.Fields(text), " ")
		case json.Unmarshal(raw, &frame) == nil && frame.Label != "":
			text = fmt.Sprintf("%s (%s:%d)", frame.Label, frame.Path, frame.Line)
		default:
			text = string(raw)
		}
		lines = append(lines, strings.TrimPrefix(shorten(text, maxLine), "at "))
	}
	return lines
}

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// costOfRefusal is what a call cost that brought no answer of the function:
// nothing, where it never came to AWS or AWS said that it is at fault; nil where
// nobody knows.
func costOfRefusal(in *invocation, err error) *float64 {
	var answered *awshttp.ResponseError
	status := 0 // also the SDK's where no answer came
	if errors.As(err, &answered) {
		status = answered.HTTPStatusCode()
	}
	if !in.sent.Load() || status >= http.StatusBadRequest && status < http.StatusInternalServerError {
		return new(float64)
	}
	return nil
}

// sourceOf is the operation of AWS STS that failed for want of credentials; empty
// where the call of the function itself did.
func sourceOf(err error) string {
	for op := (*smithy.OperationError)(nil); errors.As(err, &op); err = op.Err {
		if op.Service() == sts.ServiceID {
			return op.Operation()
		}
	}
	return ""
}

// explain words what the API refused.
func (r *Runner) explain(ctx context.Context, call runners.Call, in *invocation, err error) error {
	if ctx.Err() != nil {
		return stopped(ctx, call, in.sent.Load(), err)
	}
	s := call.Service
	where := fmt.Sprintf("function %s in %s", in.function, s.RunnerConfig.Region)
	source := sourceOf(err)
	if source != "" {
		where += ", for which AWS STS gives credentials (" + source + ")"
	}
	fault := func(format string, args ...any) error {
		return &runners.ConfigError{Service: s.Name, Problem: fmt.Sprintf(format, args...)}
	}
	var throttled *types.TooManyRequestsException
	if errors.As(err, &throttled) {
		reason := "AWS Lambda throttles " + where
		if throttled.Reason != "" {
			reason += ": " + string(throttled.Reason)
		}
		return &runners.BusyError{Service: s.Name, Reason: reason, After: retryAfter(aws.ToString(throttled.RetryAfterSeconds))}
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("call %s: %w", where, err)
	}
	said := shorten(api.ErrorMessage(), maxLine)
	switch api.ErrorCode() {
	case "ThrottlingException", "Throttling", "RequestLimitExceeded", "EC2ThrottledException", "TooManyRequests":
		return &runners.BusyError{Service: s.Name, Reason: "AWS throttles calls of " + where, After: throttlePause}
	case "ResourceNotFoundException":
		if in.qualifier != "" {
			where += ", qualifier " + in.qualifier
		}
		return fault("AWS Lambda does not know %s: correct function_name, region or qualifier, or deploy it (%s)", where, said)
	case "AccessDeniedException", "AccessDenied":
		role := s.RunnerConfig.RoleARN
		switch {
		case source != "" && role != "":
			return fault("the agent's AWS identity may not assume the role %s: grant it sts:%s, and name it in the role's trust policy (%s)", role, source, said)
		case source != "":
			return fault("AWS STS refuses the agent's own credentials: let the trust policy of its role permit sts:%s (%s)", source, said)
		case role != "":
			return fault("the role %s may not call %s: grant it lambda:InvokeFunction (%s)", role, where, said)
		}
		return fault("the agent's AWS identity may not call %s: grant it lambda:InvokeFunction, or set role_arn (%s)", where, said)
	case "RequestTooLargeException":
		return &runners.FinalError{Err: &runners.LimitError{Limit: "max_request_size", Used: fmt.Sprintf("%d bytes of input_data", len(in.payload)), Allowed: said}}
	case "InvalidRequestContentException", "InvalidParameterValueException", "UnsupportedMediaTypeException", "ValidationException":
		return &runners.FinalError{Err: fmt.Errorf("AWS Lambda refuses the call of %s: %s: %s", where, api.ErrorCode(), said)}
	}
	return fmt.Errorf("call %s: %s: %s", where, api.ErrorCode(), said)
}

// throttlePause is how long a throttled service's lane stays closed where AWS
// does not say.
const throttlePause = time.Second

func retryAfter(seconds string) time.Duration {
	n, err := strconv.ParseFloat(seconds, 64)
	if err != nil || n <= 0 || math.IsNaN(n) {
		return throttlePause
	}
	return time.Duration(min(n, 3600) * float64(time.Second))
}
