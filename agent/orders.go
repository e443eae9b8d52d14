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
	switch {
	case !reload:
	case look != nil:
		look()
	default:
		a.log.Warn("asked to reload, but this agent follows no file")
		a.answerReload()
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

// answerReload shows with the next heartbeat that the file was looked at.
func (a *Agent) answerReload() {
	a.mu.Lock()
	a.reloaded = a.reloadAt
	a.mu.Unlock()
	a.pulseIn(0)
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

// lanesEvery is how often an agent looks whether the lanes still stand.
const lanesEvery = time.Minute

// publish writes what the registry says of the lanes, once for each snapshot,
// and again when the agent whose snapshot they show is gone.
func (a *Agent) publish(ctx context.Context, conn *pgx.Conn) error {
	config := a.config()
	if config == a.published {
		if time.Since(a.lanesSeen) < lanesEvery {
			return nil
		}
		a.lanesSeen = time.Now()
		if stand, err := jobs.LanesStand(ctx, conn, serviceNames(config)); err != nil || stand {
			return err
		}
	}
	if err := jobs.TellCannot(ctx, conn, a.ledger.incarnation(), a.ledger.cannotRun()); err != nil {
		return err
	}
	if err := jobs.TellVariables(ctx, conn, a.ledger.incarnation(), variables(config)); err != nil {
		return err
	}
	if err := jobs.PublishLanes(ctx, conn, config.Hash, laneSettings(config)); err != nil {
		return err
	}
	a.published, a.lanesSeen = config, time.Now()
	return nil
}

func laneSettings(config *registry.Config) []jobs.LaneSettings {
	out := make([]jobs.LaneSettings, 0, len(config.Services))
	for _, s := range config.Services {
		out = append(out, jobs.LaneSettings{Service: s.Name, Type: s.ExecutionType, Concurrency: s.Concurrency, Gates: gatesOf(s), Fallback: s.CanFallBack()})
	}
	return out
}

func serviceNames(config *registry.Config) []string {
	names := make([]string, len(config.Services))
	for i, s := range config.Services {
		names[i] = s.Name
	}
	return names
}
