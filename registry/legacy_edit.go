package registry

import (
	"regexp"
	"slices"
	"strings"
)

// The edits of --fix work on the text by position: what they do not touch
// stays as it is, comments, order and blank lines included. Where a text is
// written in a way that an edit was not made for, there is no fix; the finding
// then says what to write.

var (
	wholeName  = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
	plainForm  = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_./-]*$`)
	plainField = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// plainWord tells whether a text needs no quotes in YAML.
func plainWord(s string) bool { return plainForm.MatchString(s) && !special(s) }

// keyAt is where a key's text begins; ok is false where it is quoted or stands
// behind something else.
func (s *scanner) keyAt(k *kid) (at int, ok bool) {
	at, ok = s.src.start(&node{line: k.line, col: k.col})
	if !ok || !plainField.MatchString(k.key) || !strings.HasPrefix(s.src.text[at:], k.key+":") {
		return 0, false
	}
	return at, true
}

// column is a place's column, from 0, and whether only blanks stand before it.
func (s *scanner) column(at int) (col int, alone bool) {
	start := strings.LastIndexByte(s.src.text[:at], '\n') + 1
	return at - start, strings.Trim(s.src.text[start:at], " ") == ""
}

// rename replaces a key.
func (s *scanner) rename(parent *node, k *kid, name string) *rewrite {
	at, ok := s.keyAt(k)
	if !ok {
		return nil
	}
	old := k.key
	return &rewrite{[]edit{{at, at + len(old), name}}, func(copyOf func(*node) *node) {
		if k := copyOf(parent).entry(old); k != nil {
			k.key = name
		}
	}}
}

// replace puts text where the scalar n stands.
func (s *scanner) replace(n *node, text string, apply func(*node)) *rewrite {
	from, ok := s.src.start(n)
	if !ok {
		return nil
	}
	to, ok := s.src.end(n, from)
	if !ok || strings.ContainsRune(s.src.text[from:to], '\n') {
		return nil
	}
	return &rewrite{[]edit{{from, to, text}}, func(copyOf func(*node) *node) { apply(copyOf(n)) }}
}

// entryLines are the whole lines of a mapping's entry that has lines of its
// own: with the comment right above it, without what follows it.
func (s *scanner) entryLines(k *kid) (from, to int, ok bool) {
	at, ok := s.keyAt(k)
	if !ok {
		return 0, 0, false
	}
	col, alone := s.column(at)
	if !alone {
		return 0, 0, false
	}
	start := at - col
	line, next := s.src.lineAt(start)
	to = next
	dashes := k.node.kind == seqKind && strings.TrimSpace(strings.SplitN(line[col+len(k.key)+1:], " #", 2)[0]) == ""
	for next < len(s.src.text) {
		line, after := s.src.lineAt(next)
		text := strings.TrimLeft(line, " ")
		indent := len(line) - len(text)
		switch {
		case strings.TrimSpace(text) == "" || text[0] == '#' && indent <= col:
			next = after // it belongs to the entry only where more of it follows
			continue
		case indent > col, dashes && indent == col && strings.HasPrefix(text, "- "):
			to, next = after, after
			continue
		}
		break
	}
	for start > 0 { // the comment above goes along
		above := strings.LastIndexByte(s.src.text[:start-1], '\n') + 1
		line := s.src.text[above : start-1]
		if text := strings.TrimLeft(line, " "); text == "" || text[0] != '#' || len(line)-len(text) != col {
			break
		}
		start = above
	}
	return start, to, true
}

// commentsIn are the comments of whole lines, each a line of its own: they stay
// where the lines go.
func (s *scanner) commentsIn(from, to int) string {
	var b strings.Builder
	for line := range strings.Lines(s.src.text[from:to]) {
		if i := commentStart(line); i >= 0 {
			b.WriteString(line[:len(line)-len(strings.TrimLeft(line, " "))] + strings.TrimSpace(line[i:]) + "\n")
		}
	}
	return b.String()
}

// move puts an entry of parent below another key of the service, under the
// name now.
func (s *scanner) move(parent *node, k *kid, below, now string) *rewrite {
	from, to, ok := s.entryLines(k)
	if !ok || !strings.HasSuffix(s.src.text[from:to], "\n") {
		return nil
	}
	keyAt, _ := s.keyAt(k)
	col, _ := s.column(keyAt)
	lines := s.src.text[from:keyAt] + now + s.src.text[keyAt+len(k.key):to]
	old, value, service := k.key, k.node, s.s
	apply := func(copyOf func(*node) *node) {
		p, moved := copyOf(parent), kid{key: now, node: copyOf(value)}
		p.kids = slices.DeleteFunc(p.kids, func(k kid) bool { return k.key == old })
		if len(p.kids) == 0 {
			p.kind = nullKind
		}
		if target := copyOf(service).get(below); target != nil {
			target.kids = append(target.kids, moved)
			return
		}
		owner := copyOf(service)
		owner.kids = append(owner.kids, kid{key: below, node: &node{kind: mapKind, kids: []kid{moved}}})
	}
	target := s.s.entry(below)
	if target == nil {
		// The service's own fields may stand deeper or not as deep as this.
		indent, ok := s.fieldIndent(s.s)
		if !ok || parent != s.s && from == to {
			return nil
		}
		text := strings.Repeat(" ", indent) + below + ":\n" + reindent(lines, col, indent+2)
		if parent == s.s {
			return &rewrite{[]edit{{from, to, text}}, apply}
		}
		holder := s.entryOf(parent)
		if holder == nil {
			return nil
		}
		_, end, ok := s.entryLines(holder)
		if !ok || !strings.HasSuffix(s.src.text[:end], "\n") {
			return nil
		}
		return &rewrite{[]edit{{from, to, ""}, {end, end, text}}, apply}
	}
	if target.node.kind != mapKind || target.node.get(now) != nil || len(target.node.kids) == 0 {
		return nil
	}
	indent, ok := s.fieldIndent(target.node)
	if !ok {
		return nil
	}
	_, end, ok := s.entryLines(target)
	if !ok || !strings.HasSuffix(s.src.text[:end], "\n") || end > from && end < to {
		return nil
	}
	return &rewrite{[]edit{{from, to, ""}, {end, end, reindent(lines, col, indent)}}, apply}
}

// entryOf is the service's entry whose value n is.
func (s *scanner) entryOf(n *node) *kid {
	for i := range s.s.kids {
		if s.s.kids[i].node == n {
			return &s.s.kids[i]
		}
	}
	return nil
}

// fieldIndent is the column, from 0, in which a block mapping's keys stand.
func (s *scanner) fieldIndent(n *node) (int, bool) {
	for i := range n.kids {
		at, ok := s.keyAt(&n.kids[i])
		if !ok {
			continue
		}
		col, alone := s.column(at)
		if start := at - col; !alone && strings.Trim(s.src.text[start:at], " -") != "" {
			return 0, false // in braces
		}
		return col, true
	}
	return 0, false
}

// reindent moves lines from one column to another.
func reindent(lines string, from, to int) string {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		if text := strings.TrimLeft(line, " "); strings.TrimSpace(text) == "" {
			b.WriteString(line)
		} else {
			b.WriteString(strings.Repeat(" ", max(0, len(line)-len(text)-from+to)) + text)
		}
	}
	return b.String()
}

// tokenFix writes auth_type and auth_config in the place of bearer_token.
func (s *scanner) tokenFix(rc *node, k *kid, name string) *rewrite {
	at, ok := s.keyAt(k)
	if !ok {
		return nil
	}
	col, alone := s.column(at)
	start, ok := s.src.start(k.node)
	if !ok || !alone {
		return nil
	}
	to, ok := s.src.end(k.node, start)
	if !ok {
		return nil
	}
	text := "auth_type: bearer\n" + strings.Repeat(" ", col) + "auth_config: { token_env_var: " + name + " }"
	return &rewrite{[]edit{{at, to, text}}, func(copyOf func(*node) *node) {
		p := copyOf(rc)
		p.kids = slices.DeleteFunc(p.kids, func(k kid) bool { return k.key == "bearer_token" })
		p.kids = append(p.kids, kid{key: "auth_type", node: &node{kind: stringKind, text: "bearer"}},
			kid{key: "auth_config", node: &node{kind: mapKind, kids: []kid{{key: "token_env_var", node: &node{kind: stringKind, text: name}}}}})
	}}
}

// categoryFix adds a category behind the service's name.
func (s *scanner) categoryFix() *rewrite {
	k := s.s.entry("name")
	if k == nil || s.s.entry("category") != nil {
		return nil
	}
	at, ok := s.keyAt(k)
	indent, block := s.fieldIndent(s.s)
	if !ok || !block {
		return nil
	}
	line, next := s.src.lineAt(at)
	if next == len(s.src.text) && !strings.HasSuffix(s.src.text, "\n") || strings.ContainsAny(line, "{}[],|>") {
		return nil
	}
	service := s.s
	return &rewrite{[]edit{{next, next, strings.Repeat(" ", indent) + "category: uncategorized\n"}}, func(copyOf func(*node) *node) {
		p := copyOf(service)
		p.kids = append(p.kids, kid{key: "category", node: &node{kind: stringKind, text: "uncategorized"}})
	}}
}

// listFix makes a list of a map of services.
func (s *scanner) listFix(services *node) *rewrite {
	r := &rewrite{}
	for i := range services.kids {
		k := &services.kids[i]
		at, ok := s.keyAt(k)
		if !ok || k.node.kind != mapKind || k.node.get("name") != nil || len(k.node.kids) == 0 || !plainWord(k.key) {
			return nil
		}
		col, alone := s.column(at)
		inner, block := s.fieldIndent(k.node)
		outer, _ := s.fieldIndent(services)
		first, _ := s.fieldIndent(services.kids[0].node)
		if !alone || !block || inner < col+2 || col != outer || inner != first {
			return nil
		}
		r.edits = append(r.edits, edit{at - col, at + len(k.key) + 1, strings.Repeat(" ", inner-2) + "- name: " + k.key})
	}
	if len(r.edits) == 0 {
		return nil
	}
	r.apply = func(copyOf func(*node) *node) {
		list := copyOf(services)
		list.kind = seqKind
		for i := range list.kids {
			k := &list.kids[i]
			k.node.kids = append([]kid{{key: "name", node: &node{kind: stringKind, text: k.key}}}, k.node.kids...)
			k.key = ""
		}
	}
	return r
}
