package registry

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Severity tells whether a diagnostic keeps a file from being applied.
type Severity uint8

// An error keeps the file from being applied; a warning does not.
const (
	Warning Severity = iota
	Error
)

// String returns "warning" or "error".
func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// MarshalText makes a severity a word in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Code is a diagnostic's stable name, for scripts and documentation.
type Code string

// The codes of diagnostics.
const (
	CodeSyntax         Code = "syntax"          // not YAML, or YAML that is refused: unreadable
	CodeUnknownField   Code = "unknown-field"   // a field that does not exist there
	CodeWrongType      Code = "wrong-type"      // a list where a string belongs …
	CodeDuplicateKey   Code = "duplicate-key"   // a key twice in one mapping
	CodeDuplicateName  Code = "duplicate-name"  // a service, operation or alert twice
	CodeMissing        Code = "missing-field"   // a required field is not there
	CodeRange          Code = "out-of-range"    // a number outside of its bounds
	CodeEnum           Code = "invalid-value"   // not one of the words, or malformed
	CodeMisplaced      Code = "misplaced-field" // means nothing for the service's type
	CodeNotAllowed     Code = "not-allowed"     // the service's own policy refuses it
	CodeConflict       Code = "conflict"        // two fields that contradict each other
	CodeSecret         Code = "secret-in-file"  // a secret stands where a name belongs
	CodeUnsetVariable  Code = "unset-variable"  // ${VAR} or *_env_var without a value
	CodeVariable       Code = "bad-variable"    // malformed ${…}
	CodeSchema         Code = "invalid-schema"  // input_schema or output_schema
	CodeUnknownEnv     Code = "unknown-env"     // the chosen overlay is not in the file
	CodeNotRegistry    Code = "not-a-registry"  // a workflow document, no services …
	CodeUnsupported    Code = "not-supported"   // known, but this version cannot run it
	CodeUnreachable    Code = "limited-service" // can run only some jobs
	CodeMissingProgram Code = "missing-program" // not on this host
	CodeIgnored        Code = "ignored-value"   // accepted, but changes nothing
	CodeUnpinned       Code = "unpinned-image"  // an image whose tag may move
	CodeHostLimit      Code = "above-host"      // a limit that this host cannot give
)

// Diagnostic is one fault or doubt of a file. No field ever holds a secret:
// values that came from variables are named by their variable, and values
// beside secret-looking names are masked in Source.
type Diagnostic struct {
	Severity   Severity `json:"severity"`
	Code       Code     `json:"code"`
	File       string   `json:"file"`
	Line       int      `json:"line,omitempty"`   // from 1; 0: the file as a whole
	Column     int      `json:"column,omitempty"` // from 1, in characters
	Message    string   `json:"message"`
	Source     string   `json:"source,omitempty"`     // the offending line
	Suggestion string   `json:"suggestion,omitempty"` // what to do
}

// String returns the diagnostic's text form: position, message, source line
// with a caret below the column, and help.
func (d Diagnostic) String() string {
	var b strings.Builder
	d.write(&b)
	return strings.TrimSuffix(b.String(), "\n")
}

func (d Diagnostic) write(b *strings.Builder) {
	b.WriteString(d.File)
	if d.Line > 0 {
		fmt.Fprintf(b, ":%d:%d", d.Line, d.Column)
	}
	fmt.Fprintf(b, ": %s[%s]: %s\n", d.Severity, d.Code, d.Message)
	if d.Line > 0 && d.Source != "" {
		number := fmt.Sprint(d.Line)
		fmt.Fprintf(b, "  %s | %s\n", number, d.Source)
		fmt.Fprintf(b, "  %s | %s^\n", strings.Repeat(" ", len(number)), indentTo(d.Source, d.Column))
	}
	if d.Suggestion != "" {
		fmt.Fprintf(b, "  help: %s\n", d.Suggestion)
	}
}

// indentTo returns blanks as wide as the characters before column; tabs stay
// tabs so that the caret stands right in any terminal.
func indentTo(source string, column int) string {
	var b strings.Builder
	at := 1
	for _, r := range source {
		if at >= column {
			break
		}
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
		at++
	}
	return b.String()
}

// Diagnostics are a file's faults and doubts, sorted by position.
type Diagnostics []Diagnostic

// HasErrors tells whether any of them keeps the file from being applied.
func (ds Diagnostics) HasErrors() bool { return ds.Errors() > 0 }

// Errors counts those that keep the file from being applied.
func (ds Diagnostics) Errors() int {
	n := 0
	for _, d := range ds {
		if d.Severity == Error {
			n++
		}
	}
	return n
}

// Warnings counts those that do not.
func (ds Diagnostics) Warnings() int { return len(ds) - ds.Errors() }

// Unreadable tells whether the file is not YAML, or YAML that is refused
// before anything in it is understood. The commands then exit with 3, and
// with 4 for a readable file that is invalid.
func (ds Diagnostics) Unreadable() bool {
	return slices.ContainsFunc(ds, func(d Diagnostic) bool {
		return d.Severity == Error && d.Code == CodeSyntax
	})
}

// Err returns an error that holds the first errors' positions and messages on
// one line each, or nil when there are none. It is meant for logs.
func (ds Diagnostics) Err() error {
	if !ds.HasErrors() {
		return nil
	}
	return &InvalidError{Diagnostics: ds}
}

// WriteText writes each diagnostic's text form with an empty line between.
func (ds Diagnostics) WriteText(w io.Writer) error {
	var b strings.Builder
	for i, d := range ds {
		if i > 0 {
			b.WriteByte('\n')
		}
		d.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// InvalidError is a file that does not validate.
type InvalidError struct{ Diagnostics Diagnostics }

// Error names the first fault and counts the others.
func (e *InvalidError) Error() string {
	for _, d := range e.Diagnostics {
		if d.Severity != Error {
			continue
		}
		at := d.File
		if d.Line > 0 {
			at = fmt.Sprintf("%s:%d:%d", d.File, d.Line, d.Column)
		}
		text := fmt.Sprintf("%s: %s", at, d.Message)
		if more := e.Diagnostics.Errors() - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
		return text
	}
	return "the registry is invalid"
}

// maxDiagnostics bounds a report: beyond it a file is broken in one way many
// times, and a longer list helps nobody.
const maxDiagnostics = 1000

// report collects a file's diagnostics.
type report struct {
	file  string
	lines lineIndex
	list  Diagnostics
	seen  map[diagKey]struct{}

	partial    bool        // some of the file could not be read
	duplicates []duplicate // keys that stand twice in a mapping
}

// duplicate is a key that stands twice.
type duplicate struct{ first, again kid }

// diagKey makes a fault appear once although a merged overlay and its base
// are both looked at.
type diagKey struct {
	line, col int32
	code      Code
	message   string
}

func (r *report) add(sev Severity, code Code, line, col int32, message, help string) {
	key := diagKey{line, col, code, message}
	if _, dup := r.seen[key]; dup || len(r.list) >= maxDiagnostics {
		return
	}
	if r.seen == nil {
		r.seen = make(map[diagKey]struct{})
	}
	r.seen[key] = struct{}{}
	d := Diagnostic{
		Severity: sev, Code: code, File: r.file, Line: int(line), Column: int(max(col, 1)),
		Message: message, Suggestion: help,
	}
	if line > 0 {
		d.Source = r.lines.shown(int(line), code == CodeSecret)
	} else {
		d.Column = 0
	}
	r.list = append(r.list, d)
}

func (r *report) sorted() Diagnostics {
	slices.SortStableFunc(r.list, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(b.Severity, a.Severity))
	})
	return r.list
}

// lineIndex finds a line of the source; its offsets are made at first use.
type lineIndex struct {
	data    []byte
	offsets []int
}

const maxSourceLine = 200 // characters of a source line that a report shows

func (x *lineIndex) line(n int) string {
	if x.offsets == nil {
		x.offsets = []int{0}
		for i, b := range x.data {
			if b == '\n' {
				x.offsets = append(x.offsets, i+1)
			}
		}
	}
	if n < 1 || n > len(x.offsets) {
		return ""
	}
	end := len(x.data)
	if n < len(x.offsets) {
		end = x.offsets[n] - 1
	}
	return strings.TrimRight(string(x.data[x.offsets[n-1]:end]), "\r")
}

// shown returns line n as a report may print it: secrets masked, control
// characters and overlong tails removed. hideValue masks the value whatever
// its key is called.
func (x *lineIndex) shown(n int, hideValue bool) string {
	line := strings.ToValidUTF8(x.line(n), "\uFFFD")
	line = strings.Map(func(r rune) rune {
		if r != '\t' && (r < 0x20 || r == 0x7f) {
			return '\uFFFD'
		}
		return r
	}, line)
	switch {
	case hideValue:
		line = maskAnyValue(line)
	case x.insideSecretBlock(n, line):
		line = leadingBlanks(line) + masked
	default:
		line = maskLine(line)
	}
	if utf8.RuneCountInString(line) > maxSourceLine {
		line = string([]rune(line)[:maxSourceLine]) + "…"
	}
	return line
}

// secretKeyLine matches a line that opens a multi-line value under a
// secret-looking key.
var secretKeyLine = regexp.MustCompile(`^\s*(?:-\s+)?["']?([\w.-]+)["']?\s*:\s*(?:[|>][-+0-9]*|["'].*)?\s*$`)

// insideSecretBlock tells whether line n continues a block whose key looks
// like a secret's name.
func (x *lineIndex) insideSecretBlock(n int, line string) bool {
	indent := len(leadingBlanks(line))
	for i := n - 1; i >= 1 && i > n-100; i-- {
		above := x.line(i)
		if strings.TrimSpace(above) == "" || len(leadingBlanks(above)) >= indent {
			continue
		}
		m := secretKeyLine.FindStringSubmatch(above)
		return m != nil && secretName(m[1])
	}
	return false
}

func leadingBlanks(s string) string { return s[:len(s)-len(strings.TrimLeft(s, " \t"))] }
