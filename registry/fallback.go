package registry

import (
	"slices"
	"strings"

	"github.com/specql/specql-ops/jobs"
)

// CanFallBack tells whether the service can run by http in place of its own
// type: its base_url says where.
func (s *Service) CanFallBack() bool {
	return s.ExecutionType != jobs.HTTP && s.RunnerConfig.BaseURL != ""
}

// FallBack is the registry with the named services run by http, where they can;
// everything else of them stands. It is c itself where that changes nothing.
func (c *Config) FallBack(names []string) *Config {
	fallen := map[*Service]*Service{}
	for _, name := range names {
		if s, ok := c.Service(name); ok && s.CanFallBack() {
			other := *s
			other.ExecutionType = jobs.HTTP
			fallen[s] = &other
		}
	}
	if len(fallen) == 0 {
		return c
	}
	out := &Config{File: c.File, Env: c.Env, Hash: c.Hash, Services: slices.Clone(c.Services), Alerts: c.Alerts,
		byName: make(map[string]*Service, len(c.byName)), secrets: c.secrets, tree: c.tree, source: c.source, files: c.files}
	for i, s := range out.Services {
		if other := fallen[s]; other != nil {
			out.Services[i] = other
		}
		out.byName[strings.ToLower(s.Name)] = out.Services[i]
	}
	return out
}
