package registry

import (
	"bytes"
	"regexp"
)

// A fault of YAML keeps the parser from the rest of a file. People want all of
// a file's faults at once, so such a file is cut at its services, each of which
// is read by itself: those that cannot be are reported, and the others are
// checked as ever.

var topLevelKey = regexp.MustCompile(`^[A-Za-z_][\w.-]*:(\s|$)`)

// salvage returns what can be read of a file that cannot be read whole; nil
// when that is nothing. The faults that it finds take the place of fault,
// which may have come of an earlier one.
func salvage(data []byte, rep *report, fault *syntaxFault) *node {
	report := func(f *syntaxFault) {
		f.explain(rep.lines.line(int(f.line)))
		rep.add(Error, CodeSyntax, f.line, f.col, f.message, f.help)
	}
	data = plainLines(data)
	from, begin, ok := servicesLine(data)
	if checkText(data) != nil || !ok || bytes.HasPrefix(data, []byte("---")) || bytes.Contains(data, []byte("\n---")) {
		report(fault)
		return nil
	}
	items, end := cutLoosely(data, begin)
	parts := []*part{{text: data[:from]}}
	for i, item := range items {
		next := end
		if i+1 < len(items) {
			next = items[i+1]
		}
		if i == 0 {
			item = begin
		}
		parts = append(parts, &part{text: data[item:next]})
	}
	parts = append(parts, &part{text: data[end:]})
	countLines(parts, data, begin)
	parseAll(parts)

	good, told := []*part{}, false
	for i, p := range parts {
		if p.fault != nil {
			report(p.fault)
			told, rep.partial = true, true
		}
		switch outer := i == 0 || i == len(parts)-1; {
		case p.ok && (outer || p.root != nil):
			good = append(good, p)
		case outer:
			good = append(good, &part{ok: true})
		}
	}
	if !told {
		report(fault)
	}
	if len(good) < 3 || !told {
		return nil
	}
	root, ok := joinParts(good, int32(bytes.Count(data[:from], []byte("\n")))+1, rep)
	if !ok {
		return nil
	}
	return root
}

// cutLoosely finds where each element of the list begins after begin, and
// where the list ends, in a text whose indentation may be broken.
func cutLoosely(data []byte, begin int) (items []int, end int) {
	indent := -1
	for pos := begin; pos < len(data); {
		next := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			next = pos + i + 1
		}
		line := data[pos:next]
		text := bytes.TrimLeft(line, " ")
		blanks := len(line) - len(text)
		switch {
		case bytes.HasPrefix(text, []byte("- ")) && (indent < 0 || blanks == indent):
			indent = blanks
			items = append(items, pos)
		case topLevelKey.Match(line):
			return items, pos
		}
		pos = next
	}
	return items, len(data)
}
