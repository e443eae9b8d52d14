package registry

import (
	"slices"

	"github.com/specql/specql-ops/jobs"
)

// Readiness is how far a service has come in phase 2 of the guide: what it
// says explicitly. A field is "yes", "no" or "-", which means that its type
// has no use for it.
type Readiness struct {
	Service  string             `json:"service"`
	Type     jobs.ExecutionType `json:"execution_type"`
	Explicit string             `json:"explicit_type"`
	BaseURL  string             `json:"base_url"`
	Auth     string             `json:"auth"`
	Policy   string             `json:"policy"`
	Limits   string             `json:"limits"`
	Schemas  string             `json:"schemas"`
	Ready    bool               `json:"ready"`
	Missing  []string           `json:"missing,omitempty"` // what to add, in the guide's words
}

// ReadinessOf judges a file's services, valid or not; ok is false where it has
// no list of them at all.
func ReadinessOf(name string, data []byte, env string) (list []Readiness, ok bool) {
	c := Sketch(name, data, env)
	if c == nil {
		return nil, false
	}
	for _, s := range c.Services {
		list = append(list, readinessOf(s))
	}
	return list, true
}

func readinessOf(s *Service) Readiness {
	if t, err := jobs.ParseExecutionType(string(s.ExecutionType)); err == nil {
		s.ExecutionType = t
	}
	r := Readiness{Service: s.Name, Type: s.ExecutionType, BaseURL: "-", Auth: "-", Ready: true}
	judge := func(field *string, ok bool, missing string) {
		*field = "yes"
		if !ok {
			*field, r.Ready = "no", false
			r.Missing = append(r.Missing, missing)
		}
	}
	rc, p := &s.RunnerConfig, &s.SecurityPolicy
	limits := p.ResourceLimits
	judge(&r.Explicit, s.ExplicitType, "execution_type: "+string(s.ExecutionType))
	switch s.ExecutionType {
	case jobs.Shell:
		judge(&r.Policy, len(p.AllowedCommands) > 0, "security_policy.allowed_commands")
		judge(&r.Limits, limits.MemoryMB > 0 && (limits.CPUCores > 0 || limits.CPUSeconds > 0) && limits.TimeoutSeconds > 0,
			"resource_limits: cpu_cores, memory_mb, timeout_seconds")
	case jobs.Docker:
		judge(&r.Policy, len(p.AllowedImages) > 0, "security_policy.allowed_images")
		judge(&r.Limits, limits.MemoryMB > 0 && limits.CPUCores > 0 && limits.TimeoutSeconds > 0,
			"resource_limits: cpu_cores, memory_mb, timeout_seconds")
	case jobs.Serverless:
		judge(&r.Policy, len(p.AllowedRegions) > 0, "security_policy.allowed_regions")
		judge(&r.Limits, limits.TimeoutSeconds > 0 && p.CostLimits != CostLimits{}, "resource_limits.timeout_seconds and cost_limits")
	default:
		judge(&r.BaseURL, rc.BaseURL != "", "runner_config.base_url")
		judge(&r.Auth, rc.AuthType != "", "runner_config.auth_type (none, where there is none)")
		judge(&r.Policy, len(p.AllowedDomains) > 0, "security_policy.allowed_domains")
		judge(&r.Limits, rc.Timeout > 0 && p.MaxRequestSize > 0 && p.RateLimitPerMinute > 0,
			"timeout, max_request_size, rate_limit_per_minute")
	}
	bare := slices.ContainsFunc(s.Operations, func(op Operation) bool { return len(op.InputSchema) == 0 || len(op.OutputSchema) == 0 })
	judge(&r.Schemas, len(s.Operations) > 0 && !bare, "input_schema and output_schema of each operation")
	return r
}
