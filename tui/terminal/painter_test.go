package terminal

import (
	"errors"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
	"pgregory.net/rapid"
)

// screen is what a terminal shows after what was written to it.
func screen(t *vt.Emulator, w, h int) (lines []string) {
	for y := range h {
		var b strings.Builder
		for x := range w {
			if c := t.CellAt(x, y); c != nil && c.Content != "" {
				b.WriteString(c.Content)
			} else {
				b.WriteByte(' ')
			}
		}
		lines = append(lines, b.String())
	}
	return lines
}

func TestWhatStandsOnTheScreenIsTheLastFrameWhateverCameBefore(t *testing.T) {
	const w, h = 12, 5
	rapid.Check(t, func(t *rapid.T) {
		emulator := vt.NewEmulator(w, h)
		defer emulator.Close()
		p := painter{out: emulator}
		line := rapid.StringMatching(`(\x1b\[31m)?[ab#]{12}(\x1b\[m)?`)
		for range rapid.IntRange(1, 6).Draw(t, "frames") {
			frame := rapid.SliceOfN(line, h, h).Draw(t, "frame")
			if rapid.Bool().Draw(t, "taken by another") {
				emulator.Write([]byte("\x1b[2J\x1b[1;1Hgarbage"))
				p.forget()
			}
			if err := p.paint(frame, w); err != nil {
				t.Fatal(err)
			}
			for i, got := range screen(emulator, w, h) {
				if want := ansi.Strip(frame[i]); got != want {
					t.Fatalf("line %d is %q, want %q", i+1, got, want)
				}
			}
		}
	})
}

type line struct {
	strings.Builder
	err error
}

func (l *line) Write(b []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	return l.Builder.Write(b)
}

func TestOnlyWhatChangedIsWrittenAndNothingForTheSameFrame(t *testing.T) {
	var out line
	p := painter{out: &out}
	p.paint([]string{"one", "two", "three"}, 5)
	out.Reset()
	p.paint([]string{"one", "two", "three"}, 5)
	if out.Len() > 0 {
		t.Errorf("the same frame wrote %q", out.String())
	}
	p.paint([]string{"one", "2", "three"}, 5)
	if got := out.String(); strings.Contains(got, "one") || strings.Contains(got, "three") || !strings.Contains(got, "\x1b[2;1H2") {
		t.Errorf("a changed second line wrote %q", got)
	}
	out.Reset()
	out.err = errors.New("gone")
	p.paint([]string{"1", "2", "three"}, 5)
	out.err = nil
	p.paint([]string{"1", "2", "three"}, 5)
	if got := out.String(); !strings.Contains(got, "three") {
		t.Errorf("after a failed write only %q was painted", got)
	}
}
