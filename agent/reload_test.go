package agent

import (
	"context"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// keeper is a runner that keeps something per service.
type keeper struct {
	fake
	told chan *registry.Config
}

func (k keeper) Reload(config *registry.Config) { k.told <- config }

func TestRunnersThatKeepSomethingAreToldOfEachRegistry(t *testing.T) {
	w := newWorld(t)
	k := keeper{fake{jobs.HTTP, func(context.Context, runners.Call) (runners.Result, error) { return runners.Result{}, nil }}, make(chan *registry.Config, 2)}
	first, second := parse(t, "a:http"), parse(t, "b:http")
	a, _ := w.start(Options{Config: first, Runners: []runners.Runner{k}})
	if got := <-k.told; got != first {
		t.Errorf("told of %v at the start", got)
	}
	a.Apply(second)
	if got := <-k.told; got != second {
		t.Errorf("told of %v after a reload", got)
	}
}
