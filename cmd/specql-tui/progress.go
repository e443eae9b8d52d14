package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/term"

	"github.com/specql/specql-ops/migrations"
)

// progress shows a migration's advance: on a terminal a line that changes with
// a bar for what takes long, elsewhere a line for each step that ends, for
// whom one waits and every few seconds of a long one; as JSON every report.
type progress struct {
	w       io.Writer
	json    bool
	width   int // of the terminal; 0: no terminal
	drawn   bool
	waiting string
	told    time.Duration
	step    string
}

const progressEvery = 5 * time.Second

func newProgress(w io.Writer, asJSON bool) *progress {
	p := &progress{w: w, json: asJSON}
	if isTerminal(w) && !asJSON && os.Getenv("TERM") != "dumb" {
		p.width = 80
		if width, _, err := term.GetSize(w.(*os.File).Fd()); err == nil && width > 20 {
			p.width = width
		}
	}
	return p
}

// writeLine writes JSON in one line, so that a reader can take event by event.
func writeLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func (p *progress) tell(r migrations.Progress) {
	if p.json {
		_ = writeLine(p.w, r)
		return
	}
	if at := r.Migration + r.Step; at != p.step {
		p.step, p.waiting, p.told = at, "", 0
	}
	at := ""
	if r.Migration != "" {
		at = fmt.Sprintf("%s %d/%d %s: ", r.Migration, r.Index, r.Count, r.Step)
	} else if r.Step != "" {
		at = r.Step + ": "
	}
	switch r.State {
	case migrations.Done:
		p.line("%sdone in %.2f s", at, r.Elapsed.Seconds())
	case migrations.Waiting, migrations.Retrying, migrations.Watching:
		if who := pidsOf(r.Waiting); who != p.waiting {
			p.line("%s%s for %s", at, wordOf(r.State), clean(or(r.Waiting, "its lock")))
			p.waiting = who
		}
		p.draw(r)
	case migrations.Running:
		if p.width > 0 {
			p.draw(r)
		} else if r.Elapsed-p.told >= progressEvery {
			p.told = r.Elapsed
			p.line("%sat work for %.0f s%s", at, r.Elapsed.Seconds(), advanceText(r.Advance))
		}
	}
}

func wordOf(s migrations.StepState) string {
	if s == migrations.Watching {
		return "watching: the database is kept"
	}
	return string(s)
}

// pidsOf keeps a report from being new each second because ages grow.
func pidsOf(waiting string) string {
	var pids []string
	for _, one := range strings.Split(waiting, "; ") {
		who, _, _ := strings.Cut(one, ",")
		pids = append(pids, who)
	}
	return strings.Join(pids, "; ")
}

// advanceText is ", 1200000 of 5000000 rows (24 %), 40000/s, 1m35s left".
func advanceText(a migrations.Advance) string {
	if a.Total <= 0 {
		return ""
	}
	text := fmt.Sprintf(", %d of %d %s (%.0f %%)", a.Done, a.Total, a.Unit, 100*a.Fraction())
	if a.Phase != "" {
		text = ", " + a.Phase + text
	}
	if a.Rate > 0 {
		text += fmt.Sprintf(", %.0f/s, %s left", a.Rate, brief(max(a.Left, time.Second)))
	}
	return text
}

const barCells = 24

// draw paints the line of the step at work, on a terminal.
func (p *progress) draw(r migrations.Progress) {
	if p.width == 0 {
		return
	}
	text := fmt.Sprintf("%3d/%d %s", r.Position, r.Of, r.Step)
	if r.Total > 0 {
		full := int(r.Fraction() * barCells)
		text = fmt.Sprintf("%3d/%d [%s%s] %s%s", r.Position, r.Of, strings.Repeat("#", full), strings.Repeat("-", barCells-full),
			strings.TrimPrefix(advanceText(r.Advance), ", "), ", "+r.Step)
	}
	if r.Waiting != "" {
		text += ", waiting for " + r.Waiting
	}
	fmt.Fprintf(p.w, "\r%s\x1b[K", ansi.Truncate(clean(text), p.width-1, "…"))
	p.drawn = true
}

// line writes a line that stays.
func (p *progress) line(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// end takes the changing line away.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}
