package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"
)

// storable makes a runner's output acceptable to a jsonb column, which takes
// no NUL and no broken UTF-8. Both become U+FFFD.
func storable(raw json.RawMessage) (json.RawMessage, error) {
	if raw == nil {
		return nil, nil
	}
	if !utf8.Valid(raw) {
		raw = bytes.ToValidUTF8(raw, []byte("\uFFFD"))
	}
	if !json.Valid(raw) {
		return nil, errors.New("the result is not valid JSON")
	}
	if bytes.Contains(raw, []byte(`\u0000`)) {
		raw = replaceNUL(raw)
	}
	return raw, nil
}

// replaceNUL replaces the escape \u0000, but not an escaped backslash that
// happens to stand before the letters u0000.
func replaceNUL(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if bytes.HasPrefix(raw[i:], []byte(`\u0000`)) {
			out = append(out, `\ufffd`...)
			i += 5
			continue
		}
		out = append(out, raw[i], raw[i+1]) // valid JSON: an escape has a second byte
		i++
	}
	return out
}

// printable makes a message acceptable to a text column.
func printable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
