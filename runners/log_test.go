package runners

import (
	"fmt"
	"strings"
	"testing"
)

func TestLogKeepsItsEndAndCountsWhatItDropped(t *testing.T) {
	l := NewLog()
	w := l.Stream("stdout")
	for i := range 10_000 {
		fmt.Fprintf(w, "line %04d of the program\n", i)
	}
	fmt.Fprint(w, "without a break")
	w.Close()
	lines, dropped := l.Tail()
	if got := int64(len(lines)) + dropped; got != 10_001 {
		t.Fatalf("%d lines, want 10001", got)
	}
	bytes := 0
	for _, line := range lines {
		bytes += len(line.Text)
	}
	if bytes > LogBytes || bytes < LogBytes/2 {
		t.Errorf("%d bytes kept, want nearly %d", bytes, LogBytes)
	}
	if last := lines[len(lines)-1]; last.Text != "without a break" || last.Stream != "stdout" {
		t.Errorf("last line %+v", last)
	}
}

func TestLogReadersSeeEachLineOnce(t *testing.T) {
	l := NewLog()
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for next := int64(0); len(seen) < 500; {
			lines, to, more := l.Since(next)
			for _, line := range lines {
				seen = append(seen, line.Text)
			}
			if next = to; len(lines) == 0 {
				<-more
			}
		}
	}()
	for i := range 500 {
		l.Note(fmt.Sprint(i))
	}
	<-done
	for i, s := range seen {
		if s != fmt.Sprint(i) {
			t.Fatalf("line %d is %q", i, s)
		}
	}
}

func TestLogBoundsALineWithoutEnd(t *testing.T) {
	l := NewLog()
	w := l.Stream("stderr")
	for range 100 {
		fmt.Fprint(w, strings.Repeat("x", 10_000))
	}
	w.Close()
	lines, _ := l.Tail()
	if len(lines) != 1 || len(lines[0].Text) > LogBytes/4 {
		t.Errorf("%d lines, first of %d bytes", len(lines), len(lines[0].Text))
	}
}

// told counts how often it was written.
type told struct{ times int }

func (s *told) String() string { s.times++; return fmt.Sprint("told ", s.times) }

func TestANoteForLaterIsWrittenOnceSomebodyReadsOrMoreIsSaid(t *testing.T) {
	alone := &told{}
	l := NewLog()
	if n := testing.AllocsPerRun(100, func() { *l = Log{}; l.NoteLater(alone) }); n != 0 {
		t.Errorf("a note that nobody reads takes %v allocations", n)
	}
	if l.Spoke() || alone.times != 0 {
		t.Errorf("a note that stands alone counts as said, or was written %d times", alone.times)
	}
	for range 2 {
		if lines, _ := l.Tail(); len(lines) != 1 || lines[0].Text != "told 1" || lines[0].Stream != "agent" {
			t.Errorf("lines %v", lines)
		}
	}
	l = NewLog()
	l.NoteLater(&told{})
	l.NoteLater(&told{})
	l.Note("third")
	if lines, _ := l.Tail(); len(lines) != 3 || lines[2].Text != "third" || !l.Spoke() {
		t.Errorf("lines %v", lines)
	}
	l = NewLog()
	_, _, more := l.Since(0) // somebody waits
	l.NoteLater(&told{})
	<-more
}
