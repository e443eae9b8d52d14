package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/specql/specql-ops/runners"
)

// Bounds are what of a program's output counts, in bytes.
type Bounds struct {
	Stdout int   // that become the job's output; the rest is counted
	Stderr int   // that are kept, the last
	Both   int64 // of both streams, after which TooMuch is closed; 0: no bound
}

// Usual are the bounds of every attempt whose service says nothing else.
var Usual = Bounds{Stdout: 1 << 20, Stderr: 64 << 10}

// Streams takes what a program writes: bounded, and line by line into the
// attempt's log. Stdout and Stderr may be written to at the same time, each by
// one goroutine; the rest is for after that.
type Streams struct {
	stdout head
	stderr tail
	hidden Secrets
	bounds Bounds
	lines  [2]*maskedLines

	wrote    atomic.Int64 // bytes of stdout
	both     atomic.Int64
	tooMuch  chan struct{}
	onceMuch sync.Once
}

// NewStreams makes the streams of one attempt; log may be nil.
func NewStreams(bounds Bounds, hidden Secrets, log *runners.Log) *Streams {
	// A little more than the bound is kept, so that a secret which the bound
	// cuts through is masked as well.
	s := &Streams{
		stdout:  head{max: bounds.Stdout + hidden.longest()},
		stderr:  tail{max: bounds.Stderr + hidden.longest()},
		hidden:  hidden,
		bounds:  bounds,
		tooMuch: make(chan struct{}),
	}
	if log != nil {
		s.lines[0] = &maskedLines{to: log.Stream("stdout"), hidden: hidden}
		s.lines[1] = &maskedLines{to: log.Stream("stderr"), hidden: hidden}
	}
	return s
}

// Stdout takes standard output. It always reads on, so that the program never
// waits for a full pipe. Closing it adds a last line without a break to the log.
func (s *Streams) Stdout() io.WriteCloser {
	return &stream{s.lines[0], func(b []byte) {
		s.wrote.Add(int64(len(b)))
		s.count(b)
		s.stdout.write(b)
	}}
}

// Stderr takes standard error, as Stdout does its.
func (s *Streams) Stderr() io.WriteCloser {
	return &stream{s.lines[1], func(b []byte) {
		s.count(b)
		s.stderr.write(b)
	}}
}

func (s *Streams) count(b []byte) {
	if s.both.Add(int64(len(b))) > s.bounds.Both && s.bounds.Both > 0 {
		s.onceMuch.Do(func() { close(s.tooMuch) })
	}
}

// TooMuch is closed when more was written than Bounds.Both.
func (s *Streams) TooMuch() <-chan struct{} { return s.tooMuch }

// StdoutBytes is how much was written to standard output so far. It may be
// asked at any time.
func (s *Streams) StdoutBytes() int64 { return s.wrote.Load() }

// Success is output_data of an attempt that exited with 0: the object that it
// wrote, or its text.
func (s *Streams) Success() json.RawMessage {
	if s.stdout.total <= int64(s.bounds.Stdout) {
		if object, ok := s.object(); ok {
			return object
		}
	}
	return Encode(s.textFields(0))
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
	return Encode(s.clean(object)), true
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
	if cut := s.stdout.total - int64(s.bounds.Stdout); cut > 0 {
		if s.stdout.total > int64(len(s.stdout.kept)) {
			// The last of it may be the beginning of a secret.
			out = out[:max(0, len(out)-s.hidden.longest())]
		}
		out = strings.ToValidUTF8(out[:min(len(out), s.bounds.Stdout)], "")
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
	return strings.ToValidUTF8(all[max(0, len(all)-s.bounds.Stderr):], "")
}

// Failure is the output of an attempt that failed, by a signal where one is named.
func (s *Streams) Failure(exitCode int, signal string) json.RawMessage {
	fields := s.textFields(exitCode)
	fields["stderr"] = s.errorText()
	if cut := s.stderr.total - int64(s.bounds.Stderr); cut > 0 {
		fields["stderr_truncated_bytes"] = cut
	}
	if signal != "" {
		fields["signal"] = signal
	}
	return Encode(fields)
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

// Encode writes JSON without HTML's escapes; the values are all encodable.
func Encode(value any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil
	}
	return bytes.TrimSpace(b.Bytes())
}
