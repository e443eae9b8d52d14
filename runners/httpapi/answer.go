package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// maxExcerpt is how many bytes of an answer an error shows.
const maxExcerpt = 500

// output gives an answer the form of output_data: a JSON object as it is,
// anything else as {"body": …, "status_code": N}, where body is a JSON value
// or a string. What is neither JSON nor text stands under body_base64, with its
// content_type. begins is the same answer, or its beginning, for an error. In
// all, secrets are masked, and nothing is left that jsonb cannot hold.
func (a *attempt) output(body []byte, contentType string, status int) (output json.RawMessage, begins []byte) {
	whole := body
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	if len(body) > 0 && json.Valid(body) && (body[0] == '{' || body[0] == '[' || isJSON(contentType)) {
		clean := a.secrets.cleanJSON(body)
		if clean[0] == '{' {
			return clean, clean
		}
		return encode(wrapped{Body: json.RawMessage(clean), StatusCode: status}), clean
	}
	plain, ok := decodeText(body, contentType)
	if !ok {
		return encode(wrapped{
			Base64: a.secrets.maskBytes(whole), ContentType: cleanText(contentType, maxExcerpt), StatusCode: status,
		}), fmt.Appendf(nil, "%d bytes of %s", len(whole), contentType)
	}
	text := a.secrets.mask(storable(plain))
	return encode(wrapped{Body: text, StatusCode: status}), []byte(text[:min(len(text), 4*maxExcerpt)])
}

// wrapped is an answer that is no JSON object.
type wrapped struct {
	Body        any    `json:"body,omitempty"` // "" stays: an interface that holds it is not empty
	Base64      []byte `json:"body_base64,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	StatusCode  int    `json:"status_code"`
}

// decodeText reads text in the encoding that its content type names, UTF-8
// where it names none. ok is false for what is no text: bytes that are not
// UTF-8 under a type that is not one of text, or with no encoding that is
// known.
func decodeText(body []byte, contentType string) (text string, ok bool) {
	media, parameters, err := mime.ParseMediaType(contentType)
	isText := err != nil || media == "" || strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+xml") ||
		media == "application/xml" || media == "application/x-www-form-urlencoded" || isJSON(contentType)
	charset := strings.ToLower(parameters["charset"])
	if isText && charset != "" && charset != "utf-8" && charset != "us-ascii" {
		encoding, err := htmlindex.Get(charset)
		if err == nil {
			if plain, err := encoding.NewDecoder().Bytes(body); err == nil {
				return string(plain), true
			}
		}
	}
	return string(body), isText || utf8.Valid(body) && bytes.IndexByte(body, 0) < 0
}

const (
	// keptOfHuge is how many bytes are kept of an answer that is larger than
	// max_response_size: enough to see what it is.
	keptOfHuge = 64 << 10
	// maxCounted bounds how much of such an answer is read only to say how
	// large it was.
	maxCounted = 64 << 20
)

// cutOutput keeps the beginning of an answer of size bytes, with a mark where
// it was cut and a count of what is missing. It returns the beginning without
// the mark.
func (a *attempt) cutOutput(body []byte, status int, size int64) (text string) {
	text = a.secrets.mask(storable(string(body))) // all of it: a secret may stand where it is cut
	text = strings.ToValidUTF8(text[:min(len(text), keptOfHuge)], "")
	cut := size - int64(len(text))
	a.result.Output = encode(struct {
		Body       string `json:"body"`
		StatusCode int    `json:"status_code"`
		Cut        int64  `json:"body_truncated_bytes"`
	}{fmt.Sprintf("%s\n[%d more bytes were cut off]", text, cut), status, cut})
	return text
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}

// cleanJSON masks secrets in a valid JSON text however they are spelled, and
// replaces what jsonb refuses. Most answers need neither and are returned as
// they are.
func (s secrets) cleanJSON(raw []byte) []byte {
	if !utf8.Valid(raw) {
		raw = bytes.ToValidUTF8(raw, []byte("\ufffd"))
	}
	found := survey(raw)
	if found.tooDeep {
		return encode(s.mask(storable(string(raw))))
	}
	// Any character may hide behind an escape, such as / behind \/.
	if !found.unicode && !found.number && !s.in(raw) && (len(s) == 0 || bytes.IndexByte(raw, '\\') < 0) {
		return raw
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // a number keeps all of its digits
	var value any
	if decoder.Decode(&value) != nil {
		// Valid JSON decodes; if it ever should not, it is kept as text.
		return encode(s.mask(storable(string(raw))))
	}
	return encode(s.cleanValue(value))
}

func (s secrets) cleanValue(value any) any {
	switch v := value.(type) {
	case string:
		return s.mask(storable(v))
	case json.Number:
		if text := s.mask(v.String()); text != v.String() || isHuge(text) {
			return text
		}
		return v
	case []any:
		for i := range v {
			v[i] = s.cleanValue(v[i])
		}
		return v
	case map[string]any:
		clean := make(map[string]any, len(v))
		for key, field := range v {
			clean[s.mask(storable(key))] = s.cleanValue(field)
		}
		return clean
	default:
		return v
	}
}

// maxDepth is how deep a JSON answer may be nested before it is kept as text:
// PostgreSQL's parser recurses, and its stack is limited.
const maxDepth = 1000

// hazards are what a JSON text may hold that jsonb refuses.
type hazards struct {
	unicode bool // \u escapes: among them may be NUL and unpaired surrogates
	number  bool // a number beyond what numeric holds
	tooDeep bool
}

// survey looks a valid JSON text over once.
func survey(raw []byte) (found hazards) {
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
					found.unicode = found.unicode || raw[i] == 'u'
				}
			}
		case c == '{' || c == '[':
			depth++
			found.tooDeep = found.tooDeep || depth > maxDepth
		case c == '}' || c == ']':
			depth--
		case c == '-' || c >= '0' && c <= '9':
			start := i
			for i+1 < len(raw) && strings.IndexByte("0123456789.eE+-", raw[i+1]) >= 0 {
				i++
			}
			found.number = found.number || i-start > 3 && isHuge(string(raw[start:i+1]))
		}
	}
	return found
}

// isHuge tells whether a JSON number is out of all proportion: PostgreSQL's
// numeric ends at 131,072 digits before the point and 16,383 after it.
func isHuge(number string) bool {
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		return i > 10_000 || len(strings.TrimLeft(number[i+1:], "+-0")) > 3
	}
	return len(number) > 10_000
}

// storable is text that PostgreSQL can hold: valid UTF-8 without NUL.
func storable(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\ufffd")
	}
	if strings.IndexByte(text, 0) >= 0 {
		text = strings.ReplaceAll(text, "\x00", "\ufffd")
	}
	return text
}

// encode writes JSON without HTML's escapes, which would make < six times as
// long. What it is given always encodes.
func encode(value any) json.RawMessage {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic("httpapi: a value made of JSON's own types does not encode: " + err.Error())
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// maskBytes masks secrets in what is no text.
func (s secrets) maskBytes(b []byte) []byte {
	for _, secret := range s {
		b = bytes.ReplaceAll(b, []byte(secret), []byte(mask))
	}
	return b
}

// cleanText is at most limit bytes of text on one line, without control
// characters or invisible ones that change how a line reads.
func cleanText(text string, limit int) string {
	text = text[:min(len(text), 4*limit)] // enough to fill the limit, and no more work than that
	var b strings.Builder
	space := false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			space = b.Len() > 0
			continue
		case unicode.Is(unicode.Cf, r) || r == utf8.RuneError:
			continue
		}
		if b.Len()+1+utf8.RuneLen(r) > limit {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
