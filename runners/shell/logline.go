package shell

import (
	"bytes"
	"io"

	"github.com/specql/specql-ops/runners"
)

// lineMask hands a stream to the attempt's log line by line, without secrets.
// What of a line is longer than the log keeps of one is left out.
type lineMask struct {
	to     io.WriteCloser // nil: nobody keeps a log
	hidden secrets
	most   int
	rest   []byte
}

func newLineMask(log *runners.Log, name string, hidden secrets) *lineMask {
	m := &lineMask{hidden: hidden, most: runners.LogBytes/4 + hidden.longest()}
	if log != nil {
		m.to = log.Stream(name)
	}
	return m
}

func (m *lineMask) write(b []byte) {
	if m.to == nil {
		return
	}
	for {
		line, after, found := bytes.Cut(b, []byte{'\n'})
		m.rest = append(m.rest, line[:min(len(line), m.most-len(m.rest))]...)
		if !found {
			return
		}
		m.say("\n")
		b = after
	}
}

func (m *lineMask) say(end string) {
	_, _ = io.WriteString(m.to, m.hidden.mask(text(m.rest))+end)
	m.rest = m.rest[:0]
}

func (m *lineMask) close() error {
	if m.to == nil {
		return nil
	}
	if len(m.rest) > 0 {
		m.say("")
	}
	return m.to.Close()
}
