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

// maxRounds bounds the passes over a file: one edit may make way for another
// in the same service, such as a move and then a rename.
const maxRounds = 40

// FixPatterns rewrites the patterns that can be rewritten without changing
// what the file means. Each edit is proved right before it counts: the new
// text is read, and must say what the old one said, but for the finding. An
// edit of which that cannot be shown is not made, and its finding is left. The
// diagnostics are those that keep the text from being read at all.
func FixPatterns(name string, data []byte) (*Fixed, Diagnostics) {
	text := string(plainLines(data))
	out := &Fixed{}
	refused := map[string]bool{}
	for range maxRounds {
		s, diags := scan(name, text)
		if diags != nil {
			return nil, diags
		}
		round := s.round(refused)
		if len(round) == 0 {
			break
		}
		if next, ok := s.apply(round); ok {
			text, out.Done = next, append(out.Done, round...)
			continue
		}
		// One of them is at fault; which one shows by itself.
		for _, f := range round {
			if next, ok := s.apply([]Finding{f}); ok {
				text, out.Done = next, append(out.Done, f)
				break // the others' places have moved
			}
			refused[f.key()] = true
		}
	}
	s, diags := scan(name, text)
	if diags != nil {
		return nil, diags
	}
	out.Left = s.found
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

// key tells findings apart whose lines may move.
func (f *Finding) key() string { return string(f.Code) + "\x00" + f.Service + "\x00" + f.Message }

// round picks the fixes to make at once: one of a service, so that none
// changes the ground below another.
func (s *scanner) round(refused map[string]bool) []Finding {
	var picked []Finding
	busy := map[string]bool{}
	for _, f := range s.found {
		if f.fix == nil || refused[f.key()] || busy[strings.ToLower(f.Service)] {
			continue
		}
		if f.Service == "" { // of the list as a whole
			return []Finding{f}
		}
		busy[strings.ToLower(f.Service)] = true
		picked = append(picked, f)
	}
	return picked
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
