package registry

import (
	"fmt"
	"io"
	"strings"

	"github.com/specql/specql-ops/jobs"
)

// Render writes what the registry came to: one line for each service or,
// verbose, each check that was made and each resolved value with the line
// that it comes from. Origins are there when Options.Origins asked for them.
// Secrets are masked.
func (c *Config) Render(w io.Writer, verbose bool) error {
	var b strings.Builder
	env := "base"
	if c.Env != "" {
		env = c.Env
	}
	fmt.Fprintf(&b, "%s (%s): %s, %s\n", c.File, env, count(len(c.Services), "service"), count(len(c.Alerts), "alert"))
	for i, s := range c.Services {
		names := make([]string, len(s.Operations))
		for j := range names {
			names[j] = s.Operations[j].Name
		}
		if !verbose {
			fmt.Fprintf(&b, "  %-24s %-10s %s\n", s.Name, s.ExecutionType, strings.Join(names, ", "))
			continue
		}
		fmt.Fprintf(&b, "\nservice %s (%s)\n", s.Name, s.ExecutionType)
		for _, check := range s.checks() {
			fmt.Fprintf(&b, "  checked  %s\n", check)
		}
		if i < len(c.tree) {
			c.renderNode(&b, "", "", c.tree[i])
		}
		for _, d := range s.defaults() {
			fmt.Fprintf(&b, "  %s = %s  (default)\n", d[0], d[1])
		}
	}
	for _, a := range c.Alerts {
		fmt.Fprintf(&b, "\nalert %s\n  %s for %s, looking back %s, severity %s\n",
			a.Name, a.Condition, a.ExecutionType, a.Window, a.Severity)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// renderNode writes the values below n with their lines.
func (c *Config) renderNode(b *strings.Builder, path, key string, n *node) {
	switch n.kind {
	case mapKind:
		for i := range n.kids {
			c.renderNode(b, joinPath(path, n.kids[i].key), n.kids[i].key, n.kids[i].node)
		}
	case seqKind:
		for i := range n.kids {
			c.renderNode(b, fmt.Sprintf("%s[%d]", path, i), key, n.kids[i].node)
		}
	case nullKind:
		fmt.Fprintf(b, "  %s = (not given)  %s:%d\n", path, c.File, n.line)
	default:
		value := c.shownValue(key, n.value())
		if n.kind == stringKind && value != masked {
			value = fmt.Sprintf("%q", value)
		}
		from := ""
		if n.exp != nil && len(n.exp.names) > 0 {
			from = " from " + strings.Join(n.exp.names, ", ")
			if len(n.exp.secrets) > 0 {
				value = masked
			}
		}
		fmt.Fprintf(b, "  %s = %s  %s:%d%s\n", path, value, c.File, n.line, from)
	}
}

// checks names what was checked of a service of this type, in order.
func (s *Service) checks() []string {
	out := []string{
		"required fields are there, and no unknown or duplicate ones",
		"types and ranges of all values",
		"each field has a meaning for " + string(s.ExecutionType) + " services",
		"operations have unique names, and their schemas are valid",
	}
	if s.ExecutionType == jobs.HTTP || s.RunnerConfig.BaseURL != "" {
		out = append(out, "base_url, its host against allowed_domains, allowed_networks",
			"auth_type against auth_config, tls, proxy, headers, methods, bodies and path templates")
	}
	switch s.ExecutionType {
	case jobs.Shell:
		out = append(out, "allowed_commands and directories are absolute, and the programs exist on this host",
			"commands against allowed_commands, $input fields against input_schema")
	case jobs.Docker:
		out = append(out, "image against allowed_images, network_mode against network_isolation",
			"volumes: paths, modes, volume_restrictions")
	case jobs.Serverless:
		out = append(out, "provider, region and function_name against the policy's lists",
			"timeouts and memory against AWS Lambda's bounds and resource_limits")
	}
	return out
}

// defaults lists the values that hold although the file does not give them.
func (s *Service) defaults() [][2]string {
	var out [][2]string
	add := func(name, value string) { out = append(out, [2]string{name, value}) }
	rc, p := &s.RunnerConfig, &s.SecurityPolicy
	if !s.ExplicitType {
		add("execution_type", string(s.ExecutionType))
	}
	if rc.Timeout == 0 {
		add("runner_config.timeout", fmt.Sprintf("%d", int(s.TimeoutFor(&Operation{}, 0).Seconds())))
	}
	switch s.ExecutionType {
	case jobs.HTTP:
		if len(p.AllowedDomains) == 0 && rc.BaseURL != "" {
			add("security_policy.allowed_domains", "the host of base_url")
		}
		if p.MaxRequestSize == 0 {
			add("security_policy.max_request_size", "10485760")
		}
		if p.MaxResponseSize == 0 {
			add("security_policy.max_response_size", "10485760")
		}
	case jobs.Shell:
		if p.NetworkAccess == "" {
			add("security_policy.network_access", "none")
		}
		if p.FileAccess == "" {
			add("security_policy.file_access", "read_write")
		}
	case jobs.Docker:
		if p.NetworkIsolation == nil {
			add("security_policy.network_isolation", "true")
		}
	}
	return out
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// typeCounts counts the services by type, in the types' order.
func (c *Config) typeCounts() string {
	var parts []string
	for _, t := range jobs.ExecutionTypes() {
		n := 0
		for _, s := range c.Services {
			if s.ExecutionType == t {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, t))
		}
	}
	return strings.Join(parts, ", ")
}
