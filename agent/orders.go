package agent

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// obeyOrders does what operators want of this agent: pause, drain, resume,
// reload. It is told with each heartbeat, so an order reaches an agent that
// did not hear its signal too.
func (a *Agent) obeyOrders(p jobs.Pulse) {
	a.mu.Lock()
	was := a.wanted
	a.wanted = p.Wanted
	reload := p.ReloadAt != nil && (a.reloadAt == nil || p.ReloadAt.After(*a.reloadAt))
	a.reloadAt = p.ReloadAt
	look := a.reload
	a.mu.Unlock()
	if was != p.Wanted {
		a.log.Info("ordered by an operator", "wanted", p.Wanted)
		a.drainFrom = time.Now()
		a.ledger.pause(p.Wanted != jobs.AgentRunning)
		a.pulseIn(0) // the new state is shown at once
	}
	if reload && look != nil {
		look()
	}
	if p.Wanted != jobs.AgentDrained {
		return
	}
	if running, _ := a.ledger.state(); running > 0 {
		if time.Since(a.drainFrom) >= a.opt.Drain {
			a.ledger.cancelAll(errDrained)
		}
		a.pulseIn(earliestPulse)
	} else if was != p.Wanted || a.shown != jobs.AgentDrained {
		a.pulseIn(0)
	}
}

// stateWord is the agent's state for screens. a.mu is held.
func (a *Agent) stateWord(running int) string {
	switch {
	case a.draining:
		return jobs.AgentDraining
	case a.wanted == jobs.AgentPaused:
		return jobs.AgentPaused
	case a.wanted == jobs.AgentDrained && running > 0:
		return jobs.AgentDraining
	case a.wanted == jobs.AgentDrained:
		return jobs.AgentDrained
	}
	return jobs.AgentRunning
}

// publish writes what the registry says of the lanes, once for each snapshot.
func (a *Agent) publish(ctx context.Context, conn *pgx.Conn) error {
	a.mu.Lock()
	config := a.opt.Config
	a.mu.Unlock()
	if config == a.published {
		return nil
	}
	if err := jobs.PublishLanes(ctx, conn, config.Hash, laneSettings(config)); err != nil {
		return err
	}
	a.published = config
	return nil
}

func laneSettings(config *registry.Config) []jobs.LaneSettings {
	out := make([]jobs.LaneSettings, 0, len(config.Services))
	for _, s := range config.Services {
		out = append(out, jobs.LaneSettings{Service: s.Name, Type: s.ExecutionType, Concurrency: s.Concurrency, Gates: gatesOf(s)})
	}
	return out
}

// upkeep does, when it is this agent's turn, what some agent does for all.
func (a *Agent) upkeep(ctx context.Context, conn *pgx.Conn) error {
	return nil
}
