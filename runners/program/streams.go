package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/specql/specql-ops/runners"
)

const (
	// MaxStdout is how much of standard output becomes the job's output; the
	// rest is counted.
	MaxStdout = 1 << 20
	// MaxStderr is how much of standard error is kept, its end.
	MaxStderr = 64 << 10
)

// Streams takes what a program writes: bounded, and line by line into the
// attempt's log. Stdout and Stderr may be written to at the same time, each by
// one goroutine; the rest is for after that.
type Streams struct {
	stdout head
	stderr tail
	hidden Secrets
	max    int // bytes of stdout that are recorded
	maxErr int // bytes of stderr that are recorded, its last
	lines  [2]*maskedLines
	wrote  atomic.Int64 // bytes of stdout
}

// NewStreams makes the streams of one attempt; log may be nil.
func NewStreams(maxStdout, maxStderr int, hidden Secrets, log *runners.Log) *Streams {
	// A little more than the bound is kept, so that a secret which the bound
	// cuts through is masked as well.
	s := &Streams{
		stdout: head{max: maxStdout + hidden.longest()},
		stderr: tail{max: maxStderr + hidden.longest()},
		hidden: hidden,
		max:    maxStdout,
		maxErr: maxStderr,
	}
	if log != nil {
		s.lines[0] = &maskedLines{to: log.Stream("stdout"), hidden: hidden}
		s.lines[1] = &maskedLines{to: log.Stream("stderr"), hidden: hidden}
	}
	return s
}

// Stdout takes standard output.
func (s *Streams) Stdout() io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		s.wrote.Add(int64(len(b)))
		s.stdout.write(b)
		s.lines[0].write(b)
		return len(b), nil
	})
}

// Stderr takes standard error.
func (s *Streams) Stderr() io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		s.stderr.write(b)
		s.lines[1].write(b)
		return len(b), nil
	})
}

// StdoutBytes is how much was written to standard output so far. It may be
// asked at any time.
func (s *Streams) StdoutBytes() int64 { return s.wrote.Load() }

// Close adds last lines without a break to the log.
func (s *Streams) Close() {
	s.lines[0].close()
	s.lines[1].close()
}

// Success is output_data of an attempt that exited with 0: the object that it
// wrote, or its text.
func (s *Streams) Success() json.RawMessage {
	if s.stdout.total <= int64(s.max) {
		if object, ok := s.object(); ok {
			return object
		}
	}
	return encode(s.textFields(0))
}

// object is standard output where that is one JSON object.
func (s *Streams) object() (json.RawMessage, bool) {
	raw := bytes.TrimSpace(s.stdout.kept)
	if len(raw) == 0 || raw[0] != '{' || !json.Valid(raw) {
		return nil, false
	}
	if len(s.hidden) == 0 && utf8.Valid(raw) && !bytes.Contains(raw, []byte(`\u`)) {
		return raw, true
	}
	// What jsonb refuses (NUL, half a surrogate pair) or nobody may see can
	// stand in escapes; decoding shows it.
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var object map[string]any
	if d.Decode(&object) != nil {
		return nil, false
	}
	return encode(s.clean(object)), true
}

// clean masks and mends every string within a JSON value.
func (s *Streams) clean(value any) any {
	switch v := value.(type) {
	case string:
		return s.hidden.Mask(text([]byte(v)))
	case json.Number:
		if masked := s.hidden.Mask(v.String()); masked != v.String() {
			return masked
		}
	case []any:
		for i := range v {
			v[i] = s.clean(v[i])
		}
	case map[string]any:
		cleaned := make(map[string]any, len(v))
		for key, item := range v {
			cleaned[s.hidden.Mask(text([]byte(key)))] = s.clean(item)
		}
		return cleaned
	}
	return value
}

// textFields keeps what is no object.
func (s *Streams) textFields(exitCode int) map[string]any {
	out := s.hidden.Mask(text(s.stdout.kept))
	fields := map[string]any{"exit_code": exitCode}
	if cut := s.stdout.total - int64(s.max); cut > 0 {
		if s.stdout.total > int64(len(s.stdout.kept)) {
			// The last of it may be the beginning of a secret.
			out = out[:max(0, len(out)-s.hidden.longest())]
		}
		out = strings.ToValidUTF8(out[:min(len(out), s.max)], "")
		out += fmt.Sprintf("\n[%d more bytes were cut off]", cut)
		fields["stdout_truncated_bytes"] = cut
	}
	fields["stdout"] = out
	return fields
}

// errorText is the end of standard error.
func (s *Streams) errorText() string {
	all := s.hidden.Mask(text(s.stderr.bytes()))
	if s.stderr.total > int64(s.stderr.max) {
		// The first of it may be the end of a secret.
		all = all[min(len(all), s.hidden.longest()):]
	}
	return strings.ToValidUTF8(all[max(0, len(all)-s.maxErr):], "")
}

// Failure is the output of an attempt that failed.
func (s *Streams) Failure(exitCode int) json.RawMessage {
	fields := s.textFields(exitCode)
	fields["stderr"] = s.errorText()
	if cut := s.stderr.total - int64(s.maxErr); cut > 0 {
		fields["stderr_truncated_bytes"] = cut
	}
	return encode(fields)
}

// reasonBytes bounds what of standard error stands in an error.
const reasonBytes = 500

// Reason is the last lines of standard error on one line, without control
// characters, at most reasonBytes long.
func (s *Streams) Reason() string {
	all := strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069:
			return -1 // escape sequences and text direction could deceive a terminal
		}
		return r
	}, strings.TrimSpace(s.errorText()))
	if len(all) > reasonBytes {
		all = strings.ToValidUTF8(all[len(all)-reasonBytes+len("…"):], "")
		all = "…" + all
	}
	return all
}

// text makes bytes what a jsonb column can hold: valid UTF-8 without NUL.
func text(b []byte) string {
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "\uFFFD")
}

// encode writes JSON without HTML's escapes; the values are all encodable.
func encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil
	}
	return bytes.TrimSpace(b.Bytes())
}
