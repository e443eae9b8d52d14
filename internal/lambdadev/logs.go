package lambdadev

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

// keepLog bounds the log of one invocation, in bytes of its end.
const keepLog = 256 << 10

// logs gathers what a process writes, and what is said of it between.
type logs struct {
	in, out *os.File // the ends of the pipe that the process writes to

	mu    sync.Mutex
	text  []byte
	marks int
	mark  []byte        // looked for in what comes
	seen  chan struct{} // closed when it has come
	done  chan struct{} // closed when nothing more will come
}

func newLogs() (*logs, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	l := &logs{in: in, out: out, done: make(chan struct{})}
	go l.gather()
	return l, nil
}

func (l *logs) gather() {
	defer close(l.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := l.out.Read(buf)
		l.mu.Lock()
		l.text = append(l.text, buf[:n]...)
		if l.mark != nil {
			if at := bytes.Index(l.text, l.mark); at >= 0 {
				l.text = append(l.text[:at], l.text[at+len(l.mark):]...)
				l.mark = nil
				close(l.seen)
			}
		}
		if over := len(l.text) - 2*keepLog; over > 0 {
			l.text = append(l.text[:0], l.text[len(l.text)-keepLog:]...)
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// settle returns when all that the process has written so far is gathered. A
// mark goes behind it through the same pipe.
func (l *logs) settle() {
	l.mu.Lock()
	l.marks++
	l.mark = fmt.Appendf(nil, "\x00mark %d\x00", l.marks)
	l.seen = make(chan struct{})
	mark, seen := l.mark, l.seen
	l.mu.Unlock()
	if _, err := l.in.Write(mark); err != nil { // closed: nothing more comes
		<-l.done
		return
	}
	select {
	case <-seen:
	case <-l.done:
	}
}

func (l *logs) add(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.text); n > 0 && l.text[n-1] != '\n' {
		l.text = append(l.text, '\n')
	}
	l.text = append(l.text, text...)
}

// take returns what was gathered since the last time.
func (l *logs) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text
	l.text = nil
	return text
}

// close ends the gathering; what is in the pipe is still taken.
func (l *logs) close() {
	l.in.Close()
	select {
	case <-l.done:
	case <-time.After(time.Second): // somebody whom the process started has the pipe yet
	}
	l.out.Close()
	<-l.done
}
