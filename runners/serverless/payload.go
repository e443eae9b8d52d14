package serverless

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/propagation"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// The ways to invoke a function, as invocation_type writes them.
const (
	requestResponse = "request_response"
	event           = "event"
	responseStream  = "response_stream"
)

// Quotas of AWS Lambda, in bytes (docs.aws.amazon.com, "Lambda quotas").
const (
	maxPayload       = 6 << 20
	maxEvent         = 1 << 20
	maxClientContext = 3583 // encoded
)

// defaultMaxAnswer is max_response_size where the registry gives none.
const defaultMaxAnswer = 10 << 20

// invocation is what is sent for an attempt.
type invocation struct {
	function, qualifier string
	kind                string
	payload             []byte
	clientContext       string // base64
	traceID             string // for AWS X-Ray; empty: none
	maxAnswer           int64

	sent atomic.Bool // it may have reached AWS
}

func qualifierOf(s *registry.Service, op *registry.Operation) string {
	return cmp.Or(op.Qualifier, s.RunnerConfig.Qualifier)
}

func kindOf(s *registry.Service, op *registry.Operation) string {
	return cmp.Or(op.InvocationType, s.RunnerConfig.InvocationType, requestResponse)
}

func newInvocation(ctx context.Context, call runners.Call) (*invocation, error) {
	s, rc := call.Service, &call.Service.RunnerConfig
	in := &invocation{function: rc.FunctionName, qualifier: qualifierOf(s, call.Operation), payload: call.Job.Input,
		kind:      kindOf(s, call.Operation),
		maxAnswer: cmp.Or(s.SecurityPolicy.MaxResponseSize, defaultMaxAnswer)}
	if len(in.payload) == 0 {
		in.payload = []byte("{}")
	}
	if !json.Valid(in.payload) {
		return nil, &runners.ConfigError{Service: s.Name, Problem: "the job's input_data is not JSON"}
	}
	limit := int64(maxPayload)
	if in.kind == event {
		limit = maxEvent
	}
	if most := s.SecurityPolicy.MaxRequestSize; most > 0 {
		limit = min(limit, most)
	}
	if n := int64(len(in.payload)); n > limit {
		return nil, &runners.FinalError{Err: &runners.LimitError{Limit: "max_request_size",
			Used: fmt.Sprintf("%d bytes of input_data", n), Allowed: fmt.Sprintf("%d bytes; AWS Lambda takes no larger payload than %d", limit, awsLimit(in.kind))}}
	}
	return in, in.setContext(ctx, call)
}

func awsLimit(kind string) int {
	if kind == event {
		return maxEvent
	}
	return maxPayload
}

// setContext says in the client context which job and attempt this is.
func (in *invocation) setContext(ctx context.Context, call runners.Call) error {
	job := call.Job
	custom := map[string]string{
		"job_id": job.ID.String(), "identifier": job.Identifier, "attempt": strconv.Itoa(job.Attempt),
		"correlation_id": job.CorrelationID, "tenant_id": job.TenantID,
		"idempotency_key": cmp.Or(job.IdempotencyKey, job.ID.String()),
	}
	propagation.TraceContext{}.Inject(ctx, propagation.MapCarrier(custom))
	for name, value := range custom {
		if value == "" {
			delete(custom, name)
		}
	}
	in.traceID = xray(custom["traceparent"])
	in.clientContext = base64.StdEncoding.EncodeToString(encode(map[string]any{"custom": custom}))
	if n := len(in.clientContext); n > maxClientContext {
		return &runners.ConfigError{Service: call.Service.Name, Problem: fmt.Sprintf(
			"identifier, correlation_id and idempotency_key of the job are %d bytes in AWS Lambda's client context, which takes %d: shorten them", n, maxClientContext)}
	}
	return nil
}

// xray writes a W3C traceparent as AWS X-Ray's header X-Amzn-Trace-Id, which a
// function gets with every kind of invocation.
func xray(traceparent string) string {
	part := strings.Split(traceparent, "-")
	if len(part) != 4 || len(part[1]) != 32 {
		return ""
	}
	sampled := "0"
	if flags, err := strconv.ParseUint(part[3], 16, 8); err == nil && flags&1 == 1 {
		sampled = "1"
	}
	return "Root=1-" + part[1][:8] + "-" + part[1][8:] + ";Parent=" + part[2] + ";Sampled=" + sampled
}

// provider is the one whose functions the package invokes.
const provider = "aws"

func providerOf(s *registry.Service) string {
	return cmp.Or(strings.ToLower(s.RunnerConfig.Provider), provider)
}

// permit holds the call against the registry's policy, and what the row narrows.
func permit(call runners.Call) error {
	s := call.Service
	rc, policy := &s.RunnerConfig, &s.SecurityPolicy
	switch {
	case providerOf(s) != provider:
		return &runners.ConfigError{Service: s.Name, Problem: fmt.Sprintf("provider %q is not supported: aws is", rc.Provider)}
	case len(policy.AllowedProviders) > 0 && !slices.Contains(policy.AllowedProviders, provider):
		return &runners.PolicyError{Service: s.Name, Rule: "allowed_providers", Offered: provider, Permit: "allowed_providers: [aws]"}
	case rc.FunctionName == "" || rc.Region == "":
		return &runners.ConfigError{Service: s.Name, Problem: "runner_config needs function_name and region"}
	case len(policy.AllowedRegions) > 0 && !slices.Contains(policy.AllowedRegions, rc.Region):
		return &runners.PolicyError{Service: s.Name, Rule: "allowed_regions", Offered: rc.Region,
			Permit: fmt.Sprintf("allowed_regions: [%s]", strings.Join(append(slices.Clone(policy.AllowedRegions), rc.Region), ", "))}
	}
	var row struct {
		Regions *[]string `json:"allowed_regions"`
	}
	if raw := call.Job.SecurityContext; len(raw) > 0 && json.Unmarshal(raw, &row) != nil {
		return &runners.ConfigError{Service: s.Name, Problem: "the job's security_context is not an object with a list of regions as allowed_regions"}
	}
	if row.Regions != nil && !slices.Contains(*row.Regions, rc.Region) {
		return &runners.PolicyError{Service: s.Name, Rule: "allowed_regions", Offered: rc.Region + " (the job's own security_context leaves it out)"}
	}
	return nil
}
