package agent

import (
	"encoding/json"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Abilities are what a host can run: the findings about each execution type,
// for jobs.tb_agent, where consoles read them.
type Abilities map[jobs.ExecutionType][]runners.Check

func (a Abilities) json() json.RawMessage {
	if len(a) == 0 {
		return nil
	}
	raw, _ := json.Marshal(a) // strings and booleans: it cannot fail
	return raw
}

// cannot asks the runners which services of the registry demand more than this
// host gives. Jobs of these wait for a host that can.
func (a *Agent) cannot(config *registry.Config) map[string]string {
	reasons := map[string]string{}
	for _, s := range config.Services {
		limited, ok := a.runners[s.ExecutionType].(runners.Limited)
		if !ok {
			continue
		}
		if reason := limited.Cannot(s); reason != "" {
			reasons[s.Name] = printable(reason)
			a.log.Warn("this host cannot run a service, its jobs wait for one that can", "service", s.Name, "reason", reason)
		}
	}
	return reasons
}

func (l *ledger) cannotRun() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cannot
}

// sweep lets the runners remove what an agent left that was killed on this
// host, before any job is claimed.
func (a *Agent) sweep() {
	for _, t := range a.opt.types() {
		sweeper, ok := a.runners[t].(runners.Sweeper)
		if !ok {
			continue
		}
		removed, err := sweeper.Sweep()
		if err != nil {
			a.log.Warn("what a killed agent left cannot be removed", "type", t, "error", err)
		}
		if removed > 0 {
			a.log.Warn("removed what a killed agent left", "type", t, "count", removed)
		}
	}
}
