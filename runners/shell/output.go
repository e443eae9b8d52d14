package shell

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

// head keeps the beginning of a stream and counts the rest. It always reads
// on, so that the program never waits for a full pipe.
type head struct {
	max   int
	total int64
	kept  []byte
}

func (h *head) Write(b []byte) (int, error) {
	h.total += int64(len(b))
	h.kept = append(h.kept, b[:min(len(b), h.max-len(h.kept))]...)
	return len(b), nil
}

// tail keeps the end of a stream.
type tail struct {
	max   int
	total int64
	kept  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.total += int64(len(b))
	t.kept = append(t.kept, b[max(0, len(b)-t.max):]...)
	if len(t.kept) > 4*t.max {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.max:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte { return t.kept[max(0, len(t.kept)-t.max):] }

// text makes bytes what a jsonb column can hold: valid UTF-8 without NUL.
func text(b []byte) string {
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "\uFFFD")
}

// streams is what an attempt wrote.
type streams struct {
	stdout head
	stderr tail
	hidden secrets
	max    int // bytes of stdout that are recorded
	maxErr int // bytes of stderr that are recorded, its last

	log      *runners.Log
	said     atomic.Int64 // bytes of both streams
	maxSaid  int64
	tooMuch  chan struct{} // closed when they are more
	onceMuch sync.Once
}

func newStreams(p policy, hidden secrets, log *runners.Log) *streams {
	// A little more than the bound is kept, so that a secret which the bound
	// cuts through is masked as well.
	return &streams{
		stdout: head{max: p.stdoutMaxBytes + hidden.longest()},
		stderr: tail{max: p.stderrKeptBytes + hidden.longest()},
		hidden: hidden,
		max:    p.stdoutMaxBytes,
		maxErr: p.stderrKeptBytes,
		log:    log, maxSaid: p.outputMaxBytes, tooMuch: make(chan struct{}),
	}
}

// out and err are where the program's streams go: into what is recorded, into
// the attempt's log, and into the account of how much it is.
func (s *streams) out() io.WriteCloser { return s.stream("stdout", &s.stdout) }
func (s *streams) err() io.WriteCloser { return s.stream("stderr", &s.stderr) }

func (s *streams) stream(name string, kept io.Writer) io.WriteCloser {
	return &stream{s, kept, newLineMask(s.log, name, s.hidden)}
}

type stream struct {
	*streams
	kept  io.Writer
	lines *lineMask
}

func (s *stream) Write(b []byte) (int, error) {
	if s.said.Add(int64(len(b))) > s.maxSaid {
		s.onceMuch.Do(func() { close(s.tooMuch) })
	}
	s.lines.write(b)
	return s.kept.Write(b)
}

func (s *stream) Close() error { return s.lines.close() }

// success is output_data of an attempt that exited with 0: the object that it
// wrote, or its text.
func (s *streams) success() json.RawMessage {
	if s.stdout.total <= int64(s.max) {
		if object, ok := s.object(); ok {
			return object
		}
	}
	return encode(s.textFields(0))
}

// object is standard output where that is one JSON object.
func (s *streams) object() (json.RawMessage, bool) {
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
func (s *streams) clean(value any) any {
	switch v := value.(type) {
	case string:
		return s.hidden.mask(text([]byte(v)))
	case json.Number:
		if masked := s.hidden.mask(v.String()); masked != v.String() {
			return masked
		}
	case []any:
		for i := range v {
			v[i] = s.clean(v[i])
		}
	case map[string]any:
		cleaned := make(map[string]any, len(v))
		for key, item := range v {
			cleaned[s.hidden.mask(text([]byte(key)))] = s.clean(item)
		}
		return cleaned
	}
	return value
}

// textFields keeps what is no object.
func (s *streams) textFields(exitCode int) map[string]any {
	out := s.hidden.mask(text(s.stdout.kept))
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
func (s *streams) errorText() string {
	all := s.hidden.mask(text(s.stderr.bytes()))
	if s.stderr.total > int64(s.stderr.max) {
		// The first of it may be the end of a secret.
		all = all[min(len(all), s.hidden.longest()):]
	}
	return strings.ToValidUTF8(all[max(0, len(all)-s.maxErr):], "")
}

// failure is the output of an attempt that failed.
func (s *streams) failure(exitCode int, signal string) json.RawMessage {
	fields := s.textFields(exitCode)
	fields["stderr"] = s.errorText()
	if cut := s.stderr.total - int64(s.maxErr); cut > 0 {
		fields["stderr_truncated_bytes"] = cut
	}
	if signal != "" {
		fields["signal"] = signal
	}
	return encode(fields)
}

// reasonBytes bounds what of standard error stands in an error.
const reasonBytes = 500

// reason is the last lines of standard error on one line, without control
// characters, at most reasonBytes long.
func (s *streams) reason() string {
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
