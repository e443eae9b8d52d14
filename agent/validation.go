package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// How a job's documents are compared with their schemas, as the service's
// validation says: off looks at nothing; warn records what does not fit in the
// job's security_context under "validation", and counts it; strict fails the
// attempt for good, before the runner where the input does not fit.

// runChecked makes the attempt between the two comparisons.
func (a *Agent) runChecked(ctx context.Context, config *registry.Config, task runners.Call) (runners.Result, error) {
	mode := task.Service.ValidationMode()
	run := a.runner(task.Service).Run
	if mode == registry.ValidationOff {
		return run(ctx, task)
	}
	strict := mode == registry.ValidationStrict
	input := config.CheckInput(task.Operation, task.Job.Input)
	if len(input) > 0 {
		a.counts.unfitInputs.Add(1)
		if strict {
			return misfit(unstarted(task), "input", input), unfit(task, "input_data", "input_schema", input)
		}
	}
	result, err := run(ctx, task)
	if len(input) > 0 {
		result = misfit(result, "input", input)
	}
	if err != nil {
		return result, err
	}
	if output := config.CheckOutput(task.Operation, result.Output); len(output) > 0 {
		a.counts.unfitOutputs.Add(1)
		result = misfit(result, "output", output)
		if strict {
			return result, unfit(task, "the answer", "output_schema", output)
		}
	}
	return result, nil
}

// unstarted is the result of an attempt that never came to its runner. What was
// set aside for it is given back.
func unstarted(task runners.Call) (result runners.Result) {
	if task.ReservedUSD > 0 {
		result.Usage.CostUSD = new(float64)
	}
	return result
}

// misfit records faults with the attempt.
func misfit(result runners.Result, what string, faults []string) runners.Result {
	held := make(map[string]any, len(result.Security)+1)
	for k, v := range result.Security {
		held[k] = v
	}
	found := map[string]any{what: faults}
	if before, ok := held["validation"].(map[string]any); ok {
		for k, v := range before {
			found[k] = v
		}
	}
	held["validation"] = found
	result.Security = held
	return result
}

// unfit is the failure of a strict service; no retry makes the document fit.
func unfit(task runners.Call, what, schema string, faults []string) error {
	return &runners.FinalError{Err: fmt.Errorf("%s does not fit %s of operation %s of service %s (validation: strict): %s",
		what, schema, task.Operation.Name, task.Service.Name, strings.Join(faults, "; "))}
}
