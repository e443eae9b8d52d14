package agent

import (
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// tellRunners tells those runners that keep something per service which
// registry the next jobs are claimed with.
func (a *Agent) tellRunners(config *registry.Config) {
	for _, r := range a.opt.Runners {
		if keeper, ok := r.(runners.Reloader); ok {
			keeper.Reload(config)
		}
	}
}
