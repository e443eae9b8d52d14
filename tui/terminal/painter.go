package terminal

import (
	"io"
	"strconv"
)

const (
	begin = "\x1b[?2026h" // the terminal shows the whole or nothing, where it can
	end   = "\x1b[?2026l"
	clear = "\x1b[m\x1b[2J"
)

// painter writes what differs from what stands on the screen, line by line.
// Every line goes to its own place, so that a character whose width the
// terminal sees otherwise spoils its own line at most.
type painter struct {
	out   io.Writer
	shown []string
	width int
	buf   []byte
}

// forget has the next frame painted whole.
func (p *painter) forget() { p.shown = nil }

// paint brings lines of the width given onto the screen. What could not be
// written is painted again with the next frame.
func (p *painter) paint(lines []string, width int) error {
	p.buf = append(p.buf[:0], begin...)
	whole := len(lines) != len(p.shown) || width != p.width
	if whole {
		p.buf = append(p.buf, clear...)
	}
	empty := len(p.buf)
	for i, line := range lines {
		if !whole && line == p.shown[i] {
			continue
		}
		p.buf = append(p.buf, "\x1b["...)
		p.buf = strconv.AppendInt(p.buf, int64(i+1), 10)
		p.buf = append(p.buf, ";1H"...)
		p.buf = append(p.buf, line...)
		p.buf = append(p.buf, "\x1b[m"...)
	}
	if len(p.buf) == empty {
		return nil
	}
	p.buf = append(p.buf, end...)
	if _, err := p.out.Write(p.buf); err != nil {
		p.forget()
		return err
	}
	p.shown, p.width = lines, width
	return nil
}
