package migrate

import (
	"fmt"
	"strings"
	"time"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// sideBySide is the width from which on list and step stand beside each other.
const sideBySide = 76

// View draws the page at exactly w × h.
func (p *Page) View(w, h int) string {
	if !p.feed.Health().Loaded {
		return p.feed.Health().Missing(p.env, "the migration's evidence", w, h)
	}
	th := p.env.Theme
	p.narrow = w < sideBySide
	if p.narrow {
		if p.whole {
			return parts.Block(p.detail(w, h), w, h)
		}
		return parts.Block(p.steps(w, h), w, h)
	}
	left := min(max(w*2/5, 38), 58)
	list, step := p.steps(left, h), p.detail(w-left-3, h)
	line := th.Border.Render("│")
	lines := make([]string, h)
	for i := range lines {
		lines[i] = parts.Fit(at(list, i), left) + " " + line + " " + at(step, i)
	}
	return parts.Block(lines, w, h)
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// mark is a state's symbol and colour.
func mark(th *parts.Theme, s ops.StepState) (string, parts.Style) {
	switch s {
	case ops.StepDone:
		return "●", th.Good
	case ops.StepNext:
		return "▲", th.Warn
	case ops.StepFailed:
		return "✕", th.Bad
	case ops.StepWaived:
		return "–", th.Muted
	}
	return "○", th.Muted
}

// steps draws the list around the cursor.
func (p *Page) steps(w, h int) []string {
	th := p.env.Theme
	cursor := max(p.index(), 0)
	p.tall = h
	// The head of the cursor's phase is in sight where there is room.
	p.top = min(p.top, max(cursor-1, 0), max(len(p.rows)-h, 0))
	p.top = max(p.top, cursor-h+1, 0)
	var lines []string
	for i := p.top; i < min(p.top+h, len(p.rows)); i++ {
		r := p.rows[i]
		if r.step == nil {
			count := fmt.Sprintf("%d/%d", r.phase.Settled(), len(r.phase.Steps))
			name := fmt.Sprintf("%d %s", r.phase.Number, r.phase.Name)
			lines = append(lines, th.Strong.Render(parts.Fit(name, w-len(count)-1))+th.Muted.Render(" "+count))
			continue
		}
		symbol, style := mark(th, r.step.State)
		const word = 7
		title := parts.Fit(parts.Clean(r.step.Title), w-word-6)
		state := parts.FitRight(string(r.step.State), word)
		if i == cursor {
			lines = append(lines, th.Selected.Render("▸ "+symbol+" "+title+" "+state+" "))
			continue
		}
		lines = append(lines, "  "+style.Render(symbol)+" "+th.Text.Render(title)+" "+style.Render(state)+" ")
	}
	return lines
}

// detail draws the step under the cursor, scrolled where it is longer.
func (p *Page) detail(w, h int) []string {
	s := p.step()
	if s == nil {
		return nil
	}
	lines := p.text(s, w)
	foot := p.foot(s, w)
	room := max(h-len(foot), 1)
	p.scroll = min(p.scroll, max(len(lines)-room, 0))
	more := len(lines)-p.scroll > room
	lines = lines[p.scroll:min(p.scroll+room, len(lines))]
	if more {
		lines[len(lines)-1] = p.env.Theme.Muted.Render("↓ more: pgdn")
	}
	for len(lines) < room {
		lines = append(lines, "")
	}
	return append(lines, foot...)
}

// foot is what can be done, always in sight.
func (p *Page) foot(s *ops.WalkStep, w int) []string {
	th := p.env.Theme
	verb, why := p.action(s)
	switch {
	case verb == "":
		return nil
	case why != "":
		lines := []string{th.Muted.Render(parts.Fit("[ "+verb+" ]", w))}
		for _, l := range parts.Wrap("not now: "+parts.Clean(why), w) {
			lines = append(lines, th.Muted.Render(l))
		}
		return lines
	}
	return []string{th.Focus.Render("enter ") + th.Selected.Render("[ "+verb+" ]")}
}

func (p *Page) text(s *ops.WalkStep, w int) []string {
	th := p.env.Theme
	symbol, style := mark(th, s.State)
	state := symbol + " " + string(s.State)
	lines := []string{th.Strong.Render(parts.Fit(parts.Clean(s.Title), w-parts.Width(state)-1)) + " " + style.Render(state)}
	add := func(style parts.Style, first, rest, text string) {
		for i, l := range parts.Wrap(parts.Clean(text), w-parts.Width(first)) {
			if i > 0 {
				first = rest
			}
			lines = append(lines, style.Render(parts.Fit(first+l, w)))
		}
	}
	add(th.Muted, "", "", s.Why)
	if s.Run != nil {
		lines = append(lines, p.run(s.Run, w)...)
	}
	lines = append(lines, "")
	if len(s.BlockedBy) > 0 {
		add(th.Warn, "○ ", "  ", "First: "+strings.Join(s.BlockedBy, ", "))
	}
	if s.Signed != nil {
		word := "signed off"
		if s.Signed.Waived {
			word = "waived"
		}
		add(th.Text, "● ", "  ", fmt.Sprintf("%s by %s, %s ago: %s", word, s.Signed.Name, parts.Since(p.env.Now, s.Signed.At), s.Signed.Note))
	}
	for _, e := range s.Evidence {
		lines = append(lines, p.evidence(e, w)...)
	}
	if len(s.Evidence) > 0 {
		lines = append(lines, th.Muted.Render(parts.Fit("checked "+age(p.env.Now, p.feed.Value.At), w)))
	}
	if s.Will != "" && s.State != ops.StepDone {
		lines = append(lines, "")
		add(th.Text, "Will  ", "      ", s.Will)
	}
	if s.Command != "" {
		lines = append(lines, "")
		add(th.Accent, "$ ", "  ", s.Command)
	}
	if len(s.Guide) > 0 {
		lines = append(lines, "")
		for _, g := range s.Guide {
			add(th.Muted, "Guide: ", "       ", g)
		}
	}
	return lines
}

func age(now, t time.Time) string {
	if d := now.Sub(t); d > 2*time.Second {
		return parts.Age(d) + " ago"
	}
	return "just now"
}

func (p *Page) evidence(e ops.Evidence, w int) []string {
	th := p.env.Theme
	symbol, style := "●", th.Good
	switch {
	case e.Bad:
		symbol, style = "✕", th.Bad
	case !e.OK:
		symbol, style = "▲", th.Warn
	case e.Note:
		symbol, style = "·", th.Muted
	}
	text := parts.Clean(e.Text)
	if e.At != nil {
		text += ", " + parts.Since(p.env.Now, *e.At) + " ago"
	}
	var lines []string
	for i, l := range parts.Wrap(text, w-2) {
		if i == 0 {
			lines = append(lines, style.Render(symbol)+" "+th.Text.Render(parts.Fit(l, w-2)))
		} else {
			lines = append(lines, "  "+th.Text.Render(parts.Fit(l, w-2)))
		}
	}
	for _, l := range e.Lines {
		lines = append(lines, th.Muted.Render(parts.Fit("    "+parts.Clean(l), w)))
	}
	if e.Advice != "" {
		for i, l := range parts.Wrap(parts.Clean(e.Advice), w-4) {
			lines = append(lines, th.Accent.Render(parts.Fit(map[bool]string{true: "  → ", false: "    "}[i == 0]+l, w)))
		}
	}
	return lines
}

// run is a schema migration's advance: a bar, its step, and whom it waits for.
func (p *Page) run(r *ops.WalkRun, w int) []string {
	th := p.env.Theme
	const bar = 20
	full := 0
	if r.Of > 0 {
		full = bar * r.Position / r.Of
	}
	lines := []string{"", th.Accent.Render(strings.Repeat("━", full)) + th.Border.Render(strings.Repeat("─", bar-full)) +
		th.Text.Render(fmt.Sprintf(" step %d of %d", r.Position, r.Of))}
	text := r.Step
	if r.Total > 0 {
		text += fmt.Sprintf(": %s of %s %s", parts.Count(r.Done, false), parts.Count(r.Total, false), r.Unit)
	}
	if r.Left > 0 {
		text += ", " + parts.Age(r.Left) + " left"
	}
	for _, l := range parts.Wrap(parts.Clean(text), w) {
		lines = append(lines, th.Text.Render(l))
	}
	if r.Waiting != "" {
		for _, l := range parts.Wrap("▲ waits for "+parts.Clean(r.Waiting), w) {
			lines = append(lines, th.Warn.Render(l))
		}
	}
	return append(lines, th.Muted.Render(parts.Fit("by "+parts.Clean(r.Actor)+"; safe to leave and come back", w)))
}
