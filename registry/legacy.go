package registry

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// The codes of migration-check: patterns of earlier formats, and such as are
// accepted and risky.
const (
	PatternServicesMap     Code = "services-map"
	PatternServiceLevel    Code = "service-level-field"
	PatternBearerToken     Code = "bearer-token"
	PatternRetryPolicy     Code = "retry-policy"
	PatternAllowList       Code = "misplaced-allow-list"
	PatternStringVolume    Code = "string-volume"
	PatternMemorySize      Code = "memory-size"
	PatternEnvVars         Code = "env-vars"
	PatternUpperCaseType   Code = "upper-case-type"
	PatternMissingCategory Code = "missing-category"
	PatternMissingLimits   Code = "missing-limits"
	PatternLatestTag       Code = "latest-tag"
	PatternLiteralSecret   Code = "literal-secret"
	PatternRiskyCommand    Code = "risky-command"
	PatternRelativeCommand Code = "relative-command"
	PatternDuplicateKey    Code = "duplicate-key"
)

// Finding is one deprecated or risky pattern of a file. No text of it holds a
// secret.
type Finding struct {
	Code    Code   `json:"code"`
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // from 1, in characters
	Service string `json:"service,omitempty"`
	Message string `json:"message"`
	Before  string `json:"before"` // the line as it stands
	After   string `json:"after"`  // what to write instead
	Why     string `json:"why"`
	Fixable bool   `json:"fixable"` // --fix can do it without changing what the file means

	fix   *rewrite
	owner *node // the service; nil where the finding is of no single one
}

// rewrite is what --fix does for a finding: to the text, and to what the text
// means. The two are compared afterwards.
type rewrite struct {
	edits []edit
	apply func(copyOf func(*node) *node)
}

// edit replaces the bytes from … to of a text.
type edit struct {
	from, to int
	text     string
}

// FindPatterns lists a file's deprecated and risky patterns by their place.
// The diagnostics are those that keep the text from being read at all.
func FindPatterns(name string, data []byte) ([]Finding, Diagnostics) {
	s, diags := scan(name, string(plainLines(data)))
	if diags != nil {
		return nil, diags
	}
	return s.found, nil
}

// scanner looks for patterns in a text.
type scanner struct {
	file  string
	src   *source
	lines lineIndex
	root  *node
	found []Finding

	service string
	s       *node
}

func scan(name, text string) (*scanner, Diagnostics) {
	rep := &report{file: name, lines: lineIndex{data: []byte(text)}}
	root, fault := parseTree([]byte(text), rep)
	if fault != nil {
		rep.add(Error, CodeSyntax, fault.line, fault.col, fault.message, fault.help)
		return nil, rep.sorted()
	}
	s := &scanner{file: name, src: newSource(text), lines: rep.lines, root: root}
	if root == nil || root.kind != mapKind {
		return s, nil
	}
	for _, d := range rep.duplicates {
		s.duplicate(d)
	}
	s.list(root.entry("services"), true)
	for i := range root.kids {
		if k := &root.kids[i]; k.key != "services" && k.node.kind == mapKind {
			s.list(k.node.entry("services"), false)
		}
	}
	slices.SortStableFunc(s.found, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return s, nil
}

func (s *scanner) add(code Code, line, col int32, fix *rewrite, after, format string, args ...any) {
	e, _ := Explain(string(code))
	why, _, _ := strings.Cut(e.Text, "\n\n")
	s.found = append(s.found, Finding{Code: code, File: s.file, Line: int(line), Column: int(col), Service: s.service,
		Message: fmt.Sprintf(format, args...), Before: strings.TrimSpace(s.lines.shown(int(line), code == PatternLiteralSecret)),
		After: after, Why: strings.Join(strings.Fields(why), " "), Fixable: fix != nil, fix: fix, owner: s.s})
}

// list looks through the services of the base or of an environment.
func (s *scanner) list(k *kid, base bool) {
	switch {
	case k == nil:
	case k.node.kind == mapKind:
		s.service, s.s = "", nil
		s.add(PatternServicesMap, k.line, k.col, s.listFix(k.node), "- name: "+firstKey(k.node), "services is a map of names, not a list")
		for i := range k.node.kids {
			if inner := k.node.kids[i]; inner.node.kind == mapKind {
				s.look(inner.key, inner.node, base)
			}
		}
	case k.node.kind == seqKind:
		for i := range k.node.kids {
			if n := k.node.kids[i].node; n.kind == mapKind {
				s.look(serviceLabel(n), n, base)
			}
		}
	}
}

func firstKey(n *node) string {
	if len(n.kids) == 0 {
		return "the_service"
	}
	return clip(n.kids[0].key)
}

// look looks for patterns in one service.
func (s *scanner) look(name string, n *node, base bool) {
	s.service, s.s = name, n
	s.serviceLevel()
	s.executionType()
	rc := n.get("runner_config")
	for _, parent := range []*node{n, rc} {
		s.renames(parent)
	}
	s.bearer(rc)
	s.allowLists(rc)
	s.stringVolumes(rc.get("volumes"))
	s.images()
	s.commands()
	s.secrets(n, "")
	if base {
		s.category()
		s.limits()
	}
}

// authWords are what the old auth field held where it was a word.
var authWords = []string{"bearer", "basic", "api_key", "none"}

// serviceLevel finds what stands beside name and belongs under runner_config.
func (s *scanner) serviceLevel() {
	for _, key := range []string{"base_url", "auth", "timeout"} {
		k := s.s.entry(key)
		if k == nil {
			continue
		}
		after := "runner_config:\n  " + key + ": " + s.valueText(k)
		fix := s.move(s.s, k, "runner_config", key)
		if key == "auth" {
			after = "runner_config:\n  auth_type: bearer\n  auth_config: { token_env_var: THE_VARIABLE }"
			if fix = nil; k.node.kind == stringKind && slices.Contains(authWords, k.node.text) {
				after, fix = "runner_config:\n  auth_type: "+k.node.text, s.move(s.s, k, "runner_config", "auth_type")
			}
		}
		s.add(PatternServiceLevel, k.line, k.col, fix, after, "%s stands at the service's own level", key)
	}
	for _, key := range []string{"bearer_token", "retry_policy", "memory_size", "env_vars"} {
		if k := s.s.entry(key); k != nil {
			s.add(PatternServiceLevel, k.line, k.col, s.move(s.s, k, "runner_config", key), "runner_config:\n  "+key+": "+s.valueText(k),
				"%s stands at the service's own level", key)
		}
	}
}

// valueText is a value for showing: on one line, without secrets.
func (s *scanner) valueText(k *kid) string {
	switch {
	case k.node.kind >= mapKind:
		return "…"
	case secretName(k.key):
		return masked
	}
	return maskText(clip(k.node.text))
}

func (s *scanner) executionType() {
	n := s.s.get("execution_type")
	if n == nil || n.kind != stringKind || hasVariables(n.text) || n.text == strings.ToLower(n.text) {
		return
	}
	word := strings.ToLower(n.text)
	s.add(PatternUpperCaseType, n.line, n.col, s.replace(n, word, func(n *node) { n.text = word }), "execution_type: "+clip(word),
		"execution_type is written %s", shown(n))
}

// renames finds fields whose names have changed.
func (s *scanner) renames(parent *node) {
	rc := parent != nil && parent != s.s
	for _, r := range []struct {
		code     Code
		old, now string
	}{
		{PatternRetryPolicy, "retry_policy", "retry_config"},
		{PatternMemorySize, "memory_size", "memory_mb"},
		{PatternEnvVars, "env_vars", "environment"},
	} {
		k := parent.entry(r.old)
		if k == nil {
			continue
		}
		var fix *rewrite
		if rc && parent.get(r.now) == nil && (r.code != PatternRetryPolicy || retryFields(k.node)) {
			fix = s.rename(parent, k, r.now)
		}
		after := r.now + ": " + s.valueText(k)
		if r.code == PatternRetryPolicy {
			after = "retry_config: { max_retries: 3, backoff_factor: 2.0 }"
		}
		s.add(r.code, k.line, k.col, fix, after, "%s has another name today: %s, under runner_config", r.old, r.now)
	}
}

// retryFields tells whether a retry_policy holds what retry_config takes.
func retryFields(n *node) bool {
	return n.kind == mapKind && !slices.ContainsFunc(n.kids, func(k kid) bool {
		return !slices.Contains([]string{"max_retries", "backoff_factor", "retry_status_codes"}, k.key)
	})
}

// bearer finds a token where the name of a variable belongs.
func (s *scanner) bearer(rc *node) {
	for _, parent := range []*node{rc, s.s} {
		k := parent.entry("bearer_token")
		if k == nil {
			continue
		}
		name, after := "THE_VARIABLE", ""
		var fix *rewrite
		if v := wholeName.FindStringSubmatch(k.node.text); v != nil && k.node.kind == stringKind {
			name = v[1]
			if parent == rc && rc.get("auth_type") == nil && rc.get("auth_config") == nil {
				fix = s.tokenFix(rc, k, name)
			}
		}
		after = "auth_type: bearer\nauth_config: { token_env_var: " + name + " }"
		s.add(PatternBearerToken, k.line, k.col, fix, after, "a token is given where the name of its variable belongs")
	}
}

var allowLists = []string{"allowed_commands", "allowed_domains", "allowed_networks", "allowed_images", "allowed_providers", "allowed_regions",
	"volume_restrictions", "working_directory_restrictions"}

func (s *scanner) allowLists(rc *node) {
	for _, key := range allowLists {
		if k := rc.entry(key); k != nil {
			s.add(PatternAllowList, k.line, k.col, s.move(rc, k, "security_policy", key), "security_policy:\n  "+key+": …",
				"%s stands under runner_config", key)
		}
	}
}

func (s *scanner) stringVolumes(list *node) {
	if list == nil || list.kind != seqKind {
		return
	}
	for i := range list.kids {
		n := list.kids[i].node
		if n.kind != stringKind {
			continue
		}
		parts := strings.Split(n.text, ":")
		mode := "rw" // what docker makes of it
		var fix *rewrite
		after := "- { host_path: /on/the/host, container_path: /in/the/container, mode: ro }"
		if len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw") {
			parts, mode = parts[:2], parts[2]
		}
		if len(parts) == 2 && parts[0] != "" && parts[1] != "" && !strings.ContainsAny(n.text, "\"\\\n${") {
			text := fmt.Sprintf("{ host_path: %q, container_path: %q, mode: %s }", parts[0], parts[1], mode)
			after = "- " + clip(text)
			fix = s.replace(n, text, func(n *node) {
				scalar := func(text string) *node { return &node{kind: stringKind, text: text} }
				*n = node{kind: mapKind, kids: []kid{{key: "host_path", node: scalar(parts[0])},
					{key: "container_path", node: scalar(parts[1])}, {key: "mode", node: scalar(mode)}}}
			})
		}
		s.add(PatternStringVolume, n.line, n.col, fix, after, "the volume %s is a string", shown(n))
	}
}

func (s *scanner) images() {
	lists := []*node{s.s.path("security_policy", "allowed_images"), s.s.path("runner_config", "allowed_images")}
	images := []*node{s.s.path("runner_config", "image")}
	for _, list := range lists {
		for i := 0; list.at(i) != nil; i++ {
			images = append(images, list.at(i))
		}
	}
	for _, n := range images {
		if n == nil || n.kind != stringKind || hasVariables(n.text) {
			continue
		}
		if moving := movingTag(n.text); moving != "" {
			s.add(PatternLatestTag, n.line, n.col, nil, clip(strings.TrimSuffix(n.text, ":latest"))+"@sha256:…", "the image %s %s", shown(n), moving)
		}
	}
}

// riskyPrograms can be made to do anything, or to become anybody.
var riskyPrograms = []string{"bash", "sh", "dash", "zsh", "sudo", "su", "doas", "rm", "curl", "wget", "nc", "ssh", "env", "xargs", "eval"}

func (s *scanner) commands() {
	var absolute []string
	for _, list := range []*node{s.s.path("security_policy", "allowed_commands"), s.s.path("runner_config", "allowed_commands")} {
		for i := 0; list.at(i) != nil; i++ {
			n := list.at(i)
			if n.kind != stringKind || n.text == "" {
				continue
			}
			base := path.Base(n.text)
			if slices.Contains(riskyPrograms, base) {
				s.add(PatternRiskyCommand, n.line, n.col, nil, "# the one program that is needed, such as /usr/bin/python3", "allowed_commands permits %s", clip(base))
			}
			switch {
			case strings.HasPrefix(n.text, "/"):
				absolute = append(absolute, n.text)
			case !hasVariables(n.text):
				s.add(PatternRelativeCommand, n.line, n.col, nil, "/usr/bin/"+clip(base), "the command %s is not an absolute path", shown(n))
			}
		}
	}
	ops := s.s.get("operations")
	for i := 0; ops.at(i) != nil; i++ {
		n := ops.at(i).get("command").at(0)
		if n == nil || n.kind != stringKind || n.text == "" || strings.HasPrefix(n.text, "/") || strings.HasPrefix(n.text, "$") {
			continue
		}
		same := slices.DeleteFunc(slices.Clone(absolute), func(a string) bool { return path.Base(a) != n.text })
		if t := s.s.get("execution_type"); t == nil || !strings.EqualFold(t.text, "shell") {
			continue // a container's own path finds it
		}
		if len(same) == 1 && plainWord(same[0]) {
			s.add(PatternRelativeCommand, n.line, n.col, s.replace(n, same[0], func(n *node) { n.text = same[0] }), clip(same[0]),
				"the program %s is not an absolute path", shown(n))
			continue
		}
		s.add(PatternRelativeCommand, n.line, n.col, nil, "/usr/bin/"+clip(path.Base(n.text)), "the program %s is not an absolute path", shown(n))
	}
}

// secrets finds values written out beside names that look like a secret's.
func (s *scanner) secrets(n *node, key string) {
	switch n.kind {
	case mapKind:
		for i := range n.kids {
			k := &n.kids[i]
			if k.key != "input_schema" && k.key != "output_schema" && k.key != "bearer_token" {
				s.secrets(k.node, k.key)
			}
		}
	case seqKind:
		for i := range n.kids {
			s.secrets(n.kids[i].node, key)
		}
	case stringKind:
		text := n.text
		byName := secretName(key) && text != "" && !namesOnly(maskDefaults(text, func(string) bool { return true }))
		if key == "auth" && slices.Contains(authWords, text) {
			return
		}
		if _, ref := secretReference(text); byName && !ref || maskText(text) != text {
			s.add(PatternLiteralSecret, n.line, n.col, nil, clip(key)+": \"${THE_VARIABLE}\"", "a secret is written into the file beside %s", clip(key))
		}
	}
}

func (s *scanner) category() {
	if given(s.s.get("category")) {
		return
	}
	s.add(PatternMissingCategory, s.s.line, s.s.col, s.categoryFix(), "category: uncategorized", "the service has no category")
}

func (s *scanner) limits() {
	t := s.s.get("execution_type")
	if t == nil || !slices.Contains([]string{"shell", "docker", "serverless"}, strings.ToLower(t.text)) {
		return
	}
	limits := s.s.path("security_policy", "resource_limits")
	var missing []string
	wanted := []string{"cpu_cores", "memory_mb", "timeout_seconds"}
	if strings.EqualFold(t.text, "serverless") {
		wanted = []string{"timeout_seconds"}
		if !given(s.s.path("security_policy", "cost_limits")) {
			missing = append(missing, "cost_limits")
		}
	}
	for _, w := range wanted {
		if !given(limits.get(w)) {
			missing = append(missing, w)
		}
	}
	if len(missing) > 0 {
		s.add(PatternMissingLimits, s.s.line, s.s.col, nil, "security_policy:\n  resource_limits: { cpu_cores: 1.0, memory_mb: 512, timeout_seconds: 600 }",
			"the service has no limit for %s", strings.Join(missing, ", "))
	}
}

func (s *scanner) duplicate(d duplicate) {
	s.service, s.s = "", nil
	var fix *rewrite
	what := "keep one of the two: they differ"
	if sameMeaning(d.first.node, d.again.node) {
		if from, to, ok := s.entryLines(&d.again); ok {
			fix, what = &rewrite{edits: []edit{{from, to, s.commentsIn(from, to)}}, apply: func(func(*node) *node) {}}, "# nothing: line "+fmt.Sprint(d.first.line)+" says the same"
		}
	}
	s.add(PatternDuplicateKey, d.again.line, d.again.col, fix, what, "the key %q stands twice, first in line %d", clip(d.again.key), d.first.line)
}
