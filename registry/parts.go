package registry

import (
	"bytes"
	"runtime"
	"sync"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
)

// A big registry is one long list of services. The parser's tree takes some
// hundred times the file's size, so such a file is cut between services and
// its parts are parsed beside each other and turned into nodes one by one.
// Where anything is unusual (anchors, a second document, a part that does not
// parse by itself) the file is parsed whole instead: the result and the
// diagnostics are the same either way.

const (
	partsFrom = 128 << 10 // bytes from which a file is cut
	partSize  = 32 << 10  // bytes of a part, about
)

// servicesLine finds the one line that opens the base's list; ok is false
// when there is none, more than one, or something else on it.
func servicesLine(data []byte) (from, to int, ok bool) {
	key := []byte("services:")
	for pos := 0; pos < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		if bytes.HasPrefix(data[pos:end], key) {
			rest := bytes.TrimSpace(data[pos+len(key) : end])
			if ok || len(rest) > 0 && rest[0] != '#' {
				return 0, 0, false
			}
			from, to, ok = pos, end, true
		}
		pos = end
	}
	return from, to, ok
}

// part is a run of whole lines.
type part struct {
	text   []byte
	offset int32 // lines before it
	root   *node
	rep    report
	ok     bool
	fault  *syntaxFault // why it is not, where that is a fault of the text itself
}

// parseParts reads a big file in parts; ok is false when it has to be read
// whole.
func parseParts(data []byte, rep *report) (root *node, ok bool) {
	if len(data) < partsFrom || bytes.HasPrefix(data, []byte("---")) ||
		bytes.Contains(data, []byte("\n---")) || bytes.Contains(data, []byte("\n...")) || data[0] == '%' {
		return nil, false
	}
	from, begin, ok := servicesLine(data)
	if !ok {
		return nil, false
	}
	items, end := cutItems(data, begin)
	if len(items) < 2 {
		return nil, false
	}
	parts := make([]*part, 0, len(items)+2)
	parts = append(parts, &part{text: data[:from]})
	for i, item := range items {
		next := end
		if i+1 < len(items) {
			next = items[i+1]
		}
		parts = append(parts, &part{text: data[item:next]})
	}
	parts = append(parts, &part{text: data[end:]})
	parts[1].text = data[begin:items[1]]
	countLines(parts, data, begin)
	parseAll(parts)
	return joinParts(parts, int32(bytes.Count(data[:from], []byte("\n")))+1, rep)
}

// countLines counts the lines before each part; the second begins at begin.
func countLines(parts []*part, data []byte, begin int) {
	parts[1].offset = int32(bytes.Count(data[:begin], []byte("\n")))
	for i := 2; i < len(parts); i++ {
		parts[i].offset = parts[i-1].offset + int32(bytes.Count(parts[i-1].text, []byte("\n")))
	}
}

// cutItems finds where the list's elements begin after begin, about one for
// each partSize, and where the list ends. It only looks at indentation; a cut
// inside of a quoted value leaves a part that does not parse.
func cutItems(data []byte, begin int) (items []int, end int) {
	indent := -1
	for pos := begin; pos < len(data); {
		next := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			next = pos + i + 1
		}
		line := data[pos:next]
		text := bytes.TrimLeft(line, " ")
		blanks := len(line) - len(text)
		dash := len(text) > 1 && text[0] == '-' && (text[1] == ' ' || text[1] == '\n' || text[1] == '\r')
		switch {
		case len(bytes.TrimSpace(text)) == 0 || text[0] == '#':
		case indent < 0 && !dash:
			return nil, 0
		case dash && (indent < 0 || blanks == indent):
			indent = blanks
			if len(items) == 0 || pos-items[len(items)-1] >= partSize {
				items = append(items, pos)
			}
		case blanks == 0:
			return items, pos
		case blanks <= indent:
			return nil, 0
		}
		pos = next
	}
	return items, len(data)
}

func parseAll(parts []*part) {
	queue := make(chan *part, len(parts))
	for _, p := range parts {
		queue <- p
	}
	close(queue)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		workers.Go(func() {
			for p := range queue {
				p.parse()
			}
		})
	}
	workers.Wait()
}

func (p *part) parse() {
	defer func() {
		if recover() != nil {
			p.ok = false // the whole file's parse reports it
		}
	}()
	text := string(p.text)
	if p.root, p.ok = readPlain(text, p.offset); p.ok {
		return
	}
	tokens := lexer.Tokenize(text)
	if fault := checkTokens(tokens); fault != nil {
		p.failed(fault)
		return
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		p.failed(syntaxFaultOf(err))
		return
	}
	if len(file.Docs) > 1 {
		return
	}
	p.ok = true
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return
	}
	c := converter{rep: &p.rep, anchors: map[string]*node{}, refuse: true, offset: p.offset}
	p.root = c.convert(file.Docs[0].Body, 1)
	if p.ok = c.fault == nil; !p.ok && !c.refused {
		p.fault = c.fault
	}
}

func (p *part) failed(fault *syntaxFault) {
	fault.line += p.offset
	p.fault = fault
}

// joinParts puts the parts' nodes together: the mapping before the list, the
// list that line opens, the mapping after it.
func joinParts(parts []*part, line int32, rep *report) (*node, bool) {
	last := len(parts) - 1
	services := &node{kind: seqKind, line: line + 1, col: 1}
	root := &node{kind: mapKind, line: 1, col: 1}
	keys := keySet{}
	add := func(k kid) bool {
		if keys.add(root, k.key) >= 0 {
			return false
		}
		root.kids = append(root.kids, k)
		return true
	}
	for i, p := range parts {
		if !p.ok {
			return nil, false
		}
		if i == 1 && !add(kid{"services", line, 1, services}) {
			return nil, false
		}
		switch {
		case p.root == nil:
			if i > 0 && i < last {
				return nil, false
			}
		case i == 0 || i == last:
			if p.root.kind != mapKind {
				return nil, false
			}
			for _, k := range p.root.kids {
				if !add(k) {
					return nil, false
				}
			}
		case p.root.kind != seqKind:
			return nil, false
		default:
			services.kids = append(services.kids, p.root.kids...)
		}
	}
	services.line, services.col = services.kids[0].node.line, services.kids[0].node.col
	root.line, root.col = root.kids[0].line, root.kids[0].col
	services.measure()
	root.measure()
	for _, p := range parts {
		rep.duplicates = append(rep.duplicates, p.rep.duplicates...)
		for _, d := range p.rep.list {
			rep.add(d.Severity, d.Code, int32(d.Line), int32(d.Column), d.Message, d.Suggestion)
		}
	}
	return root, true
}
