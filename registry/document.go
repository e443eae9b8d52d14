package registry

import (
	"cmp"
	"slices"
	"strings"
)

// Withheld is what Redacted returns for a text of which it cannot tell for
// certain what is secret.
const Withheld = "# This version's text is not kept: its secrets cannot be told from the rest for certain.\n"

// Redacted returns the file's text, with its comments and in its order, but
// without secrets. Masked are: whatever stands beside a secret-looking key, in
// any style and over any number of lines; values of secret-looking variables
// that are written out; userinfo of URLs; defaults of secret-looking
// variables; pairs such as --password=… and tokens known by their shape, in
// comments too. References to variables stay, since they are names.
//
// The masked text is read again and compared with the file: it is returned
// only when nothing but masks differs, else Withheld is. That takes as long as
// Parse does, twice; the text is not kept.
func (c *Config) Redacted() string {
	text := string(plainLines(c.source))
	root, fault := parseTree([]byte(text), &report{})
	if fault != nil || root == nil {
		return Withheld
	}
	h := hider{config: c, hidden: map[*node]string{}}
	h.visit(root, "", place{})
	out, ok := h.rewrite(newSource(text))
	if !ok {
		return Withheld
	}
	again, fault := parseTree([]byte(out), &report{})
	if fault != nil || again == nil || !h.same(root, again) {
		return Withheld
	}
	return out
}

// place says where in the file a value stands.
type place struct {
	secret bool   // below a secret-looking key
	schema bool   // in an input_schema or output_schema
	value  bool   // in a schema: below a keyword that holds values, not types
	flag   string // in a list: the element before, when it is a --flag
}

// hider decides what each value of a file may show.
type hider struct {
	config  *Config
	scalars []*node
	hidden  map[*node]string // those that are not shown as they are
}

// valueWords are the keywords of a JSON Schema that hold values.
var valueWords = []string{"default", "const", "enum", "example", "examples"}

// visit decides for n and what is below it. A node that an alias leads to is
// visited more than once; what hides most wins.
func (h *hider) visit(n *node, key string, at place) {
	switch n.kind {
	case nullKind:
	case mapKind:
		for i := range n.kids {
			h.visit(n.kids[i].node, n.kids[i].key, at.below(n.kids[i].key, n.kids[i].node))
		}
	case seqKind:
		for i := range n.kids {
			h.visit(n.kids[i].node, key, at)
			at.flag = flagOf(n.kids[i].node)
		}
	default:
		h.scalars = append(h.scalars, n)
		if shown := h.shown(n, key, at); shown != n.text && h.hidden[n] != masked {
			h.hidden[n] = shown
		}
	}
}

// below is the place of the value that a mapping has for key.
func (p place) below(key string, value *node) place {
	p.flag = ""
	switch {
	case strings.HasSuffix(strings.ToLower(key), "_env_var"):
		return place{}
	case key == "input_schema" || key == "output_schema":
		p.schema = true
	case key == "registry_auth" && value.kind == mapKind: // names of variables; see RegistryAuth
	case p.schema && slices.Contains(valueWords, key):
		p.value = true
	default:
		p.secret = p.secret || secretName(key)
	}
	return p
}

func flagOf(n *node) string {
	if n.kind == stringKind && strings.HasPrefix(n.text, "-") && !strings.ContainsAny(n.text, "= ") {
		return strings.TrimLeft(n.text, "-")
	}
	return ""
}

// shown is what a scalar may show of itself.
func (h *hider) shown(n *node, key string, at place) string {
	switch {
	case n.text == "" || n.kind == boolKind:
		return n.text
	case strings.HasSuffix(strings.ToLower(key), "_env_var"):
		if _, ref := secretReference(n.text); !ref && !envName(n.text) {
			return masked // a secret where a name belongs
		}
		return n.text
	case at.schema:
		if at.secret && (at.value || n.kind == stringKind && !at.keyword(key) && !slices.Contains(schemaWords, n.text)) {
			return masked
		}
	case at.secret || at.flag != "" && secretName(at.flag):
		text := maskDefaults(n.text, func(string) bool { return true })
		if namesOnly(text) {
			return text
		}
		return masked
	}
	text := maskText(n.text)
	for secret := range h.config.secrets {
		if holds(text, secret) {
			return masked
		}
	}
	return text
}

// keyword tells whether key belongs to JSON Schema itself and holds no value.
func (p place) keyword(key string) bool {
	return slices.Contains([]string{"type", "format", "title", "description", "pattern", "required",
		"contentEncoding", "contentMediaType", "$ref", "$schema", "$id", "$comment"}, key)
}

// rewrite makes the text that shows what may be shown.
func (h *hider) rewrite(src *source) (string, bool) {
	type spot struct {
		from, to int
		node     *node
	}
	spots := make([]spot, 0, len(h.scalars))
	for _, n := range h.scalars {
		from, ok := src.start(n)
		if !ok {
			return "", false
		}
		to, ok := src.end(n, from)
		if !ok {
			return "", false
		}
		spots = append(spots, spot{from, to, n})
	}
	slices.SortFunc(spots, func(a, b spot) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	out.Grow(len(src.text))
	gaps := commentMasker{config: h.config}
	at := 0
	for i, s := range spots {
		if i > 0 && s.from == spots[i-1].from { // an alias leads here too
			if h.hidden[s.node] != h.hidden[spots[i-1].node] {
				return "", false
			}
			continue
		}
		if s.from < at {
			return "", false
		}
		out.WriteString(gaps.mask(src.text[at:s.from], at == 0))
		at = s.to
		raw := src.text[s.from:s.to]
		shown, hide := h.hidden[s.node]
		switch {
		case !hide && (raw[0] == '|' || raw[0] == '>'): // a comment may follow
			head, body, _ := strings.Cut(raw, "\n")
			out.WriteString(gaps.mask(head, false))
			if body != "" || strings.Contains(raw, "\n") {
				out.WriteString("\n" + body)
			}
		case !hide:
			out.WriteString(raw)
		default:
			out.WriteString(inPlace(raw, s.node.text, shown))
		}
	}
	out.WriteString(gaps.mask(src.text[at:], at == 0))
	return out.String(), true
}

// inPlace puts what may be shown where the value stood, in its style where it
// stood there as it reads. Otherwise all of it is masked, which same finds to
// be right only if that was decided.
func inPlace(raw, text, shown string) string {
	switch {
	case shown == masked:
		return masked
	case strings.Contains(raw, text):
		return strings.Replace(raw, text, shown, 1)
	}
	return maskText(raw)
}

// same tells whether the masked text reads as the file does, but for masks.
func (h *hider) same(a, b *node) bool {
	if a.kind < mapKind {
		want, hide := h.hidden[a]
		if !hide {
			return a.kind == b.kind && a.text == b.text
		}
		return b.kind < mapKind && b.text == want
	}
	if a.kind != b.kind || len(a.kids) != len(b.kids) {
		return false
	}
	for i := range a.kids {
		if a.kids[i].key != b.kids[i].key || !h.same(a.kids[i].node, b.kids[i].node) {
			return false
		}
	}
	return true
}
