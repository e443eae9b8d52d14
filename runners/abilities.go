package runners

import (
	"fmt"
	"time"

	"github.com/specql/specql-ops/registry"
)

// What a runner may be able to do beyond running jobs. The agent asks by type
// assertion; a runner without an ability has nothing to do there.

// Limited is a runner whose host may not give what a service demands. Cannot
// says why not, in the operator's words; empty: it can. The agent takes no jobs
// of such a service and shows the reason: they wait for a host that can.
// It is asked once per registry, not once per job.
type Limited interface {
	Cannot(service *registry.Service) (reason string)
}

// Reloader is a runner that keeps something per service, such as connections or
// processes started ahead. Reload tells it of the registry that the next jobs
// are claimed with; jobs under way keep theirs. It does not block.
type Reloader interface {
	Reload(config *registry.Config)
}

// Selective is a runner that shares its type with others, such as the functions of
// one cloud provider among several: it runs the services that it serves.
type Selective interface {
	Serves(service *registry.Service) bool
}

// Sweeper is a runner that can find what a killed agent left on this host.
// Sweep removes it, and leaves alone what a living agent owns. The agent calls
// it before it claims.
type Sweeper interface {
	Sweep() (removed int, err error)
}

// Priced is a runner whose attempts cost money. MostCost is the most that one
// attempt of the service may cost, in USD: what is set aside of max_cost_per_hour
// with each claim. It answers at once, by what is known so far; 0: the service has no price.
type Priced interface {
	MostCost(service *registry.Service) float64
}

// BusyError says that the attempt was not started because what would run it has
// no room or is away for the moment: a throttled function, an engine that
// restarts. The job goes back to its place, the attempt does not count, and the
// service's lane is closed for After.
type BusyError struct {
	Service string
	Reason  string        // for the operator: "the Docker engine does not answer"
	After   time.Duration // not negative
}

// Error names the service and the reason.
func (e *BusyError) Error() string {
	return fmt.Sprintf("service %s has to wait %s: %s", e.Service, e.After, e.Reason)
}

// Check is one finding of what this host can run, for `specql-agent doctor`, the
// agents page and phase 3 of the migration.
type Check struct {
	Name   string `json:"name"`             // "landlock", "engine", "identity"
	OK     bool   `json:"ok"`               // false: something cannot be had here
	Found  string `json:"found"`            // what was found, with versions
	Advice string `json:"advice,omitempty"` // what to change to get more
}
