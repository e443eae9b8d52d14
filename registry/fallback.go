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
	out := *c
	out.Services = slices.Clone(c.Services)
	out.byName = make(map[string]*Service, len(c.byName))
	for i, s := range out.Services {
		if other := fallen[s]; other != nil {
			out.Services[i] = other
		}
		out.byName[strings.ToLower(s.Name)] = out.Services[i]
	}
	return &out
}
