package registry

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"
)

// Fixed is what --fix makes of a file.
type Fixed struct {
	Text []byte    // the file's new text
	Done []Finding // what was put right, with the lines of the text at that time
	Left []Finding // what only people can decide, with the new text's lines
}

// FixPatterns rewrites the patterns that can be rewritten without changing
// what the file means. Each edit is proved right before it counts: the new
// text is read, and must say what the old one said, but for the finding. An
// edit of which that cannot be shown is not made, and its finding is left. The
// diagnostics are those that keep the text from being read at all.
func FixPatterns(name string, data []byte) (*Fixed, Diagnostics) {
	text := string(plainLines(data))
	out := &Fixed{}
	for {
		s, diags := scan(name, text)
		if diags != nil {
			return nil, diags
		}
		next, done := s.step()
		if len(done) == 0 {
			out.Left = s.found
			break
		}
		text, out.Done = next, append(out.Done, done...)
	}
	for i := range out.Left {
		out.Left[i].Fixable = false
	}
	out.Text = likeFile(text, data)
	return out, nil
}

// likeFile gives a text the line ends and the mark of the file that it was.
func likeFile(text string, data []byte) []byte {
	if bytes.Contains(data, []byte("\r\n")) {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		text = "\xef\xbb\xbf" + text
	}
	return []byte(text)
}

// step makes as many fixes as go together, and leaves the rest to a look at the
// new text: one edit may make way for another in the same service, such as a
// move for a rename. done is empty where none can be made. A fix takes its
// finding away, and only a move leaves another one: the steps come to an end.
func (s *scanner) step() (next string, done []Finding) {
	left := slices.DeleteFunc(slices.Clone(s.found), func(f Finding) bool { return f.fix == nil })
	for len(left) > 0 {
		var round []Finding
		round, left = together(left)
		if done = s.proved(round); len(done) > 0 {
			next, _ = s.apply(done)
			return next, done
		}
	}
	return "", nil
}

// proved are those of the fixes that can be made, all at once.
func (s *scanner) proved(fixes []Finding) []Finding {
	if _, ok := s.apply(fixes); ok {
		return fixes
	}
	if len(fixes) == 1 {
		return nil
	}
	half := len(fixes) / 2
	some := s.proved(fixes[:half])
	more := slices.Concat(some, s.proved(fixes[half:]))
	if _, ok := s.apply(more); ok {
		return more
	}
	return some
}

// together picks the fixes to make at once: the services' list by itself, any
// number of repeated keys, or one fix of each service, so that none changes the
// ground below another.
func together(fixes []Finding) (picked, left []Finding) {
	first := fixes[0]
	if first.Code == PatternServicesMap {
		return fixes[:1], fixes[1:]
	}
	busy, end := map[*node]bool{}, 0
	for _, f := range fixes {
		switch {
		case (f.Code == PatternDuplicateKey) != (first.Code == PatternDuplicateKey), f.Code == PatternServicesMap,
			f.owner != nil && busy[f.owner], f.owner == nil && f.fix.edits[0].from < end:
			left = append(left, f)
			continue
		}
		busy[f.owner] = true
		end = f.fix.edits[0].to
		picked = append(picked, f)
	}
	return picked, left
}

// apply makes the fixes' edits and compares what the text means with what it
// ought to mean. ok is false where it does not.
func (s *scanner) apply(fixes []Finding) (text string, ok bool) {
	var edits []edit
	copies := map[*node]*node{}
	want := cloneTree(s.root, copies)
	copyOf := func(n *node) *node {
		if c := copies[n]; c != nil {
			return c
		}
		return &node{}
	}
	for _, f := range fixes {
		edits = append(edits, f.fix.edits...)
		f.fix.apply(copyOf)
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Or(a.from-b.from, a.to-b.to) })
	var b strings.Builder
	at := 0
	for _, e := range edits {
		if e.from < at {
			return "", false
		}
		b.WriteString(s.src.text[at:e.from])
		b.WriteString(e.text)
		at = e.to
	}
	b.WriteString(s.src.text[at:])
	text = b.String()
	got, fault := parseTree([]byte(text), &report{})
	return text, fault == nil && got != nil && sameMeaning(want, got)
}

// cloneTree copies a tree; copies maps each node to its copy. What an alias
// leads to stays one node.
func cloneTree(n *node, copies map[*node]*node) *node {
	if c := copies[n]; c != nil {
		return c
	}
	c := &node{}
	*c = *n
	copies[n] = c
	c.kids = make([]kid, len(n.kids))
	for i, k := range n.kids {
		c.kids[i] = k
		c.kids[i].node = cloneTree(k.node, copies)
	}
	return c
}

// sameMeaning tells whether two trees say the same: values, lists in their
// order, mappings in any.
func sameMeaning(a, b *node) bool {
	if a.kind != b.kind || len(a.kids) != len(b.kids) || a.kind < mapKind && a.text != b.text {
		return false
	}
	for i := range a.kids {
		other := b.kids[i].node
		if a.kind == mapKind {
			if other = b.get(a.kids[i].key); other == nil {
				return false
			}
		}
		if !sameMeaning(a.kids[i].node, other) {
			return false
		}
	}
	return true
}

// DiffTexts is a unified diff of two texts of a file, as people may see it:
// secrets are masked in both, and so one that is the only difference of its
// line does not show.
func DiffTexts(name string, before, after []byte) string {
	masked := func(data []byte) string {
		x := lineIndex{data: plainLines(data)}
		var b strings.Builder
		n := bytes.Count(x.data, []byte("\n"))
		if len(x.data) > 0 && x.data[len(x.data)-1] != '\n' {
			n++
		}
		for i := range n {
			b.WriteString(maskText(x.shown(i+1, false)) + "\n")
		}
		return b.String()
	}
	return udiff.Unified(name, name, masked(before), masked(after))
}
