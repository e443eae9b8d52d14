package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// source is a file's text and where its lines begin.
type source struct {
	text  string
	lines []int
}

func newSource(text string) *source {
	s := &source{text: text, lines: []int{0}}
	for i := 0; i < len(text); i++ {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// start is where the scalar n begins, in bytes. The parser's place may be that
// of the blanks before it.
func (s *source) start(n *node) (at int, ok bool) {
	if n.line < 1 || int(n.line) > len(s.lines) {
		return 0, false
	}
	at = s.lines[n.line-1]
	for col := int32(1); col < n.col; col++ {
		if at >= len(s.text) || s.text[at] == '\n' {
			return 0, false
		}
		_, size := utf8.DecodeRuneInString(s.text[at:])
		at += size
	}
	for at < len(s.text) && (s.text[at] == ' ' || s.text[at] == '\t') {
		at++
	}
	return at, at < len(s.text)
}

// end is where the scalar n ends that begins at from: behind its last
// character, or behind its closing quote. ok is false where the text there is
// not what the parser took for n.
func (s *source) end(n *node, from int) (to int, ok bool) {
	switch s.text[from] {
	case '"':
		for i := from + 1; i < len(s.text); i++ {
			switch s.text[i] {
			case '\\':
				i++
			case '"':
				return i + 1, true
			}
		}
		return 0, false
	case '\'':
		for i := from + 1; i < len(s.text); i++ {
			if s.text[i] != '\'' {
				continue
			}
			if i+1 == len(s.text) || s.text[i+1] != '\'' {
				return i + 1, true
			}
			i++
		}
		return 0, false
	case '|', '>':
		return s.blockEnd(n, from), true
	}
	return s.plainEnd(n, from)
}

// plainEnd follows the value's characters through the text; only blanks and
// line ends may differ.
func (s *source) plainEnd(n *node, from int) (to int, ok bool) {
	at := from
	for _, r := range n.text {
		if unicode.IsSpace(r) {
			continue
		}
		for at < len(s.text) && strings.IndexByte(" \t\n", s.text[at]) >= 0 {
			at++
		}
		got, size := utf8.DecodeRuneInString(s.text[at:])
		if size == 0 || got != r {
			return 0, false
		}
		at += size
	}
	return at, at > from
}

// blockEnd is the end of the last line of a block scalar whose | or > stands
// at from.
func (s *source) blockEnd(n *node, from int) int {
	line, next := s.lineAt(from)
	end := from + len(strings.TrimRight(line, " \t"))
	if strings.TrimSpace(n.text) == "" {
		return end
	}
	indent := -1
	for next < len(s.text) {
		start := next
		line, next = s.lineAt(start)
		if strings.TrimSpace(line) == "" {
			continue
		}
		blanks := len(line) - len(strings.TrimLeft(line, " "))
		if indent < 0 { // |2 may keep some of the first line's blanks
			first := strings.TrimLeft(n.text, "\n")
			indent = blanks - (len(first) - len(strings.TrimLeft(first, " ")))
		}
		if blanks < indent {
			break
		}
		end = start + len(line)
	}
	return end
}

// lineAt is the rest of the line from a place on, and where the next begins.
func (s *source) lineAt(from int) (line string, next int) {
	if i := strings.IndexByte(s.text[from:], '\n'); i >= 0 {
		return s.text[from : from+i], from + i + 1
	}
	return s.text[from:], len(s.text)
}
