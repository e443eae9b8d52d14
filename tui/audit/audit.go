// Package audit is the console's page of the audit log: who did what, when and
// why, with what was before and after. It reads on as the cursor nears the end
// of what was read, and does no I/O in Update.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// readSize is how many entries one reading brings.
const readSize = 200

// Source is what the page asks.
type Source struct {
	Audit func(ctx context.Context, before int64, text string, limit int) ([]ops.AuditRow, error)
	Clock func() time.Time
}

// stretch is one reading of the log.
type stretch struct {
	before int64
	rows   []ops.AuditRow
}

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[stretch]
	rows   []ops.AuditRow
	ended  bool
	table  parts.Table
	above  int

	text    string
	editing bool
	field   parts.Field

	detail *ops.AuditRow
	top    int
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source,
		feed: parts.Feed[stretch]{Interval: 2 * time.Second, Clock: source.Clock},
		table: parts.Table{Columns: []parts.Column{
			{Title: "When (UTC)", Width: 19},
			{Title: "Who", Width: 14, Grow: 2},
			{Title: "What", Width: 18, Grow: 1},
			{Title: "Of", Width: 14, Grow: 3, Priority: 2},
			{Title: "Why", Width: 14, Grow: 4, Priority: 1},
			{Title: "From", Width: 16, Grow: 2, Priority: 3},
		}}}
}

// Refresh asks for the newest entries, or for more where the end is near.
func (p *Page) Refresh() tea.Cmd {
	before, text, ask := int64(0), p.text, p.source.Audit
	if p.short() {
		before = p.rows[len(p.rows)-1].ID
	}
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (stretch, error) {
		rows, err := ask(ctx, before, text, readSize)
		return stretch{before, rows}, err
	})
}

// short tells whether the rows end within two screens of the cursor though the
// log goes on.
func (p *Page) short() bool {
	return !p.ended && len(p.rows) > 0 && p.table.Cursor+2*max(p.table.Height, 1) >= len(p.rows)
}

// News makes a new reading due.
func (p *Page) News() { p.feed.Soon() }

// Health tells how fresh the page is.
func (p *Page) Health() parts.Health { return p.feed.Health() }

// Capturing tells whether the filter is being typed.
func (p *Page) Capturing() bool { return p.editing }

// Hints lists what works while the filter is being typed.
func (p *Page) Hints() []parts.Key {
	return []parts.Key{{Keys: "enter", Help: "apply"}, {Keys: "esc", Help: "keep the old filter"}, {Keys: "ctrl+u", Help: "clear"}}
}

// Place is where the page's actions work.
func (p *Page) Place() actions.Place { return actions.Audit }

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	if id == actions.AuditOpen && p.table.Cursor >= len(p.rows) {
		return "the list is empty"
	}
	return ""
}

// Do does one of the page's actions.
func (p *Page) Do(id actions.ID) tea.Cmd {
	switch id {
	case actions.AuditOpen:
		if p.table.Cursor < len(p.rows) && p.detail == nil {
			p.detail, p.top = new(p.rows[p.table.Cursor]), 0
		}
	case actions.AuditFilter:
		p.editing, p.detail = true, nil
		p.field.Set(p.text)
	case actions.AuditBack:
		if p.detail != nil {
			p.detail = nil
		} else if p.text != "" {
			return p.apply("")
		}
	}
	return nil
}

func (p *Page) apply(text string) tea.Cmd {
	p.text, p.editing, p.rows, p.ended = text, false, nil, false
	p.table.Cursor, p.table.Top = 0, 0
	p.feed.Reset()
	return p.Refresh()
}

// Update takes an answer, the mouse, or a key.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[stretch]:
		if p.feed.Take(msg) {
			return p.merge(msg.Value)
		}
	case tea.KeyPressMsg:
		switch {
		case p.editing:
			return p.editKey(msg)
		case p.detail != nil:
			p.top += map[string]int{"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdown": 10}[msg.String()]
		case p.table.Navigate(msg.String(), len(p.rows)):
			return p.more()
		}
	case tea.PasteMsg:
		if p.editing {
			p.field.Insert(msg.Content)
		}
	case tea.MouseWheelMsg:
		by := map[tea.MouseButton]int{tea.MouseWheelUp: -3, tea.MouseWheelDown: 3}[msg.Button]
		if p.detail != nil {
			p.top += by
			return nil
		}
		p.table.Move(by, len(p.rows))
		return p.more()
	case tea.MouseClickMsg:
		if i := p.table.Top + msg.Y - p.above - 1; p.detail == nil && msg.Y > p.above && i < len(p.rows) {
			if i == p.table.Cursor {
				return p.Do(actions.AuditOpen)
			}
			p.table.Cursor = i
		}
	}
	return nil
}

func (p *Page) editKey(msg tea.KeyPressMsg) tea.Cmd {
	switch name := msg.String(); name {
	case "esc":
		p.editing = false
	case "enter":
		return p.apply(p.field.Text())
	default:
		p.field.Key(name, msg.Text)
	}
	return nil
}

func (p *Page) more() tea.Cmd {
	if p.short() {
		p.feed.Soon()
		return p.Refresh()
	}
	return nil
}

// merge puts new entries above and older ones below; the cursor stays on its
// entry unless it is at the very top.
func (p *Page) merge(s stretch) tea.Cmd {
	if s.before != 0 {
		if n := len(p.rows); n > 0 && p.rows[n-1].ID == s.before {
			p.rows = append(p.rows, s.rows...)
			p.ended = len(s.rows) < readSize
			return p.more()
		}
		return nil
	}
	fresh := 0
	for fresh < len(s.rows) && (len(p.rows) == 0 || s.rows[fresh].ID > p.rows[0].ID) {
		fresh++
	}
	switch {
	case len(p.rows) == 0 || fresh == len(s.rows) && fresh == readSize: // nothing of before is in it: a gap
		p.rows, p.ended = s.rows, len(s.rows) < readSize
		p.table.Cursor, p.table.Top = 0, 0
	case fresh > 0:
		p.rows = append(s.rows[:fresh:fresh], p.rows...)
		if p.table.Cursor > 0 {
			p.table.Cursor, p.table.Top = p.table.Cursor+fresh, p.table.Top+fresh
		}
	}
	return nil
}

// View draws the page at exactly w × h.
func (p *Page) View(w, h int) string {
	th := p.env.Theme
	var head []string
	switch {
	case p.editing:
		head = []string{th.Focus.Render("/ ") + p.field.View(th, w-2, true), ""}
	case p.text != "":
		head = []string{th.Accent.Render("/ ") + th.Strong.Render(parts.Fit(parts.Clean(p.text), w-2)), ""}
	default:
		place := ""
		if n := len(p.rows); n > 0 {
			place = strconv.Itoa(p.table.Cursor+1) + " of " + strconv.Itoa(n)
			if !p.ended {
				place += "+"
			}
		}
		head = []string{th.Muted.Render(parts.Fit("  Who did what, newest first", w-parts.Width(place)) + place), ""}
	}
	if p.detail != nil {
		return p.entry(w, h)
	}
	if !p.feed.Health().Loaded {
		return parts.Block(head, w, 2) + "\n" + p.feed.Health().Missing(p.env, "the audit log", w, h-2)
	}
	if len(p.rows) == 0 {
		text := "○ Nobody has changed anything yet."
		if p.text != "" {
			text = "No entry has these words.\nesc shows all."
		}
		return parts.Block(head, w, 2) + "\n" + parts.Center(th, text, th.Muted, w, h-2)
	}
	p.above = len(head)
	return parts.Block(append(head, p.table.Lines(th, w, h-2, len(p.rows), true, func(i int, c []parts.Cell) {
		r := &p.rows[i]
		c[0] = parts.Cell{Text: r.At.UTC().Format("2006-01-02 15:04:05"), Style: th.Muted}
		c[1] = parts.Cell{Text: parts.Clean(r.Actor), Style: th.Text}
		c[2] = parts.Cell{Text: parts.Clean(r.Action), Style: th.Strong}
		c[3] = parts.Cell{Text: parts.Clean(r.Target), Style: th.Text}
		c[4] = parts.Cell{Text: parts.Clean(r.Reason), Style: th.Text}
		c[5] = parts.Cell{Text: parts.Clean(r.Origin), Style: th.Muted}
	})...), w, h)
}

// entry is one entry in full.
func (p *Page) entry(w, h int) string {
	th, r := p.env.Theme, p.detail
	lines := []string{th.Strong.Render(parts.Clean(r.Action)) + "  " + th.Text.Render(parts.Fit(parts.Clean(r.Target), max(w-parts.Width(parts.Clean(r.Action))-2, 1))), ""}
	pair := func(name, value string) {
		for i, l := range parts.Wrap(parts.Clean(value), w-12) {
			if i > 0 {
				name = ""
			}
			lines = append(lines, th.Muted.Render(parts.Fit("  "+name, 12))+th.Text.Render(l))
		}
	}
	pair("When", r.At.UTC().Format("2006-01-02 15:04:05.000")+" UTC, "+parts.Since(p.env.Now, r.At)+" ago")
	pair("Who", r.Actor)
	pair("From", r.Origin)
	if r.Reason != "" {
		pair("Why", r.Reason)
	}
	for _, side := range []struct {
		name string
		raw  json.RawMessage
	}{{"Before", r.Before}, {"After", r.After}} {
		if len(side.raw) == 0 || string(side.raw) == "null" {
			continue
		}
		lines = append(lines, "", th.Accent.Render(side.name))
		for _, l := range document(side.raw) {
			for _, part := range parts.Wrap(l, w-2) {
				lines = append(lines, th.Text.Render("  "+part))
			}
		}
	}
	p.top = min(max(p.top, 0), max(len(lines)-h, 0))
	return parts.Block(lines[p.top:], w, h)
}

func document(raw json.RawMessage) []string {
	var b bytes.Buffer
	text := string(raw)
	if json.Indent(&b, raw, "", "  ") == nil {
		text = b.String()
	}
	return parts.CleanLines(text)
}

// Copy is the entry under the cursor as JSON.
func (p *Page) Copy() (what, text string) {
	if p.table.Cursor >= len(p.rows) {
		return "", ""
	}
	out, err := json.MarshalIndent(p.rows[p.table.Cursor], "", "  ")
	if err != nil {
		return "", ""
	}
	return "the entry as JSON", string(out)
}

// Export writes every entry that has the filter's words.
func (p *Page) Export() (string, func(context.Context, io.Writer, bool, func(int64)) (int64, error)) {
	ask, words := p.source.Audit, p.text
	return "audit", func(ctx context.Context, w io.Writer, asJSON bool, progress func(int64)) (int64, error) {
		sheet, err := parts.NewSheet(w, asJSON, "at", "actor", "origin", "action", "target", "reason", "before", "after")
		if err != nil {
			return 0, err
		}
		var before, n int64
		for {
			rows, err := ask(ctx, before, words, readSize)
			if err != nil {
				return n, fmt.Errorf("read the audit log: %w", err)
			}
			for _, r := range rows {
				if err := sheet.Row(r.At.UTC().Format(time.RFC3339Nano), r.Actor, r.Origin, r.Action, r.Target, r.Reason, string(r.Before), string(r.After)); err != nil {
					return n, err
				}
				before = r.ID
			}
			n += int64(len(rows))
			progress(n)
			if len(rows) < readSize {
				return sheet.End()
			}
		}
	}
}
