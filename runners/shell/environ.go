package shell

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"

	"github.com/specql/specql-ops/runners"
)

// defaultPath is a job's PATH where the registry gives none.
const defaultPath = "/usr/bin:/bin"

// environment is the whole environment of an attempt, sorted by name: PATH,
// HOME and TMPDIR, then what the registry gives, then SPECQL_*, which nothing
// overrides. The trace of the span that ctx carries goes along.
func environment(ctx context.Context, call runners.Call, tmp string) ([]string, error) {
	key := call.Job.IdempotencyKey
	if key == "" {
		key = call.Job.ID.String()
	}
	vars := map[string]string{"PATH": defaultPath, "HOME": tmp, "TMPDIR": tmp}
	for name, value := range call.Service.RunnerConfig.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return nil, configErrorf(call.Service.Name, "runner_config.environment: %q cannot be a variable: a name without \"=\" and a value without NUL are needed", name)
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
			return nil, configErrorf(call.Service.Name, "%s would hold a NUL character; correct the row", name)
		}
		env = append(env, name+"="+vars[name])
	}
	return env, nil
}
