package registry

import (
	"regexp"
	"strings"
)

// commentMasker hides secrets in what stands between a file's values: its
// comments. A block of comments is read as the lines that were commented out.
type commentMasker struct {
	config *Config
	inside bool // a comment line is due to continue a secret
	indent int  // of the key that it belongs to
	pem    bool // within a private key
}

var commentKey = regexp.MustCompile(`^(\s*(?:-\s+)?["']?)([\w.-]+)(["']?\s*:)(\s*)(.*)$`)

// mask returns the text between two values without the secrets of its
// comments. It begins behind a value, unless it begins the file.
func (m *commentMasker) mask(gap string, begins bool) string {
	lines := strings.SplitAfter(gap, "\n")
	for i, line := range lines {
		body := strings.TrimSuffix(line, "\n")
		at := commentStart(body)
		switch alone := i > 0 || begins; {
		case at < 0 && alone:
			m.inside = m.inside && strings.TrimSpace(body) == ""
		case at < 0:
		case alone && strings.TrimSpace(body[:at]) == "":
			lines[i] = body[:at+1] + m.whole(body[at+1:]) + line[len(body):]
		default:
			lines[i] = body[:at+1] + m.hide(body[at+1:]) + line[len(body):]
		}
	}
	return strings.Join(lines, "")
}

// commentStart finds the # that begins a comment; -1: none does.
func commentStart(line string) int {
	for i := range len(line) {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return i
		}
	}
	return -1
}

// whole masks a line that is a comment and nothing else.
func (m *commentMasker) whole(text string) string {
	blanks := len(leadingBlanks(text))
	switch {
	case privateKey.MatchString(text):
		m.pem = true
		return text[:blanks] + masked
	case m.pem:
		m.pem = !strings.Contains(text, "-----END")
		return text[:blanks] + masked
	case m.inside && strings.TrimSpace(text) == "":
		return text
	case m.inside && (blanks > m.indent || blanks == m.indent && strings.HasPrefix(text[blanks:], "- ")):
		return text[:blanks] + masked
	}
	m.inside = false
	if p := commentKey.FindStringSubmatch(text); p != nil && secretName(p[2]) {
		m.inside, m.indent = true, blanks
		if p[5] == "" || namesOnly(strings.Trim(p[5], "\"'")) {
			return text
		}
		return p[1] + p[2] + p[3] + p[4] + masked
	}
	return m.hide(text)
}

// hide masks what looks like a secret in a comment's words.
func (m *commentMasker) hide(text string) string {
	text = maskText(text)
	for secret := range m.config.secrets {
		if holds(text, secret) {
			text = strings.ReplaceAll(text, secret, masked)
		}
	}
	return text
}
