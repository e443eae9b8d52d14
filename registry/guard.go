package registry

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/token"
)

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
	case strings.Contains(m, "sequence end token"):
		fault.help = "close the list: [a, b]"
	case strings.Contains(m, "flow map content"), strings.Contains(m, "flow mapping end token"):
		fault.help = "close the braces: { key: value }"
	case strings.Contains(m, "must be specified"):
		fault.help = "close the bracket before the next key"
	case strings.Contains(m, "non-map value is specified"), strings.Contains(m, "unexpected key name"),
		strings.Contains(m, "value is not allowed in this context"):
		fault.help = "check the indentation, and that each key is followed by a colon and a space"
	}
	return fault
}

// explain words a fault by the line that it stands in, where that shows what
// has happened.
func (f *syntaxFault) explain(line string) {
	trimmed := strings.TrimSpace(line)
	switch {
	case strings.HasPrefix(line, "<<<<<<<"), strings.HasPrefix(line, "======="), strings.HasPrefix(line, ">>>>>>>"):
		f.message, f.help = "a merge conflict is left in the file", "choose one of the two sides and remove the lines with <<<<<<<, ======= and >>>>>>>"
	case strings.Contains(line, "{{"):
		f.help = "this looks like a template: give the file that it makes, or quote a value that begins with {"
	case strings.HasPrefix(trimmed, "- *."), strings.Contains(line, "[*."), strings.Contains(line, ": *."):
		f.help = "a value that begins with * is an alias in YAML: quote it, \"*.example.com\""
	}
}
