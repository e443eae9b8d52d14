package program

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"

	"github.com/specql/specql-ops/runners"
)

// Variables is what a program gets as its environment, sorted by name: the
// host's defaults, then what the registry gives, then SPECQL_*, which nothing
// overrides. The trace of the span that ctx carries goes along. The error is a
// *runners.ConfigError.
func Variables(ctx context.Context, call runners.Call, defaults map[string]string) ([]string, error) {
	key := call.Job.IdempotencyKey
	if key == "" {
		key = call.Job.ID.String()
	}
	fault := func(format string, args ...any) error {
		return &runners.ConfigError{Service: call.Service.Name, Problem: fmt.Sprintf(format, args...)}
	}
	vars := map[string]string{}
	maps.Copy(vars, defaults)
	for name, value := range call.Service.RunnerConfig.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return nil, fault("runner_config.environment: %q cannot be a variable: a name without \"=\" and a value without NUL are needed", name)
		}
		vars[name] = value
	}
	maps.Copy(vars, map[string]string{
		"SPECQL_JOB_ID":          call.Job.ID.String(),
		"SPECQL_IDENTIFIER":      call.Job.Identifier,
		"SPECQL_SERVICE":         call.Service.Name,
		"SPECQL_OPERATION":       call.Operation.Name,
		"SPECQL_ATTEMPT":         strconv.Itoa(call.Job.Attempt),
		"SPECQL_MAX_ATTEMPTS":    strconv.Itoa(call.Job.MaxAttempts),
		"SPECQL_IDEMPOTENCY_KEY": key,
		"SPECQL_CORRELATION_ID":  call.Job.CorrelationID,
		"SPECQL_TENANT_ID":       call.Job.TenantID,
		"SPECQL_TIMEOUT_SECONDS": strconv.FormatFloat(call.Timeout.Seconds(), 'f', -1, 64),
	})
	carried := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carried)
	for name, value := range carried { // traceparent, tracestate
		vars["SPECQL_"+strings.ToUpper(name)] = value
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if strings.ContainsRune(vars[name], 0) {
			return nil, fault("%s would hold a NUL character; correct the row", name)
		}
		env = append(env, name+"="+vars[name])
	}
	return env, nil
}
