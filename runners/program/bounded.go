package program

import (
	"bytes"
	"io"

	"github.com/specql/specql-ops/runners"
)

// head keeps the beginning of a stream and counts the rest.
type head struct {
	max   int
	total int64
	kept  []byte
}

func (h *head) write(b []byte) {
	h.total += int64(len(b))
	h.kept = append(h.kept, b[:min(len(b), h.max-len(h.kept))]...)
}

// tail keeps the end of a stream.
type tail struct {
	max   int
	total int64
	kept  []byte
}

func (t *tail) write(b []byte) {
	t.total += int64(len(b))
	t.kept = append(t.kept, b[max(0, len(b)-t.max):]...)
	if len(t.kept) > 4*t.max {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.max:]...)
	}
}

func (t *tail) bytes() []byte { return t.kept[max(0, len(t.kept)-t.max):] }

// stream is one that a program writes: kept in part, and line by line in the log.
type stream struct {
	lines *maskedLines
	keep  func([]byte)
}

func (s *stream) Write(b []byte) (int, error) {
	s.keep(b)
	s.lines.write(b)
	return len(b), nil
}

func (s *stream) Close() error {
	s.lines.close()
	return nil
}

// longestLine is how much of one line goes into the log.
const longestLine = runners.LogBytes / 4

// maskedLines hands whole lines on, so that no secret is cut in two before it
// is masked. A nil one takes everything and does nothing.
type maskedLines struct {
	to     io.WriteCloser
	hidden Secrets
	rest   []byte
}

func (m *maskedLines) write(b []byte) {
	if m == nil {
		return
	}
	for len(b) > 0 {
		line, after, ended := bytes.Cut(b, []byte("\n"))
		m.rest = append(m.rest, line[:min(len(line), longestLine-len(m.rest))]...)
		if !ended {
			return
		}
		m.flush()
		b = after
	}
}

func (m *maskedLines) flush() {
	line := m.hidden.Mask(text(m.rest))
	if len(m.rest) >= longestLine {
		// The last of it may be the beginning of a secret.
		line = line[:max(0, len(line)-m.hidden.longest())]
	}
	_, _ = io.WriteString(m.to, line+"\n") // the log never fails
	m.rest = m.rest[:0]
}

func (m *maskedLines) close() {
	if m == nil {
		return
	}
	if len(m.rest) > 0 {
		m.flush()
	}
	_ = m.to.Close()
}
