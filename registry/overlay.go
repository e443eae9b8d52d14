package registry

import (
	"fmt"
	"slices"
	"strings"
)

// top is a file's first level.
type top struct {
	services []*node
	overlays []overlay
	alerts   *node
}

// overlay is one environment's part of the file: services that are merged by
// name onto the base, or defined by it alone.
type overlay struct {
	name     string
	services []*node
}

// environments are the overlay names that are known to be such even where the
// services: below them is missing.
var environments = []string{"development", "dev", "test", "testing", "qa", "staging", "preview", "production", "prod"}

// readTop sorts a file's first level into its parts; nil when the file is
// something else.
func readTop(root *node, rep *report) *top {
	if root == nil {
		rep.add(Error, CodeNotRegistry, 0, 0, "the file holds nothing but comments", "add a services: list")
		return nil
	}
	fault := func(code Code, k *kid, message, help string) { rep.add(Error, code, k.line, k.col, message, help) }
	if root.kind != mapKind {
		help := "put the list under services:"
		if root.kind != seqKind {
			help = "begin with services: and a list below it"
		}
		rep.add(Error, CodeWrongType, root.line, root.col, "a registry is a mapping with a services: list, not "+root.kind.String(), help)
		return nil
	}
	if k := root.entry("actions"); k != nil {
		fault(CodeNotRegistry, k, "this is a workflow document (actions: with call_service steps), not a service registry",
			"give it to the agent with --workflows; a registry has a services: list")
		return nil
	}
	t := &top{}
	for i := range root.kids {
		k := &root.kids[i]
		switch {
		case k.key == "services":
			t.services = serviceList(k, rep)
		case k.key == "alerts":
			t.alerts = k.node
		case strings.HasPrefix(k.key, "x-"): // a place for anchors
		case k.node.kind == mapKind && (k.node.get("services") != nil || slices.Contains(environments, strings.ToLower(k.key))):
			t.addOverlay(k, rep)
		default:
			known := []string{"services", "alerts"}
			help := "the first level holds services, alerts and environments with services below them; x-… keys may hold anchors"
			if near := nearest(k.key, append(known, environments...)); near != "" {
				help = fmt.Sprintf("did you mean %q?", near)
			}
			fault(CodeUnknownField, k, fmt.Sprintf("a registry has no field %q", clip(k.key)), help)
		}
	}
	return t
}

// serviceList returns the elements of a services: key.
func serviceList(k *kid, rep *report) []*node {
	switch k.node.kind {
	case seqKind:
		list := make([]*node, len(k.node.kids))
		for i := range k.node.kids {
			list[i] = k.node.kids[i].node
		}
		return list
	case nullKind:
		return nil
	}
	help := "write a list: - name: the_service, followed by its fields"
	if k.node.kind == mapKind && len(k.node.kids) > 0 {
		help = fmt.Sprintf("write each service as an element of a list: - name: %s", clip(k.node.kids[0].key))
	}
	rep.add(Error, CodeWrongType, k.node.line, k.node.col, "services must be a list, not "+k.node.kind.String(), help)
	return nil
}

func (t *top) addOverlay(k *kid, rep *report) {
	for _, o := range t.overlays {
		if strings.EqualFold(o.name, k.key) {
			rep.add(Error, CodeDuplicateKey, k.line, k.col,
				fmt.Sprintf("the environment %s stands twice in this file", clip(k.key)), "put both parts under one key")
			return
		}
	}
	o := overlay{name: k.key}
	found := false
	for i := range k.node.kids {
		inner := &k.node.kids[i]
		if inner.key == "services" {
			found = true
			o.services = serviceList(inner, rep)
			continue
		}
		help := "an environment holds services only"
		if nearest(inner.key, []string{"services"}) != "" {
			help, found = `did you mean "services"?`, true
		}
		rep.add(Error, CodeUnknownField, inner.line, inner.col,
			fmt.Sprintf("the environment %s has no field %q", clip(k.key), clip(inner.key)), help)
	}
	if !found {
		rep.add(Error, CodeMissing, k.line, k.col, fmt.Sprintf("the environment %s has no services", clip(k.key)),
			"add services: below it, or remove it")
	}
	seen := map[string]int32{}
	for _, n := range o.services {
		key := mergeKey(n)
		if line, dup := seen[key]; dup && key != "" {
			rep.add(Error, CodeDuplicateName, n.line, n.col,
				fmt.Sprintf("the environment %s names the service %s twice, first in line %d", clip(k.key), serviceLabel(n), line),
				"put both parts into one")
		} else {
			seen[key] = n.line
		}
	}
	t.overlays = append(t.overlays, o)
}

func (t *top) overlayNames() []string {
	names := make([]string, len(t.overlays))
	for i, o := range t.overlays {
		names[i] = clip(o.name)
	}
	return names
}

// choose finds the overlay for env; nil for the base alone. In a file without
// any overlay every env is fine: it is only a label there.
func (t *top) choose(env string, rep *report) *overlay {
	if env == "" || len(t.overlays) == 0 {
		return nil
	}
	for i := range t.overlays {
		if strings.EqualFold(t.overlays[i].name, env) {
			return &t.overlays[i]
		}
	}
	if rep.partial { // it may stand in what could not be read
		return nil
	}
	names := t.overlayNames()
	help := "choose one of them, or none for the base"
	near := nearest(env, names)
	for _, name := range names { // prod for production is further than a typing error
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(env)) {
			near = name
		}
	}
	if near != "" {
		help = fmt.Sprintf("did you mean %q?", near)
	}
	rep.add(Error, CodeUnknownEnv, 0, 0,
		fmt.Sprintf("there is no environment %q in this file, only %s", clip(env), strings.Join(names, ", ")), help)
	return nil
}

// merged lays the overlay over the base: services by name regardless of case,
// mappings deep, everything else replaced. The base's order stays, and
// services that only the overlay has follow it.
func (t *top) merged(o *overlay, d *decoder) []*node {
	if o == nil {
		return t.services
	}
	d.shapes(o.services)
	over := make(map[string]*node, len(o.services))
	for _, n := range o.services {
		if key := mergeKey(n); key != "" && over[key] == nil {
			over[key] = n
		}
	}
	out := make([]*node, 0, len(t.services)+len(over))
	used := make(map[*node]bool, len(over))
	for _, n := range t.services {
		b := over[mergeKey(n)]
		if b == nil {
			out = append(out, n)
			continue
		}
		// What the overlay replaces is not decoded, so it is looked at here.
		d.shapes([]*node{n})
		used[b] = true
		out = append(out, mergeNodes(n, b, d.rep))
	}
	for _, n := range o.services {
		if !used[n] {
			out = append(out, n)
		}
	}
	return out
}

func mergeKey(n *node) string {
	if name := n.get("name"); name != nil {
		return strings.ToLower(name.text)
	}
	return ""
}

// mergeNodes returns a with b laid over it; neither is changed. A key without
// a value in b changes nothing: a policy whose lines were all commented out
// must not take the base's limits away.
func mergeNodes(a, b *node, rep *report) *node {
	if a.kind != mapKind || b.kind != mapKind {
		return b
	}
	out := &node{kind: mapKind, line: b.line, col: b.col, kids: make([]kid, len(a.kids), len(a.kids)+len(b.kids))}
	copy(out.kids, a.kids)
	for _, k := range b.kids {
		old := out.entry(k.key)
		switch {
		case old == nil:
			out.kids = append(out.kids, k)
		case k.node.kind == nullKind && old.node.kind != nullKind:
			rep.add(Warning, CodeIgnored, k.line, k.col,
				fmt.Sprintf("%s has no value here, so the base's value of line %d stays", clip(k.key), old.node.line),
				"remove the key, or give it a value")
		default:
			*old = kid{k.key, k.line, k.col, mergeNodes(old.node, k.node, rep)}
		}
	}
	out.measure()
	return out
}
