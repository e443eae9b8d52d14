package registry

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// kind is what a node of the file is.
type kind uint8

const (
	nullKind kind = iota
	boolKind
	intKind
	floatKind
	stringKind
	mapKind
	seqKind
)

// String names a kind as messages do.
func (k kind) String() string {
	return [...]string{"nothing", "true or false", "a whole number", "a number", "a string", "a mapping", "a list"}[k]
}

// node is one value of the file with its position: what the parser's tree
// holds, without its tokens, so that a big registry stays small. A node may
// be reached twice through an alias and is not changed after it was made,
// except for exp, which is the same for every way to it.
type node struct {
	kind   kind
	quoted bool  // a quoted or block string: never a number in disguise
	line   int32 // from 1
	col    int32 // from 1, in characters
	size   int32 // nodes below, itself included, aliases expanded; saturates
	text   string
	kids   []kid
	exp    *expansion // what the variables in text became
}

// kid is an entry of a mapping or, without key, of a list.
type kid struct {
	key       string
	line, col int32 // the key's
	node      *node
}

// get returns a mapping's value for key, or nil. A nil node has none.
func (n *node) get(key string) *node {
	if k := n.entry(key); k != nil {
		return k.node
	}
	return nil
}

func (n *node) entry(key string) *kid {
	if n == nil || n.kind != mapKind {
		return nil
	}
	for i := range n.kids {
		if n.kids[i].key == key {
			return &n.kids[i]
		}
	}
	return nil
}

// at returns a list's element, or nil.
func (n *node) at(i int) *node {
	if n == nil || n.kind != seqKind || i >= len(n.kids) {
		return nil
	}
	return n.kids[i].node
}

// path follows keys downwards; nil when one is missing.
func (n *node) path(keys ...string) *node {
	for _, k := range keys {
		n = n.get(k)
	}
	return n
}

// value is a scalar's text with its variables expanded.
func (n *node) value() string {
	if n.exp != nil {
		return n.exp.value
	}
	return n.text
}

const (
	maxDepth       = 64        // levels of nesting
	maxKeys        = 2_000     // keys of one mapping: what the parser needs grows with their square
	maxExpanded    = 100_000   // nodes reached through aliases, in one file
	maxPathBytes   = 512 << 20 // what the parser's own bookkeeping of paths may take
	maxNodeSize    = 1 << 29   // where node.size saturates
	maxScalarShown = 60        // characters of a value that a message quotes
)

// syntaxFault is why a file is unreadable.
type syntaxFault struct {
	line, col     int32
	message, help string
}

func (f *syntaxFault) Error() string { return f.message }

// parseTree reads data into nodes. It returns nil, nil for a file without any
// value. Faults that keep the rest from being understood come back as a
// syntaxFault; duplicate keys and the like go to rep and parsing goes on.
func parseTree(data []byte, rep *report) (root *node, fault *syntaxFault) {
	if fault := checkText(data); fault != nil {
		return nil, fault
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if root, ok := parseParts(data, rep); ok {
		return root, nil
	}
	return parseWhole(data, rep)
}

// parseWhole reads data in one go.
func parseWhole(data []byte, rep *report) (root *node, fault *syntaxFault) {
	// The parser is fed files that people write by hand; should one of them
	// find a hole in it, the file is refused and the program lives on.
	defer func() {
		if r := recover(); r != nil {
			root, fault = nil, &syntaxFault{line: 1, col: 1,
				message: fmt.Sprintf("the YAML parser gave up on this file: %v", r),
				help:    "look for an unusual construct near the last change"}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if fault := checkTokens(tokens); fault != nil {
		return nil, fault
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxFaultOf(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			line, col := position(doc.Body)
			return nil, &syntaxFault{line, col, "a second YAML document starts here",
				"keep one document in a file: remove the --- line or split the file"}
		}
		body = doc.Body
	}
	if body == nil {
		return nil, nil
	}
	c := converter{rep: rep, anchors: map[string]*node{}}
	root = c.convert(body, 0)
	if c.fault != nil {
		return nil, c.fault
	}
	return root, nil
}

// checkText refuses bytes that no YAML file may hold.
func checkText(data []byte) *syntaxFault {
	if utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		return nil
	}
	line, start := int32(1), 0
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == 0 || r == utf8.RuneError && size == 1 {
			return &syntaxFault{line, int32(utf8.RuneCount(data[start:i])) + 1,
				fmt.Sprintf("the byte 0x%02x does not belong in a text file", data[i]),
				"save the file as UTF-8"}
		}
		i += size
		if r == '\n' {
			line, start = line+1, i
		}
	}
	return nil
}

// checkTokens bounds nesting and the parser's bookkeeping before the parser,
// which recurses once for each level, sees the file.
func checkTokens(tokens token.Tokens) *syntaxFault {
	type level struct {
		col, keys int // keys: bytes of the keys above and here
		entries   int // keys of the mapping so far
		flow      bool
	}
	levels := make([]level, 1, maxDepth)
	marks, pathBytes := 0, 0
	for _, tk := range tokens {
		if tk.Type == token.CommentType {
			continue
		}
		top := &levels[len(levels)-1]
		col, isLevel, keyLen := tk.Position.Column, false, 0
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			levels = append(levels, level{col: col, keys: top.keys, flow: true})
		case token.SequenceEndType, token.MappingEndType:
			if top.flow {
				levels = levels[:len(levels)-1]
			}
		case token.TagType, token.AnchorType:
			marks++
		case token.CollectEntryType:
			marks = 0
		case token.SequenceEntryType, token.MappingKeyType:
			isLevel = true
		case token.MappingValueType:
			isLevel = true
			if tk.Prev != nil && tk.Prev.Position.Line == tk.Position.Line {
				col, keyLen = tk.Prev.Position.Column, len(tk.Prev.Value)
			}
		}
		if isLevel {
			marks = 0
			if top.flow {
				top.keys = levels[len(levels)-2].keys + keyLen
			} else {
				entries := 0
				for len(levels) > 1 && levels[len(levels)-1].col >= col {
					if below := levels[len(levels)-1]; below.col == col {
						entries = below.entries
					}
					levels = levels[:len(levels)-1]
				}
				levels = append(levels, level{col: col, entries: entries, keys: levels[len(levels)-1].keys + keyLen})
			}
			if tk.Type == token.MappingValueType {
				levels[len(levels)-1].entries++
			}
		}
		pathBytes += levels[len(levels)-1].keys
		at := func(message, help string) *syntaxFault {
			return &syntaxFault{int32(tk.Position.Line), int32(tk.Position.Column), message, help}
		}
		switch {
		case len(levels) > maxDepth+1 || marks > maxDepth:
			return at(fmt.Sprintf("nested more than %d levels deep", maxDepth), "flatten this part")
		case levels[len(levels)-1].entries > maxKeys:
			return at(fmt.Sprintf("a mapping with more than %d keys", maxKeys), "split it, or make a list of it")
		case pathBytes > maxPathBytes:
			return at("keys this long in this number are refused", "shorten the keys above")
		}
	}
	return nil
}

// syntaxFaultOf words the parser's error.
func syntaxFaultOf(err error) *syntaxFault {
	fault := &syntaxFault{line: 1, col: 1, message: strings.SplitN(err.Error(), "\n", 2)[0]}
	var at yaml.Error
	if !errors.As(err, &at) {
		return fault
	}
	// The parser's message quotes neither values nor source by itself.
	fault.message = at.GetMessage()
	if tk := at.GetToken(); tk != nil && tk.Position != nil {
		fault.line, fault.col = int32(max(tk.Position.Line, 1)), int32(max(tk.Position.Column, 1))
	}
	switch m := fault.message; {
	case strings.Contains(m, "'\t'"), strings.Contains(m, "tab character"):
		fault.message = "a tab stands where YAML allows only spaces"
		fault.help = "indent with spaces"
	case strings.Contains(m, "mapping value is not allowed"):
		fault.help = "check the indentation of this line and the next, and quote a value that holds \": \""
	case strings.Contains(m, "could not find end character"):
		fault.help = "close the quote"
	case strings.Contains(m, "must be specified"):
		fault.help = "close the bracket before the next key"
	case strings.Contains(m, "non-map value is specified"), strings.Contains(m, "unexpected key name"),
		strings.Contains(m, "value is not allowed in this context"):
		fault.help = "check the indentation, and that each key is followed by a colon and a space"
	}
	return fault
}

// converter turns the parser's tree into nodes and resolves anchors, aliases
// and merge keys.
type converter struct {
	rep      *report
	anchors  map[string]*node
	expanded int // nodes reached through aliases so far
	fault    *syntaxFault
	refuse   bool  // anchors and aliases end the conversion: see parseParts
	offset   int32 // lines before the text that the parser was given
}

func (c *converter) fail(n ast.Node, message, help string) *node {
	line, col := c.position(n)
	if c.fault == nil {
		c.fault = &syntaxFault{line, col, message, help}
	}
	return &node{line: line, col: col, size: 1}
}

// position is where a value begins; a block mapping's token is its first
// colon, so its first key is asked instead.
func position(n ast.Node) (line, col int32) {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return position(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(v.Key)
	case *ast.DocumentNode:
		return position(v.Body)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return int32(max(tk.Position.Line, 1)), int32(max(tk.Position.Column, 1))
	}
	return 1, 1
}

// position is where a value begins in the file.
func (c *converter) position(n ast.Node) (line, col int32) {
	line, col = position(n)
	return line + c.offset, col
}

func (c *converter) convert(n ast.Node, depth int) *node {
	if c.fault != nil {
		return &node{size: 1}
	}
	if n == nil {
		return &node{line: 1, col: 1, size: 1}
	}
	if depth > maxDepth {
		return c.fail(n, fmt.Sprintf("nested more than %d levels deep", maxDepth), "flatten this part")
	}
	scalar := func(k kind) *node {
		line, col := c.position(n)
		return &node{kind: k, line: line, col: col, size: 1, text: n.GetToken().Value}
	}
	switch v := n.(type) {
	case *ast.NullNode:
		out := scalar(nullKind)
		out.text = ""
		return out
	case *ast.BoolNode:
		return scalar(boolKind)
	case *ast.IntegerNode:
		return scalar(intKind)
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar(floatKind)
	case *ast.StringNode:
		out := scalar(stringKind)
		out.text = v.Value
		out.quoted = v.Token.Type == token.SingleQuoteType || v.Token.Type == token.DoubleQuoteType
		return out
	case *ast.LiteralNode:
		out := scalar(stringKind)
		out.text, out.quoted = v.Value.Value, true
		return out
	case *ast.SequenceNode:
		line, col := c.position(n)
		out := &node{kind: seqKind, line: line, col: col, kids: make([]kid, 0, len(v.Values))}
		for _, e := range v.Values {
			out.kids = append(out.kids, kid{node: c.convert(e, depth+1)})
		}
		out.measure()
		return out
	case *ast.MappingNode:
		return c.mapping(n, v.Values, depth)
	case *ast.MappingValueNode:
		return c.mapping(n, []*ast.MappingValueNode{v}, depth)
	case *ast.AnchorNode:
		if c.refuse {
			return c.fail(n, "anchor", "")
		}
		out := c.convert(v.Value, depth+1)
		c.anchors[v.Name.GetToken().Value] = out
		return out
	case *ast.AliasNode:
		return c.alias(v)
	case *ast.TagNode:
		return c.tag(v, depth)
	}
	return c.fail(n, "this YAML construct is not supported here", "write plain mappings, lists and values")
}

func (c *converter) alias(v *ast.AliasNode) *node {
	if c.refuse {
		return c.fail(v, "alias", "")
	}
	name := v.Value.GetToken().Value
	target, ok := c.anchors[name]
	if !ok {
		return c.fail(v, fmt.Sprintf("the alias *%s has no anchor &%s above it", clip(name), clip(name)),
			"define the anchor first, outside of the value that refers to it")
	}
	c.expanded += int(target.size)
	if c.expanded > maxExpanded {
		return c.fail(v, fmt.Sprintf("the aliases of this file expand to more than %d values", maxExpanded),
			"write the values out, or split the file")
	}
	return target
}

// tag accepts YAML's own tags where they say what the value is anyway, and
// !!str, which makes a string of a number.
func (c *converter) tag(v *ast.TagNode, depth int) *node {
	tag := v.Start.Value
	if v.Value == nil {
		return c.fail(v, fmt.Sprintf("the tag %s has no value", clip(tag)), "remove the tag")
	}
	out := c.convert(v.Value, depth+1)
	want := map[string]kind{"!!null": nullKind, "!!bool": boolKind, "!!int": intKind, "!!float": floatKind,
		"!!map": mapKind, "!!seq": seqKind}
	switch k, known := want[tag]; {
	case tag == "!!str" && out.kind < mapKind:
		copied := *out
		copied.kind, copied.quoted = stringKind, true
		return &copied
	case known && (k == out.kind || k == floatKind && out.kind == intKind):
		return out
	}
	return c.fail(v, fmt.Sprintf("the tag %s is not supported", clip(tag)), "remove the tag")
}

func (c *converter) mapping(n ast.Node, values []*ast.MappingValueNode, depth int) *node {
	line, col := c.position(n)
	out := &node{kind: mapKind, line: line, col: col, kids: make([]kid, 0, len(values))}
	keys := keySet{}
	var merges []*node
	for _, pair := range values {
		if pair.Key.IsMergeKey() {
			if m := c.convert(pair.Value, depth+1); c.fault == nil {
				merges = c.mergeSources(merges, pair.Value, m)
			}
			continue
		}
		key, ok := c.key(pair.Key)
		if !ok {
			return out
		}
		kline, kcol := c.position(pair.Key)
		value := c.convert(pair.Value, depth+1)
		if first := keys.add(out, key); first >= 0 {
			c.rep.add(Error, CodeDuplicateKey, kline, kcol,
				fmt.Sprintf("the key %q stands twice in this mapping, first in line %d", clip(key), out.kids[first].line),
				"keep one of them")
			continue
		}
		out.kids = append(out.kids, kid{key, kline, kcol, value})
	}
	for _, m := range merges {
		for _, k := range m.kids {
			if keys.add(out, k.key) < 0 {
				out.kids = append(out.kids, k)
			}
		}
	}
	out.measure()
	return out
}

// mergeSources collects what a merge key brings in: one mapping or a list of
// them, the first having precedence.
func (c *converter) mergeSources(sources []*node, at ast.Node, m *node) []*node {
	switch m.kind {
	case mapKind:
		return append(sources, m)
	case seqKind:
		for _, k := range m.kids {
			if k.node.kind != mapKind {
				c.fail(at, "a merge key takes mappings only", "write <<: *name, with name an anchored mapping")
				return sources
			}
			sources = append(sources, k.node)
		}
		return sources
	}
	c.fail(at, "a merge key takes a mapping", "write <<: *name, with name an anchored mapping")
	return sources
}

func (c *converter) key(k ast.MapKeyNode) (string, bool) {
	var n ast.Node = k
	if complexKey, ok := n.(*ast.MappingKeyNode); ok {
		n = complexKey.Value
	}
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return v.GetToken().Value, true
	case nil:
		n = k
	}
	c.fail(n, "a key must be a plain word", "write the key as a word without anchor, alias or tag")
	return "", false
}

// measure sums up the sizes below.
func (n *node) measure() {
	total := int32(1)
	for _, k := range n.kids {
		total = min(total+k.node.size, maxNodeSize)
	}
	n.size = total
}

// keySet finds duplicate keys: by looking at each in small mappings, by a map
// in big ones.
type keySet struct{ index map[string]int }

// add returns the place of the same key in n, or -1 when key is new.
func (s *keySet) add(n *node, key string) int {
	if s.index == nil && len(n.kids) < 16 {
		for i := range n.kids {
			if n.kids[i].key == key {
				return i
			}
		}
		return -1
	}
	if s.index == nil {
		s.index = make(map[string]int, 2*len(n.kids))
		for i := range n.kids {
			s.index[n.kids[i].key] = i
		}
	}
	if i, ok := s.index[key]; ok {
		return i
	}
	s.index[key] = len(n.kids)
	return -1
}

// clip shortens a word of the file for a message.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) > maxScalarShown {
		return string([]rune(s)[:maxScalarShown]) + "…"
	}
	return s
}
