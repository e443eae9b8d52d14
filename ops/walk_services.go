package ops

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// serviceChecks are phase 2: a step for each service of the applied registry.
func (f *walkFacts) serviceChecks() []check {
	all := []check{{phase: 2, needs: []string{"registry-valid"}, WalkStep: WalkStep{ID: "services-known", Title: "Services known", Guide: []string{"All services migrated or have migration plan"},
		Why: "Jobs of a service that the registry does not have wait for ever.", Command: "specql-tui services"}, look: knownEvidence}}
	needs := []string{"services-known"}
	if f.config != nil {
		for _, s := range f.config.Services {
			id := "service:" + s.Name
			needs = append(needs, id)
			all = append(all, check{phase: 2, needs: []string{"registry-valid"}, WalkStep: WalkStep{ID: id, Title: s.Name, Type: s.ExecutionType,
				Why:     "What the registry says explicitly need not be guessed at three in the morning.",
				Command: "specql-tui validate-config " + f.versions[0].File + " --verbose"},
				look: func(f *walkFacts) []Evidence { return f.serviceEvidence(s) }})
		}
	}
	return append(all, check{phase: 2, needs: needs, WalkStep: WalkStep{ID: "registry-enhanced", Title: "Phase 2 complete", Guide: []string{"Service registry enhanced"},
		Why: "Every service above is explicit, or a person decided to leave it."},
		look: func(f *walkFacts) []Evidence { return []Evidence{ok("every service is explicit or waived")} }})
}

func knownEvidence(f *walkFacts) []Evidence {
	unknown := map[string]bool{}
	for key := range f.day.services {
		if f.config != nil {
			if _, known := f.config.Service(key.service); !known {
				unknown[key.service] = true
			}
		}
	}
	if f.config == nil {
		return []Evidence{wrong("the applied registry cannot be read")}
	}
	if len(unknown) == 0 {
		return []Evidence{ok("every service whose jobs ended in the last 24 hours is in the registry (%s)", plural(len(f.config.Services), "service"))}
	}
	var all []Evidence
	for name := range unknown {
		all = append(all, wrong("jobs of %s ended in the last 24 hours, and the registry does not have it", name))
	}
	slices.SortFunc(all, func(a, b Evidence) int { return strings.Compare(a.Text, b.Text) })
	return all
}

func (f *walkFacts) serviceEvidence(s *registry.Service) []Evidence {
	lines := f.linesOf(s.Name)
	var all []Evidence
	add := func(yes bool, good, bad, advice string) {
		e := ok("%s", good)
		if !yes {
			e = lacking("%s", bad).advise(advice)
		}
		all = append(all, e)
	}
	add(s.ExplicitType, "execution_type "+string(s.ExecutionType)+" is explicit", "execution_type is not given, http is assumed", "  execution_type: http")
	p := &s.SecurityPolicy
	if s.ExecutionType == jobs.HTTP {
		add(s.RunnerConfig.BaseURL != "", "base_url is given", "no base_url: it runs only jobs that bring their own address", "  runner_config: { base_url: \"https://…\" }")
		add(len(p.AllowedDomains) > 0 || s.RunnerConfig.BaseURL != "", "the domains it may call are bounded", "allowed_domains is empty", "  security_policy: { allowed_domains: [\"api.example.com\"] }")
	} else {
		l := p.ResourceLimits
		add(s.ExecutionType == jobs.Serverless || l.MemoryMB > 0, "resource_limits bound it", "resource_limits give no memory_mb", "  security_policy: { resource_limits: { memory_mb: 512 } }")
	}
	add(s.RunnerConfig.Timeout > 0 || p.ResourceLimits.TimeoutSeconds > 0 || allTimed(s), "a timeout is given",
		fmt.Sprintf("no timeout: %s is assumed", registry.DefaultTimeout(s.ExecutionType)), "  runner_config: { timeout: 30 }")
	var bare []string
	for _, op := range s.Operations {
		if op.InputSchema == nil || op.OutputSchema == nil {
			bare = append(bare, op.Name)
		}
	}
	add(len(bare) == 0, "every operation has its schemas", "without input_schema or output_schema: "+strings.Join(bare, ", "), "    input_schema: { field: string }")
	for _, name := range s.Variables() {
		all = append(all, f.variableEvidence(name))
	}
	if len(lines) > 0 {
		all = append(all, note("%s:%d", f.versions[0].File, lines[0].number).with(lines[0].text))
	}
	return all
}

func allTimed(s *registry.Service) bool {
	return len(s.Operations) > 0 && !slices.ContainsFunc(s.Operations, func(o registry.Operation) bool { return o.Timeout == 0 })
}

func (f *walkFacts) variableEvidence(name string) Evidence {
	var without []string
	for _, a := range f.agents {
		if !f.hosts[a.ID].Variables[name] {
			without = append(without, a.Name+" on "+a.Host)
		}
	}
	return iff(len(without) == 0, ok("%s is set on every agent", name), wrong("%s is not set for %s", name, strings.Join(without, ", ")))
}

type sourceLine struct {
	number int
	text   string
}

// linesOf finds where a service is named in the applied text.
func (f *walkFacts) linesOf(service string) (found []sourceLine) {
	named := regexp.MustCompile(`\bname:\s*["']?` + regexp.QuoteMeta(service) + `["']?\s*(,|}|#|$)`)
	for i, line := range strings.Split(f.document, "\n") {
		if named.MatchString(line) {
			found = append(found, sourceLine{i + 1, strings.TrimSpace(line)})
		}
	}
	return found
}
