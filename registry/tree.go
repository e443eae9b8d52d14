package registry

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

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
	data = plainLines(data)
	if root, ok := parseParts(data, rep); ok {
		return root, nil
	}
	return parseWhole(data, rep)
}

// plainLines takes away what editors on other systems add: a mark in front,
// and a carriage return in each line, which the parser counts as a line of its
// own.
func plainLines(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if bytes.Contains(data, []byte("\r\n")) {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	}
	return data
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

// converter turns the parser's tree into nodes and resolves anchors, aliases
// and merge keys.
type converter struct {
	rep      *report
	anchors  map[string]*node
	expanded int // nodes reached through aliases so far
	fault    *syntaxFault
	refuse   bool  // anchors and aliases end the conversion: see parseParts
	refused  bool  // that ended it
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
			c.refused = true
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
		c.refused = true
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
			c.rep.duplicates = append(c.rep.duplicates, duplicate{out.kids[first], kid{key, kline, kcol, value}})
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
