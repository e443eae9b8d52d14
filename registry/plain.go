package registry

import "strings"

// plainReader reads the plain way in which registries are written: block
// mappings and lists, one-line flow collections, words, numbers and simple
// quotes. It is some twenty times as fast as the parser, which a file of ten
// thousand services needs. Where a text holds anything else (anchors, tags,
// escapes, values over several lines, duplicate keys, a fault) it gives up, and
// the parser reads that part. What it reads it reads as the parser does, to the
// last position: TestThePlainReaderReadsAsTheParserDoes.
type plainReader struct {
	text   string
	pos    int   // where the line after the current one begins
	line   int32 // the current line's number
	cur    string
	indent int // the current line's; -1 at the end
	failed bool
}

// readPlain reads text, whose first line is number offset+1. ok is false when
// the parser has to read it.
func readPlain(text string, offset int32) (root *node, ok bool) {
	r := &plainReader{text: text, line: offset}
	r.next()
	if r.indent >= 0 {
		root = r.block(r.indent, 1)
	}
	if r.failed || r.indent >= 0 {
		return nil, false
	}
	return root, true
}

func (r *plainReader) giveUp() *node {
	r.failed = true
	return &node{}
}

// next goes to the next line that is neither blank nor a comment.
func (r *plainReader) next() {
	for r.pos < len(r.text) {
		line := r.text[r.pos:]
		if i := strings.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
		}
		r.pos += len(line) + 1
		r.line++
		indent := 0
		for indent < len(line) && line[indent] == ' ' {
			indent++
		}
		if indent == len(line) || line[indent] == '#' {
			// A lone carriage return ends a line too, and the comment with it.
			r.failed = r.failed || strings.IndexByte(line, '\r') >= 0
			continue
		}
		for i := indent; i < len(line); i++ {
			if line[i] < ' ' || line[i] > '~' {
				r.failed = true
			}
		}
		if line[len(line)-1] == ' ' { // the parser's columns are those behind such blanks
			r.failed = true
		}
		r.cur, r.indent = line[indent:], indent
		return
	}
	r.cur, r.indent = "", -1
}

func (r *plainReader) dash() bool { return strings.HasPrefix(r.cur, "- ") }

// block reads the mapping or list whose lines stand at indent.
func (r *plainReader) block(indent, depth int) *node {
	if depth > maxDepth/2 || r.failed {
		return r.giveUp()
	}
	if r.dash() {
		return r.sequence(indent, depth)
	}
	return r.mapping(indent, depth)
}

func (r *plainReader) sequence(indent, depth int) *node {
	out := &node{kind: seqKind, line: r.line, col: int32(indent) + 1}
	for r.indent == indent && r.dash() && !r.failed {
		rest := strings.TrimLeft(r.cur[1:], " ")
		at := indent + len(r.cur) - len(rest)
		if rest == "" || rest[0] == '#' || strings.HasPrefix(rest, "- ") {
			return r.giveUp()
		}
		if _, _, key := cutKey(rest); key {
			r.cur, r.indent = rest, at
			out.kids = append(out.kids, kid{node: r.mapping(at, depth+1)})
			continue
		}
		out.kids = append(out.kids, kid{node: r.value(rest, at, depth+1)})
		r.after(indent)
	}
	if r.indent > indent {
		return r.giveUp()
	}
	out.measure()
	return out
}

func (r *plainReader) mapping(indent, depth int) *node {
	out := &node{kind: mapKind, line: r.line, col: int32(indent) + 1}
	keys := keySet{}
	for r.indent == indent && !r.failed {
		key, rest, ok := cutKey(r.cur)
		if !ok || keys.add(out, key) >= 0 || len(out.kids) >= maxKeys || depth > maxDepth/2 {
			return r.giveUp()
		}
		k := kid{key: key, line: r.line, col: int32(indent) + 1}
		blanks := len(rest)
		rest = strings.TrimLeft(rest, " ")
		blanks -= len(rest)
		if rest == "" || rest[0] == '#' && blanks > 0 {
			r.next()
			switch {
			case r.indent > indent, r.indent == indent && r.dash():
				k.node = r.block(r.indent, depth+1)
			default: // a key without a value
				return r.giveUp()
			}
		} else {
			k.node = r.value(rest, indent+len(key)+1+blanks, depth+1)
			r.after(indent)
		}
		out.kids = append(out.kids, k)
	}
	if r.indent > indent {
		return r.giveUp()
	}
	out.measure()
	return out
}

// after goes on behind a value; one that goes on in the next line is for the
// parser.
func (r *plainReader) after(indent int) {
	r.next()
	if r.indent > indent {
		r.failed = true
	}
}

// cutKey splits a line at its key's colon; only plain words are keys here.
func cutKey(s string) (key, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == ':':
			if i == 0 || i+1 < len(s) && s[i+1] != ' ' || special(s[:i]) {
				return "", "", false
			}
			return s[:i], s[i+1:], true
		case letter(c) || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '.'):
		default:
			return "", "", false
		}
	}
	return "", "", false
}

func letter(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// special tells a word that is, or to some readers is, no string.
func special(s string) bool {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf":
		return true
	}
	return false
}

// value reads what stands behind a key or dash, to the end of the line.
func (r *plainReader) value(s string, at, depth int) *node {
	n, rest := r.inline(s, at, depth, false)
	if trimmed := strings.TrimLeft(rest, " "); trimmed != "" && (trimmed[0] != '#' || len(trimmed) == len(rest)) {
		return r.giveUp()
	}
	return n
}

// inline reads one value that begins s, and returns what follows. at is the
// column before it, from 0.
func (r *plainReader) inline(s string, at, depth int, flow bool) (*node, string) {
	if s == "" || depth > maxDepth/2 || r.failed {
		return r.giveUp(), ""
	}
	switch s[0] {
	case '"', '\'':
		end := strings.IndexByte(s[1:], s[0])
		if end < 0 || strings.IndexByte(s[1:end+1], '\\') >= 0 || end+2 < len(s) && s[end+2] == s[0] {
			return r.giveUp(), ""
		}
		return &node{kind: stringKind, quoted: true, line: r.line, col: int32(at) + 1, size: 1, text: s[1 : end+1]}, s[end+2:]
	case '{', '[':
		return r.flow(s, at, depth)
	}
	end := len(s)
	if i := strings.Index(s, " #"); i >= 0 {
		end = i
	}
	if flow {
		if i := strings.IndexAny(s[:end], ",{}[]"); i >= 0 {
			end = i
		}
	}
	text := strings.TrimRight(s[:end], " ")
	n := &node{line: r.line, col: int32(at) + 1, size: 1, text: text}
	switch {
	case text == "true" || text == "false":
		n.kind = boolKind
	case number(text):
		n.kind = intKind
		if strings.IndexByte(text, '.') > 0 {
			n.kind = floatKind
		}
	case text == "" || !letter(text[0]) && text[0] != '/' && text[0] != '$' || special(text) ||
		strings.Contains(text, ": ") || strings.HasSuffix(text, ":") || flow && strings.ContainsAny(text, `:"'#`) || strings.Contains(text, "\t"):
		return r.giveUp(), ""
	default:
		n.kind = stringKind
	}
	return n, s[end:]
}

// number tells whole numbers and decimals that all readers take for the same.
func number(s string) bool {
	if s == "" || len(s) > 15 || s[0] == '0' && len(s) > 1 && s[1] != '.' {
		return false
	}
	dots := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '.' && i > 0 && i+1 < len(s):
			dots++
		case s[i] < '0' || s[i] > '9':
			return false
		}
	}
	return dots <= 1
}

// flow reads a collection in brackets that ends in the same line.
func (r *plainReader) flow(s string, at, depth int) (*node, string) {
	out := &node{kind: seqKind, line: r.line, col: int32(at) + 1}
	closing := byte(']')
	if s[0] == '{' {
		out.kind, closing = mapKind, '}'
	}
	keys := keySet{}
	begin := at
	rest := s[1:]
	column := func() int { return begin + len(s) - len(rest) }
	for !r.failed {
		rest = strings.TrimLeft(rest, " ")
		if rest == "" {
			return r.giveUp(), ""
		}
		if rest[0] == closing {
			if len(out.kids) > 0 && strings.HasSuffix(strings.TrimRight(s[:len(s)-len(rest)], " "), ",") {
				return r.giveUp(), "" // a comma before the bracket
			}
			out.measure()
			return out, rest[1:]
		}
		if len(out.kids) > 0 {
			if rest[0] != ',' {
				return r.giveUp(), ""
			}
			if rest = strings.TrimLeft(rest[1:], " "); rest == "" {
				return r.giveUp(), ""
			}
		}
		k := kid{}
		if out.kind == mapKind {
			key, value, ok := cutKey(rest)
			if !ok || keys.add(out, key) >= 0 || len(out.kids) >= maxKeys {
				return r.giveUp(), ""
			}
			k.key, k.line, k.col = key, r.line, int32(column())+1
			rest = strings.TrimLeft(value, " ")
		} else if _, _, pair := cutKey(rest); pair {
			return r.giveUp(), ""
		}
		k.node, rest = r.inline(rest, column(), depth+1, true)
		out.kids = append(out.kids, k)
	}
	return r.giveUp(), ""
}
