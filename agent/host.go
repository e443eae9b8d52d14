package agent

import (
	"encoding/json"
	"slices"

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

// runner is the one that runs the service's jobs; nil: none of this agent's does.
func (a *Agent) runner(s *registry.Service) runners.Runner {
	for _, r := range a.opt.Runners {
		if r.Type() != s.ExecutionType {
			continue
		}
		if selective, ok := r.(runners.Selective); !ok || selective.Serves(s) {
			return r
		}
	}
	return nil
}

// cannot asks the runners which services of the registry demand more than this
// host gives. Jobs of these wait for a host that can.
func (a *Agent) cannot(config *registry.Config) map[string]string {
	reasons := map[string]string{}
	types := a.opt.types()
	for _, s := range config.Services {
		reason := ""
		switch r := a.runner(s).(type) {
		case nil:
			if slices.Contains(types, s.ExecutionType) {
				reason = "none of the " + string(s.ExecutionType) + " runners here serves it"
			}
		case runners.Limited:
			reason = r.Cannot(s)
		}
		if reason != "" {
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
	for _, r := range a.opt.Runners {
		sweeper, ok := r.(runners.Sweeper)
		if !ok {
			continue
		}
		t := r.Type()
		removed, err := sweeper.Sweep()
		if err != nil {
			a.log.Warn("what a killed agent left cannot be removed", "type", t, "error", err)
		}
		if removed > 0 {
			a.log.Warn("removed what a killed agent left", "type", t, "count", removed)
		}
	}
}
