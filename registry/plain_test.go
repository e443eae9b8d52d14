package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"pgregory.net/rapid"
)

// parsed is what the parser makes of a text; ok is false where it, or the
// conversion, finds a fault.
func parsed(text string) (root *node, ok bool) {
	tokens := lexer.Tokenize(text)
	if checkTokens(tokens) != nil {
		return nil, false
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil || len(file.Docs) != 1 {
		return nil, err == nil && len(file.Docs) == 0
	}
	if file.Docs[0].Body == nil {
		return nil, true
	}
	c := converter{rep: &report{}, anchors: map[string]*node{}}
	root = c.convert(file.Docs[0].Body, 0)
	return root, c.fault == nil && len(c.rep.list) == 0
}

// unlike says where two trees differ in anything.
func unlike(a, b *node, path string) string {
	switch {
	case a == nil || b == nil:
		if a == b {
			return ""
		}
		return fmt.Sprintf("%s: %v and %v", path, a, b)
	case a.kind != b.kind, a.quoted != b.quoted, a.line != b.line, a.col != b.col, a.size != b.size, a.text != b.text, len(a.kids) != len(b.kids):
		return fmt.Sprintf("%s: %+v and %+v", path, *a, *b)
	}
	for i := range a.kids {
		x, y := a.kids[i], b.kids[i]
		if x.key != y.key || x.line != y.line || x.col != y.col {
			return fmt.Sprintf("%s: the keys %q %d:%d and %q %d:%d", path, x.key, x.line, x.col, y.key, y.line, y.col)
		}
		if d := unlike(x.node, y.node, path+"."+x.key); d != "" {
			return d
		}
	}
	return ""
}

func sameAsParser(text string) error {
	plain, ok := readPlain(text, 0)
	if !ok {
		return nil
	}
	whole, sound := parsed(text)
	if !sound {
		return fmt.Errorf("the parser does not take this:\n%s", text)
	}
	if d := unlike(plain, whole, ""); d != "" {
		return fmt.Errorf("%s, in:\n%s", d, text)
	}
	return nil
}

// words that stand where values may, most of them plain.
var yamlWords = []string{"a", "api", "https://h.example.com/v1", "${VAR:-x}", "$input.file", "/usr/bin/cat", "30", "0", "1.5", "1.", "007", "1e3", "0x10",
	"true", "True", "null", "~", "no", "30s", "a b c", "a: b", "a #b", "a#b", "a # b", "\"q: x\"", "'s # y'", "'it''s'", "\"a\\n\"", "*.x", "-1", "10.0.0.0/8",
	"[a, b]", "[ a , 1 ]", "[]", "{}", "{ a: b, c: [1, 2] }", "{a: b}", "{a: }", "[a, ]", "[a", "{ url: https://x/y }", "&x y", "*x", "!!str 1", "|", ">", "é",
	"\"x\" y", "a:b", "a:", ":", "- a", "2024-01-01", "1_000", "12345678901234567890", "", "\ta", "{ a: \"b, c\" }", "[\"a\", 'b']", "{ a: b # c }", "@x", "%x", "`x", ".5", "1.2.3", "+1", "{a: b}c", "a,b", "a]b", "a{b"}

func TestThePlainReaderReadsAsTheParserDoes(t *testing.T) {
	files, _ := filepath.Glob("testdata/*/*.yaml")
	more, _ := filepath.Glob("../examples/registry/*.yaml")
	for _, file := range append(files, more...) {
		data, err := os.ReadFile(file)
		must(t, err)
		if err := sameAsParser(string(plainLines(data))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		depth := 0
		for range rapid.IntRange(1, 9).Draw(t, "lines") {
			depth = max(0, depth+rapid.IntRange(-2, 1).Draw(t, "depth"))
			b.WriteString(strings.Repeat("  ", depth))
			if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
				b.WriteString(" ")
			}
			switch rapid.IntRange(0, 9).Draw(t, "form") {
			case 0:
				b.WriteString("# comment: " + rapid.SampledFrom(yamlWords).Draw(t, "word"))
			case 1, 2:
				b.WriteString("- " + rapid.SampledFrom(yamlWords).Draw(t, "word"))
			case 3, 4:
				fmt.Fprintf(&b, "- k%d: %s", rapid.IntRange(0, 3).Draw(t, "key"), rapid.SampledFrom(yamlWords).Draw(t, "word"))
			case 5:
				fmt.Fprintf(&b, "k%d:%s", rapid.IntRange(0, 9).Draw(t, "key"), rapid.SampledFrom([]string{"", " ", "  # c"}).Draw(t, "end"))
				depth++
			default:
				fmt.Fprintf(&b, "k%d: %s%s", rapid.IntRange(0, 9).Draw(t, "key"), rapid.SampledFrom(yamlWords).Draw(t, "word"),
					rapid.SampledFrom([]string{"", " ", "  # c"}).Draw(t, "end"))
			}
			b.WriteString("\n")
		}
		text := b.String()
		if _, ok := readPlain(text, 0); ok {
			taken++
		}
		if err := sameAsParser(text); err != nil {
			t.Fatal(err)
		}
	})
	if taken == 0 {
		t.Error("the plain reader took none of the texts: this test compares nothing")
	}
}

func TestThePlainReaderTakesABigRegistryWhole(t *testing.T) {
	if _, ok := readPlain(bigRegistry(100), 0); !ok {
		t.Error("services as people write them are left to the parser, which takes twenty times as long")
	}
}
