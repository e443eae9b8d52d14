package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// noop is a runner that does nothing, and says when.
type noop struct {
	of    jobs.ExecutionType
	began func(*jobs.Job)
}

func (n noop) Type() jobs.ExecutionType { return n.of }

func (n noop) Run(_ context.Context, call runners.Call) (runners.Result, error) {
	n.began(call.Job)
	return runners.Result{}, nil
}

// noopService is the service that backlogs and single jobs are of.
const noopService = `{ name: noop, type: bench, category: bench, runner_config: { base_url: "http://192.0.2.1" },
	operations: [{ name: run, input_schema: {}, output_schema: {} }] }`

// parseRegistry makes a registry of services, each given as a YAML flow mapping.
func parseRegistry(services ...string) (*registry.Config, error) {
	text := "services:\n  - " + strings.Join(services, "\n  - ") + "\n"
	config, diags := registry.Parse("bench.yaml", []byte(text), registry.Options{})
	if config == nil {
		return nil, diags.Err()
	}
	return config, nil
}

// running is an agent in this process.
type running struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run; to be read when ended is closed
}

// startAgent runs an agent on the database with all its defaults. The caller
// stops it.
func startAgent(ctx context.Context, url string, slots int, services []string, with ...runners.Runner) (*running, error) {
	config, err := parseRegistry(services...)
	if err != nil {
		return nil, err
	}
	a, err := agent.New(agent.Options{DatabaseURL: url, Config: config, Slots: slots, Runners: with})
	if err != nil {
		return nil, err
	}
	working, cancel := context.WithCancel(ctx)
	r := &running{cancel: cancel, ended: make(chan struct{})}
	go func() {
		r.err = a.Run(working)
		close(r.ended)
	}()
	return r, nil
}

// stop lets the agent leave in order: it returns when everything that it did
// is recorded.
func (r *running) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// await waits for a moment of the measurement, unless the agent or ctx ends
// before.
func (r *running) await(ctx context.Context, moment <-chan struct{}) error {
	select {
	case <-moment:
		return nil
	case <-r.ended:
		return fmt.Errorf("the agent ended by itself: %w", r.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}
