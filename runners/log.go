package runners

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// LogBytes is how much of an attempt's log is kept: its end.
const LogBytes = 64 << 10

// LogLine is a piece of an attempt's log: a line, or the beginning of one.
type LogLine struct {
	At     time.Time
	Stream string // stdout, stderr, or agent for what the runner itself notes
	Text   string // without its line break
}

// Log keeps the end of what an attempt says while it runs. It may be written to
// and read at the same time. The zero Log is empty; a nil one takes everything
// and keeps nothing.
type Log struct {
	mu      sync.Mutex
	lines   []LogLine
	bytes   int
	dropped int64         // lines
	next    int64         // number of the next line, from 0
	spoke   bool          // some line was not of stdout
	changed chan struct{} // nil: nobody waits

	later   fmt.Stringer // a line that is not written yet; nil: none
	laterAt time.Time
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{} }

// Note adds a line of the runner itself.
func (l *Log) Note(text string) { l.add("agent", text) }

// NoteLater adds a line of the runner itself that is not written before somebody
// reads the log or more is said. While it stands alone it costs nothing and does
// not count as said: what most attempts have to say, nobody reads.
func (l *Log) NoteLater(line fmt.Stringer) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.write(); l.next > 0 || l.changed != nil {
		l.put(time.Now(), "agent", line.String())
		return
	}
	l.later, l.laterAt = line, time.Now()
}

// Spoke tells whether the log holds more than what the work wrote to stdout and
// a note that stands alone.
func (l *Log) Spoke() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spoke
}

func (l *Log) add(stream, text string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
	l.put(time.Now(), stream, text)
}

// write writes the line that was left for later.
func (l *Log) write() {
	if line := l.later; line != nil {
		l.later = nil
		l.put(l.laterAt, "agent", line.String())
	}
}

func (l *Log) put(at time.Time, stream, text string) {
	if len(text) > LogBytes/4 {
		text = text[:LogBytes/4]
	}
	l.lines = append(l.lines, LogLine{At: at, Stream: stream, Text: text})
	l.next++
	l.spoke = l.spoke || stream != "stdout"
	for l.bytes += len(text); l.bytes > LogBytes; {
		l.bytes -= len(l.lines[0].Text)
		l.lines = l.lines[1:]
		l.dropped++
	}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Tail returns the kept lines, and how many before them were dropped.
func (l *Log) Tail() (lines []LogLine, dropped int64) {
	if l == nil {
		return nil, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
	return append([]LogLine(nil), l.lines...), l.dropped
}

// Since returns the kept lines from number from on, the number to ask for next,
// and a channel that is closed when there is more.
func (l *Log) Since(from int64) (lines []LogLine, next int64, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write()
	first := l.next - int64(len(l.lines))
	if skip := from - first; skip > 0 {
		lines = append(lines, l.lines[min(skip, int64(len(l.lines))):]...)
	} else {
		lines = append(lines, l.lines...)
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return lines, l.next, l.changed
}

// Stream returns a writer that adds what is written to it line by line. Close
// adds a last line without a break. It must not be written to concurrently.
func (l *Log) Stream(name string) io.WriteCloser { return &logStream{log: l, name: name} }

type logStream struct {
	log  *Log
	name string
	rest []byte
}

func (s *logStream) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := 0
		for end < len(p) && p[end] != '\n' {
			end++
		}
		if room := LogBytes/4 - len(s.rest); room > 0 {
			s.rest = append(s.rest, p[:min(end, room)]...)
		}
		if end == len(p) {
			break
		}
		s.flush()
		p = p[end+1:]
	}
	return n, nil
}

func (s *logStream) flush() {
	s.log.add(s.name, string(s.rest))
	s.rest = s.rest[:0]
}

func (s *logStream) Close() error {
	if len(s.rest) > 0 {
		s.flush()
	}
	return nil
}
