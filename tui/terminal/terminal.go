//go:build unix

// Package terminal owns the console's terminal: it takes it over and gives it
// back as it was, and brings frames onto it.
//
// A frame is painted the moment that it is shown, and nothing at all happens
// while none is: an idle console wakes up for its own clock alone. The library's
// renderer looks sixty times a second whether there is a new frame, which costs
// an idle console more than everything else that it does.
//
// Frames come from one goroutine and are painted by another, the newest alone:
// a terminal that takes nothing any more (a cut line, ctrl+s) holds up the
// painting and never the keys.
package terminal

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/charmbracelet/x/term"
)

// atLeast is the shortest time between two paintings: nobody reads more than
// so many, and a line over SSH carries no more.
const atLeast = 8 * time.Millisecond

const (
	enter = "\x1b[?1049h\x1b[?25l\x1b[?7l" + // own screen, no cursor, no wrapping
		"\x1b[?1002h\x1b[?1006h\x1b[?2004h" + // mouse, its coordinates in full, pastes marked
		"\x1b[22;0t\x1b]2;SpecQL Ops\x07"
	askPaper = "\x1b]11;?\x07" // which background; the answer comes as a message
	leave    = "\x1b[?2004l\x1b[?1006l\x1b[?1002l\x1b[m\x1b[23;0t\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// Terminal is a terminal that was taken over. Make one with Open.
type Terminal struct {
	in, out *os.File
	ask     string // what it is asked at the start

	next   chan struct{} // a frame is to be painted
	ended  chan struct{}
	closed sync.Once

	mu      sync.Mutex // of what is to be painted
	frame   string
	width   int
	painted painter // under drawing

	drawing sync.Mutex // of the terminal itself; taken before mu
	before  *term.State
}

// Open makes a terminal of the two files, which must be one. Nothing is
// changed before Enter.
func Open(in, out *os.File, environ []string) *Terminal {
	t := &Terminal{in: in, out: out, ask: askPaper, painted: painter{out: out},
		next: make(chan struct{}, 1), ended: make(chan struct{})}
	for _, v := range environ {
		if v == "TERM=linux" || v == "TERM=dumb" { // they print what they do not know
			t.ask = ""
		}
	}
	go t.paint()
	return t
}

// Enter takes the terminal over: keys come raw, and the screen is the
// console's own.
func (t *Terminal) Enter() error {
	t.drawing.Lock()
	defer t.drawing.Unlock()
	if t.before != nil {
		return nil
	}
	before, err := term.MakeRaw(t.in.Fd())
	if err != nil {
		return fmt.Errorf("take the terminal over: %w", err)
	}
	t.before = before
	t.painted.forget()
	_, err = io.WriteString(t.out, enter+t.ask)
	t.wake()
	return err
}

// Leave gives the terminal back as it was. It may be called at any time, also
// twice.
func (t *Terminal) Leave() error {
	t.drawing.Lock()
	defer t.drawing.Unlock()
	if t.before == nil {
		return nil
	}
	_, err := io.WriteString(t.out, leave)
	if restored := term.Restore(t.in.Fd(), t.before); err == nil {
		err = restored
	}
	t.before = nil
	return err
}

// Close is Leave for good.
func (t *Terminal) Close() error {
	t.closed.Do(func() { close(t.ended) })
	return t.Leave()
}

// Size is its width and height in cells.
func (t *Terminal) Size() (w, h int, err error) { return term.GetSize(t.out.Fd()) }

// Resized tells of every change of the size until the terminal is closed.
func (t *Terminal) Resized(tell func(w, h int)) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-t.ended:
			return
		case <-changed:
			if w, h, err := t.Size(); err == nil && w > 0 && h > 0 {
				tell(w, h)
			}
		}
	}
}

// Copy puts text on the clipboard of whoever sits at the terminal, also
// through SSH (OSC 52). Terminals that do not know it ignore it.
func (t *Terminal) Copy(text string) error {
	t.drawing.Lock()
	defer t.drawing.Unlock()
	_, err := io.WriteString(t.out, "\x1b]52;c;"+base64.StdEncoding.EncodeToString([]byte(text))+"\x07")
	return err
}

// Show has a frame painted: lines of exactly width cells. It does not wait.
func (t *Terminal) Show(frame string, width int) {
	t.mu.Lock()
	same := frame == t.frame && width == t.width
	t.frame, t.width = frame, width
	t.mu.Unlock()
	if !same {
		t.wake()
	}
}

func (t *Terminal) wake() {
	select {
	case t.next <- struct{}{}:
	default: // it will be painted anyway
	}
}

func (t *Terminal) paint() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-t.ended:
			return
		case <-t.next:
		}
		t.paintNewest()
		pause.Reset(atLeast)
		select {
		case <-t.ended:
			return
		case <-pause.C:
		}
	}
}

func (t *Terminal) paintNewest() {
	t.drawing.Lock()
	defer t.drawing.Unlock()
	if t.before == nil {
		return // it is somebody else's
	}
	t.mu.Lock()
	frame, width := t.frame, t.width
	t.mu.Unlock()
	if frame != "" {
		t.painted.paint(strings.Split(frame, "\n"), width)
	}
}
