package shell

import (
	"encoding/json"
	"errors"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Cannot says what a service demands and this host does not give; empty where
// it gives all of it.
func (r *Runner) Cannot(service *registry.Service) (reason string) {
	p, err := effectivePolicy(runners.Call{Job: &jobs.Job{Input: json.RawMessage("{}")}, Service: service})
	if err != nil {
		return "" // the registry's fault and not the host's
	}
	_, err = planFor(r.host, p)
	var refused *runners.PolicyError
	if !errors.As(err, &refused) {
		return ""
	}
	return "it asks for " + refused.Offered
}

// Sweep removes what an agent left that was killed on this host, and returns
// how much that was. New does it too.
func (r *Runner) Sweep() (removed int, err error) { return r.sys.sweep(r) }
