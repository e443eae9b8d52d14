package registry

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/specql/specql-ops/jobs"
)

// checker looks at decoded services as a whole: what the types alone cannot
// say. It holds one service at a time.
type checker struct {
	rep    *report
	vars   *variables
	opt    Options
	exists map[string]string // what is wrong with a path on this host; empty: nothing

	s *Service
	n *node // the service's
}

func newChecker(rep *report, opt Options, vars *variables) *checker {
	return &checker{rep: rep, vars: vars, opt: opt, exists: map[string]string{}}
}

// at is the node below the service that keys lead to, or the nearest one
// above it that is there: where a message about it points.
func (c *checker) at(keys ...string) *node {
	n := c.n
	for _, k := range keys {
		next := n.get(k)
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

func (c *checker) add(sev Severity, code Code, n *node, help, format string, args ...any) {
	// Of a value that could not be expanded nothing more can be said.
	if n.exp != nil && n.exp.broken {
		return
	}
	c.rep.add(sev, code, n.line, n.col, "service "+serviceLabel(c.n)+": "+fmt.Sprintf(format, args...), help)
}

func (c *checker) fault(code Code, n *node, help, format string, args ...any) {
	c.add(Error, code, n, help, format, args...)
}

func (c *checker) warn(code Code, n *node, help, format string, args ...any) {
	c.add(Warning, code, n, help, format, args...)
}

// shown quotes a value for a message: what the file says, never what a
// variable holds.
func shown(n *node) string { return `"` + maskLine(clip(n.text)) + `"` }

func (c *checker) service(s *Service, n *node) {
	c.s, c.n = s, n
	c.required(n, "name", "type", "category")
	c.name()
	if !c.executionType() {
		return
	}
	c.words(n.get("validation"), "validation", ValidationOff, ValidationWarn, ValidationStrict)
	c.placement()
	c.operations()
	c.limits()
	if s.ExecutionType == jobs.HTTP || given(n.path("runner_config", "base_url")) {
		c.http()
	}
	switch s.ExecutionType {
	case jobs.Shell:
		c.shell()
	case jobs.Docker:
		c.docker()
	case jobs.Serverless:
		c.serverless()
	}
}

// required reports fields of n that are missing or empty.
func (c *checker) required(n *node, names ...string) {
	for _, name := range names {
		v := n.get(name)
		switch {
		case !given(v):
			c.fault(CodeMissing, orElse(v, n), "add "+name+":", "the field %s is required", name)
		case v.kind == stringKind && strings.TrimSpace(v.value()) == "":
			c.fault(CodeMissing, v, "give it a value", "the field %s is empty", name)
		}
	}
}

func (c *checker) name() {
	n := c.n.get("name")
	if !given(n) || n.kind != stringKind {
		return
	}
	switch {
	case strings.TrimSpace(c.s.Name) != c.s.Name:
		c.fault(CodeEnum, n, "remove the blanks", "the name begins or ends with a blank")
	case len(c.s.Name) > 200:
		c.fault(CodeEnum, n, "shorten it", "the name is longer than 200 bytes")
	case strings.ContainsFunc(c.s.Name, unicode.IsControl):
		c.fault(CodeEnum, n, "use letters, digits, _ and -", "the name holds a control character")
	}
}

// executionType folds the type's case; false when it is none of the known.
func (c *checker) executionType() bool {
	n := c.n.get("execution_type")
	if !given(n) {
		return true
	}
	if n.kind != stringKind {
		return false
	}
	t, err := jobs.ParseExecutionType(string(c.s.ExecutionType))
	if err != nil {
		words := make([]string, 0, 4)
		for _, known := range jobs.ExecutionTypes() {
			words = append(words, string(known))
		}
		help := "use " + oneOf(words)
		if near := nearest(n.text, words); near != "" {
			help = fmt.Sprintf("did you mean %q?", near)
		}
		c.fault(CodeEnum, n, help, "execution_type %s does not exist", shown(n))
		return false
	}
	if t != c.s.ExecutionType {
		c.warn(CodeEnum, n, "write execution_type: "+string(t), "execution_type %s is read as %s", shown(n), t)
		c.s.ExecutionType = t
	}
	return true
}

// placed says for which types a field has a meaning. Fields that are not
// listed have one for every type, as the http fields do: with base_url they
// make a service's HTTP fallback.
var placed = map[string]map[string][]jobs.ExecutionType{
	"runner_config": {
		"working_directory": {jobs.Shell}, "shell": {jobs.Shell}, "command_from_input": {jobs.Shell},
		"environment": {jobs.Shell, jobs.Docker}, "user": {jobs.Shell, jobs.Docker},
		"image": {jobs.Docker}, "command": {jobs.Docker}, "working_dir": {jobs.Docker}, "volumes": {jobs.Docker},
		"network_mode": {jobs.Docker}, "read_only": {jobs.Docker}, "tmpfs": {jobs.Docker}, "registry_auth": {jobs.Docker},
		"start_ahead": {jobs.Docker},
		"provider":    {jobs.Serverless}, "function_name": {jobs.Serverless}, "region": {jobs.Serverless},
		"memory_mb": {jobs.Serverless}, "qualifier": {jobs.Serverless}, "endpoint_url": {jobs.Serverless},
		"role_arn": {jobs.Serverless}, "invocation_type": {jobs.Serverless},
		"price_per_gb_second": {jobs.Serverless}, "price_per_million_requests": {jobs.Serverless},
	},
	"security_policy": {
		"allowed_commands": {jobs.Shell}, "working_directory_restrictions": {jobs.Shell},
		"network_access": {jobs.Shell}, "file_access": {jobs.Shell}, "isolation": {jobs.Shell},
		"allowed_images": {jobs.Docker}, "volume_restrictions": {jobs.Docker}, "network_isolation": {jobs.Docker},
		"allowed_providers": {jobs.Serverless}, "allowed_regions": {jobs.Serverless}, "cost_limits": {jobs.Serverless},
	},
	"operations": {"command": {jobs.Shell, jobs.Docker}, "qualifier": {jobs.Serverless}, "invocation_type": {jobs.Serverless}},
}

// placedHelp names the field that was probably meant.
var placedHelp = map[string]map[jobs.ExecutionType]string{
	"working_directory": {jobs.Docker: "a container's is called working_dir"},
	"working_dir":       {jobs.Shell: "a shell service's is called working_directory"},
	"command":           {jobs.Shell: "put command under the operation that it is for"},
	"memory_mb":         {jobs.Shell: "put it under security_policy.resource_limits", jobs.Docker: "put it under security_policy.resource_limits"},
}

// placement reports fields that mean nothing for the service's type. For a
// service that is explicitly http they are warnings: setting execution_type
// to http and leaving the rest is how the guide phases a service out.
func (c *checker) placement() {
	c.placedIn("runner_config", c.n.get("runner_config"))
	c.placedIn("security_policy", c.n.get("security_policy"))
	if ops := c.n.get("operations"); ops != nil && ops.kind == seqKind {
		for i := range ops.kids {
			c.placedIn("operations", ops.kids[i].node)
		}
	}
}

func (c *checker) placedIn(section string, n *node) {
	if n == nil || n.kind != mapKind {
		return
	}
	label := section
	if section == "operations" {
		label = "an operation"
	}
	for i := range n.kids {
		k := &n.kids[i]
		types, ok := placed[section][k.key]
		if !ok || slices.Contains(types, c.s.ExecutionType) || k.node.kind == nullKind {
			continue
		}
		words := make([]string, len(types))
		for j, t := range types {
			words[j] = string(t)
		}
		sev, help := Error, placedHelp[k.key][c.s.ExecutionType]
		if help == "" {
			help = "remove it, or check execution_type"
		}
		if c.s.ExecutionType == jobs.HTTP && c.s.ExplicitType {
			sev, help = Warning, "it is kept for the day when execution_type is set back; remove it otherwise"
		} else if !c.s.ExplicitType {
			help = "add execution_type: " + oneOf(words) + " (without it a service is http)"
		}
		at := &node{line: k.line, col: k.col}
		c.add(sev, CodeMisplaced, at, help, "%s of %s has a meaning for %s services only, and this one is %s",
			k.key, label, oneOf(words), c.s.ExecutionType)
	}
}

func (c *checker) operations() {
	list := c.n.get("operations")
	if !given(list) {
		c.fault(CodeMissing, orElse(list, c.n), "add operations: with - name: for each", "the field operations is required")
		return
	}
	if list.kind != seqKind {
		return
	}
	if len(list.kids) == 0 {
		c.fault(CodeMissing, list, "add - name: for each operation", "operations is empty")
	}
	names := map[string]int32{}
	for i := range list.kids {
		n := list.kids[i].node
		if n.kind != mapKind || i >= len(c.s.Operations) {
			continue
		}
		op := &c.s.Operations[i]
		c.required(n, "name")
		if line, dup := names[op.Name]; dup && op.Name != "" {
			c.fault(CodeDuplicateName, orElse(n.get("name"), n), "rename or remove one of them",
				"the operation %s stands twice, first in line %d", clip(op.Name), line)
		}
		names[op.Name] = n.line
		c.schema(n.get("input_schema"), "input_schema", op.InputSchema)
		c.schema(n.get("output_schema"), "output_schema", op.OutputSchema)
		c.httpOperation(op, n)
		c.command(op, n)
		c.timeoutLimit(n.get("timeout"), op.Timeout)
	}
}

// limits compares what the service asks for with what its own policy grants.
func (c *checker) limits() {
	c.timeoutLimit(c.n.path("runner_config", "timeout"), c.s.RunnerConfig.Timeout)
	if c.s.ExecutionType != jobs.Shell && c.s.ExecutionType != jobs.Docker {
		return
	}
	host, limits := c.opt.Host, c.s.SecurityPolicy.ResourceLimits
	if host.CPUs > 0 && limits.CPUCores > float64(host.CPUs) {
		c.warn(CodeHostLimit, c.at("security_policy", "resource_limits", "cpu_cores"), "lower it, or run the agent on a larger host",
			"cpu_cores %g is more than this host has, %d", limits.CPUCores, host.CPUs)
	}
	if host.MemoryMB > 0 && limits.MemoryMB > host.MemoryMB {
		c.warn(CodeHostLimit, c.at("security_policy", "resource_limits", "memory_mb"), "lower it, or run the agent on a larger host",
			"memory_mb %d is more than this host has, %d", limits.MemoryMB, host.MemoryMB)
	}
}

func (c *checker) timeoutLimit(n *node, seconds int) {
	limit := c.s.SecurityPolicy.ResourceLimits.TimeoutSeconds
	if given(n) && limit > 0 && seconds > limit {
		c.warn(CodeIgnored, n, "lower it, or raise the limit",
			"a timeout of %d s is cut to resource_limits.timeout_seconds, %d s", seconds, limit)
	}
}

// words reports a string that is none of the words.
func (c *checker) words(n *node, name string, words ...string) {
	if !given(n) || n.kind != stringKind || slices.Contains(words, n.value()) {
		return
	}
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" }) // allowed, but nothing to offer
	help := "use " + oneOf(words)
	if near := nearest(n.value(), words); near != "" {
		help = fmt.Sprintf("did you mean %q?", near)
	}
	c.fault(CodeEnum, n, help, "%s %s is not %s", name, shown(n), oneOf(words))
}

// envVar checks a field that names a variable. Its value may be a secret that
// somebody pasted, so it is never shown unless it is a name.
func (c *checker) envVar(n *node, name string) {
	if !given(n) || n.kind != stringKind || n.text == "" {
		return
	}
	if ref, ok := secretReference(n.text); ok {
		if _, err := c.vars.secret(ref); err != nil {
			c.warn(CodeUnsetVariable, n, "put it there, readable for the agent", "%s: %v", name, err)
		}
		return
	}
	if !envName(n.text) {
		c.fault(CodeSecret, n, "write the variable's name, such as PAYMENTS_TOKEN, and set it for the agent",
			"%s takes the name of an environment variable, and this is none", name)
		return
	}
	if value, set := c.vars.lookup(n.text); !set || value == "" {
		c.warn(CodeUnsetVariable, n, "set it where the agent runs",
			"%s names the environment variable %s, which is not set here", name, clip(n.text))
	}
}

// absolute reports a path that is not absolute and clean.
func (c *checker) absolute(n *node, what, path string) bool {
	if !given(n) || n.kind >= mapKind || n.exp != nil && n.exp.broken {
		return false
	}
	switch {
	case !filepath.IsAbs(path):
		help := "write the whole path, from / on"
		if what == "the command" || what == "shell" {
			help = "write the whole path, such as /usr/bin/" + clip(filepath.Base(n.text))
		}
		c.fault(CodeEnum, n, help, "%s %s is not an absolute path", what, shown(n))
	case filepath.Clean(path) != strings.TrimSuffix(path, "/") && path != "/":
		c.fault(CodeEnum, n, "write it without . and .. and doubled slashes", "%s %s is not in its shortest form", what, shown(n))
	default:
		return true
	}
	return false
}

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// eachString calls f for the elements of a list of strings.
func eachString(n *node, values []string, f func(n *node, value string)) {
	for i, v := range values {
		if e := n.at(i); given(e) && e.kind < mapKind {
			f(e, v)
		}
	}
}

// grants tells whether a policy's list holds a value; an empty list
// grants what the service itself names.
func grants(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, value)
}
