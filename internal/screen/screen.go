//go:build unix

// Package screen drives a program in a terminal of its own, as a person would:
// it types keys, waits for what appears, and keeps the picture. Tests of whole
// programs and the pictures of the documentation are made with it.
//
// It waits for events, never for time: every write of the program is a chance
// for what is awaited to be there.
package screen

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"image/color"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
)

// Terminal is a running program and its screen.
type Terminal struct {
	cols, rows int
	theme      Theme
	emulator   *vt.Emulator // under mu, but for its answers
	command    *exec.Cmd
	side       *os.File // the pseudo-terminal's own end

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every write of the program
	half     bool          // a frame is half drawn
	whole    string        // the text before it
	recent   []byte        // the last bytes, which may begin a mark
	copied   string        // what the program put on the clipboard last
	wrote    time.Time     // when the program's last bytes came
	ended    chan struct{} // closed when the program has ended
	answered chan struct{} // closed when nothing answers the program any more
	status   error
}

// Theme is the terminal's own colours, which programs may ask for.
type Theme struct{ paper, ink color.Color }

// The terminals that people have.
var (
	Dark  = Theme{color.RGBA{0x11, 0x11, 0x1b, 0xff}, color.RGBA{0xcd, 0xd6, 0xf4, 0xff}}
	Light = Theme{color.RGBA{0xff, 0xff, 0xff, 0xff}, color.RGBA{0x24, 0x29, 0x2f, 0xff}}
)

// Start runs the command in a terminal of the size given, with 24-bit colour.
// Close must be called.
func Start(cols, rows int, theme Theme, command *exec.Cmd) (*Terminal, error) {
	if command.Env == nil {
		command.Env = os.Environ()
	}
	command.Env = append(command.Env, "TERM=xterm-256color", "COLORTERM=truecolor")
	side, err := pty.StartWithSize(command, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)})
	if err != nil {
		return nil, fmt.Errorf("start %s in a terminal: %w", command.Path, err)
	}
	t := &Terminal{cols: cols, rows: rows, theme: theme, emulator: vt.NewEmulator(cols, rows), command: command, side: side,
		changed: make(chan struct{}), ended: make(chan struct{}), answered: make(chan struct{})}
	t.emulator.SetDefaultBackgroundColor(theme.paper)
	t.emulator.SetDefaultForegroundColor(theme.ink)
	t.emulator.RegisterOscHandler(52, t.clipboard)
	go func() { // answers to the program's questions, such as for the colours
		io.Copy(side, t.emulator)
		close(t.answered)
	}()
	go t.read()
	return t, nil
}

func (t *Terminal) read() {
	buffer := make([]byte, 32<<10)
	for {
		n, err := t.side.Read(buffer)
		at := time.Now()
		t.mu.Lock()
		if n > 0 {
			t.wrote = at
		}
		t.draw(buffer[:n], err != nil)
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
		if err != nil {
			break
		}
	}
	t.status = t.command.Wait()
	close(t.ended)
}

// What a program writes before and after a frame that is to be shown whole.
const frameBegins, frameEnds = "\x1b[?2026h", "\x1b[?2026l"

// draw takes what the program wrote; last says that no more comes. While a frame is
// half drawn, the screen shows what was there before.
func (t *Terminal) draw(written []byte, last bool) {
	recent := string(append(t.recent, written...))
	begins, ends := strings.LastIndex(recent, frameBegins), strings.LastIndex(recent, frameEnds)
	half := t.half
	if begins >= 0 || ends >= 0 {
		half = begins > ends
	}
	if half = half && !last; half && !t.half {
		t.whole = t.text()
	}
	t.half = half
	t.recent = []byte(recent[max(0, len(recent)-len(frameEnds)+1):])
	t.emulator.Write(written)
}

// clipboard takes what the program copies: "52;c;" and the text in base64. It
// is called under mu, by the emulator's Write.
func (t *Terminal) clipboard(data []byte) bool {
	_, rest, _ := strings.Cut(string(data), ";")
	_, encoded, _ := strings.Cut(rest, ";")
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err == nil {
		t.copied = string(text)
	}
	return true
}

// Clipboard returns what the program copied last, as OSC 52 does.
func (t *Terminal) Clipboard() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.copied
}

// Signal sends a signal to the program.
func (t *Terminal) Signal(signal os.Signal) error { return t.command.Process.Signal(signal) }

// Type sends text as it is: keys such as "q", "\r" for enter, "\t", "\x1b"
// for escape.
func (t *Terminal) Type(text string) error {
	_, err := io.WriteString(t.side, text)
	return err
}

// Resize changes the terminal's size; the program is signalled.
func (t *Terminal) Resize(cols, rows int) error {
	t.mu.Lock()
	t.cols, t.rows = cols, rows
	t.emulator.Resize(cols, rows)
	t.mu.Unlock()
	return pty.Setsize(t.side, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)})
}

// Text returns the screen's lines without trailing blanks.
func (t *Terminal) Text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.half {
		return t.whole
	}
	return t.text()
}

func (t *Terminal) text() string {
	var b strings.Builder
	for y := range t.rows {
		var line strings.Builder
		for x := 0; x < t.cols; {
			cell := t.emulator.CellAt(x, y)
			if cell == nil || cell.Content == "" {
				line.WriteByte(' ')
				x++
				continue
			}
			line.WriteString(cell.Content)
			x += max(1, cell.Width)
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// Expect waits until every text stands on the screen. The error of a context
// that ends first, or of a program that does, shows the screen.
func (t *Terminal) Expect(ctx context.Context, texts ...string) error {
	return t.Until(ctx, strings.Join(texts, " … "), func(screen string) bool {
		for _, text := range texts {
			if !strings.Contains(screen, text) {
				return false
			}
		}
		return true
	})
}

// Until waits until the screen satisfies seen; what names it in the error.
func (t *Terminal) Until(ctx context.Context, what string, seen func(screen string) bool) error {
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if seen(t.Text()) {
			return nil
		}
		select {
		case <-changed:
		case <-t.ended:
			if seen(t.Text()) {
				return nil
			}
			return fmt.Errorf("the program ended before the screen showed %q:\n%s", what, t.Text())
		case <-ctx.Done():
			return fmt.Errorf("the screen never showed %q (%w):\n%s", what, ctx.Err(), t.Text())
		}
	}
}

// Wrote waits until the program writes after a moment, and returns when its
// bytes came.
func (t *Terminal) Wrote(ctx context.Context, after time.Time) (time.Time, error) {
	for {
		t.mu.Lock()
		changed, wrote := t.changed, t.wrote
		t.mu.Unlock()
		if wrote.After(after) {
			return wrote, nil
		}
		select {
		case <-changed:
		case <-t.ended:
			return time.Time{}, errors.New("the program ended")
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// Wait waits for the program's end and returns its error, as exec.Cmd.Wait.
func (t *Terminal) Wait(ctx context.Context) error {
	select {
	case <-t.ended:
		return t.status
	case <-ctx.Done():
		return errors.Join(ctx.Err(), fmt.Errorf("the program does not end:\n%s", t.Text()))
	}
}

// Close ends the program if it still runs, and the terminal.
func (t *Terminal) Close() error {
	select {
	case <-t.ended:
	default:
		t.command.Process.Kill()
	}
	err := t.side.Close()
	<-t.ended
	// Its Close may not meet a Read under way: the end of what it answers ends that.
	if pipe, ok := t.emulator.InputPipe().(io.Closer); ok {
		pipe.Close()
		<-t.answered
	}
	t.emulator.Close()
	return err
}
