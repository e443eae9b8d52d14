// Package jobs is the console's page of jobs: a list of any length, read a
// stretch at a time by keyset, a filter in the guide's words, and one job in
// full.
//
// It holds in memory what was scrolled through and no more, keeps the cursor
// on the same job while rows come and go, and does no I/O in Update.
package jobs

import (
	"context"
	"strconv"
	"time"

	tea "charm.land/bubbletea/v2"

	contract "github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// Source is what the page asks.
type Source struct {
	List   func(ctx context.Context, f ops.Filter, p ops.Page) ([]ops.JobRow, error)
	Job    func(ctx context.Context, id contract.ID) (ops.JobDetail, error)
	Filter func(words string) (ops.Filter, error)
	Plan   func(ctx context.Context, action ops.JobAction, id contract.ID) (ops.JobPlan, error)
	Change func(ctx context.Context, action ops.JobAction, id contract.ID, reason string) (ops.JobResult, error)
	Clock  func() time.Time
}

const interval = 2 * time.Second

// stretch is one reading of the list.
type stretch struct {
	after ops.Cursor
	rows  []ops.JobRow
}

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[stretch]
	list   list
	table  parts.Table

	words   string // the filter as the operator wrote it
	filter  ops.Filter
	editing bool
	field   parts.Field
	fault   string // why the field's words are no filter

	detail *detail
	turn   int // of details: a late answer to a closed one is dropped

	dialog *dialog
	serial int // of dialogs, likewise
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source,
		feed: parts.Feed[stretch]{Interval: interval, Clock: source.Clock},
		table: parts.Table{Columns: []parts.Column{
			{Title: "Status", Width: 11},
			{Title: "Type", Width: 10, Priority: 2},
			{Title: "Service", Width: 14, Grow: 3},
			{Title: "Operation", Width: 12, Grow: 3, Priority: 3},
			{Title: "Identifier", Width: 14, Grow: 2, Priority: 6},
			{Title: "Try", Width: 4, Right: true, Priority: 4},
			{Title: "Age", Width: 6, Right: true},
			{Title: "Took", Width: 6, Right: true},
			{Title: "Error", Width: 24, Grow: 6, Priority: 5},
		}}}
}

// Refresh asks for the stretch of the list that is on the screen, or for the
// next one when its end is near; and for the open job.
func (p *Page) Refresh() tea.Cmd {
	if p.detail != nil {
		return p.detail.refresh(p.env.Now)
	}
	return p.ask()
}

func (p *Page) ask() tea.Cmd {
	after := p.list.wanted(p.table.Cursor, p.table.Top, p.table.Height)
	filter, list := p.filter, p.source.List
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (stretch, error) {
		rows, err := list(ctx, filter, ops.Page{After: after, Size: readSize})
		return stretch{after, rows}, err
	})
}

// Health tells how fresh the page is.
func (p *Page) Health() parts.Health {
	if p.detail != nil {
		return p.detail.feed.Health()
	}
	return p.feed.Health()
}

// Capturing tells whether a text is being typed or a dialog takes every key.
func (p *Page) Capturing() bool { return p.editing || p.dialog != nil }

// Overlay is the dialog's box, nil when there is none.
func (p *Page) Overlay(w, h int) []string {
	if p.dialog == nil {
		return nil
	}
	return p.dialog.view(p.env.Theme, w)
}

// News makes a new reading due.
func (p *Page) News() {
	p.feed.Soon()
	if p.detail != nil {
		p.detail.feed.Soon()
	}
}

// Keys lists the page's bindings as they stand.
func (p *Page) Keys() []parts.Key {
	actions := []parts.Key{{Keys: "c", Help: "cancel", Disabled: p.env.ReadOnly}, {Keys: "r", Help: "retry", Disabled: p.env.ReadOnly}}
	switch {
	case p.dialog != nil:
		return p.dialog.keys()
	case p.editing:
		return []parts.Key{{Keys: "enter", Help: "apply"}, {Keys: "esc", Help: "keep the old filter"}, {Keys: "ctrl+u", Help: "clear"}}
	case p.detail != nil:
		return append([]parts.Key{{Keys: "esc", Help: "back to the list"}, {Keys: "↑↓", Help: "scroll"},
			{Keys: "home end", Help: "first, last line", Hidden: true}}, actions...)
	}
	keys := []parts.Key{{Keys: "enter", Help: "detail"}, {Keys: "/", Help: "filter"}}
	if p.words != "" {
		keys = append(keys, parts.Key{Keys: "esc", Help: "all jobs"})
	}
	keys = append(keys, actions...)
	return append(keys, parts.Key{Keys: "↑↓", Help: "move"}, parts.Key{Keys: "home", Help: "newest"},
		parts.Key{Keys: "pgup pgdn end", Help: "a page, the last read", Hidden: true})
}

// Update takes a key or an answer.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[stretch]:
		if p.feed.Take(msg) {
			before := len(p.list.rows)
			p.table.Cursor, p.table.Top = p.list.merge(p.feed.Value, p.table.Cursor, p.table.Top)
			// Reading on at once is for a list that grows by it: whatever the
			// answer was, one that does not waits for the next tick.
			if len(p.list.rows) > before {
				return p.more()
			}
		}
	case parts.Read[ops.JobDetail]:
		if p.detail != nil {
			p.detail.take(msg)
		}
	case plannedMsg:
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.planned(msg, p.env.Now)
		}
	case changedMsg:
		p.News()
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.changed(msg)
		}
	case tea.PasteMsg:
		switch {
		case p.dialog != nil && p.dialog.at == onReason:
			p.dialog.reason.Insert(msg.Content)
		case p.editing:
			p.field.Insert(msg.Content)
		}
	case tea.MouseWheelMsg:
		return p.wheel(msg.Button)
	case tea.KeyPressMsg:
		action, acts := actionKeys[msg.String()]
		switch {
		case p.dialog != nil:
			return p.dialogKey(msg)
		case p.editing:
			return p.editKey(msg)
		case acts:
			return p.begin(action)
		case p.detail != nil:
			if name := msg.String(); name == "esc" || name == "backspace" {
				p.detail = nil
			} else {
				p.detail.key(name)
			}
			return nil
		default:
			return p.listKey(msg.String())
		}
	}
	return nil
}

func (p *Page) wheel(button tea.MouseButton) tea.Cmd {
	if p.dialog != nil {
		return nil
	}
	by := 0
	switch button {
	case tea.MouseWheelUp:
		by = -3
	case tea.MouseWheelDown:
		by = 3
	}
	if p.detail != nil {
		p.detail.top += by
		return nil
	}
	p.table.Move(by, len(p.list.rows))
	return p.more()
}

// more asks at once when the cursor nears the end of what was read.
func (p *Page) more() tea.Cmd {
	if p.list.short(p.table.Cursor, p.table.Height) {
		p.feed.Soon()
		return p.ask()
	}
	return nil
}

func (p *Page) listKey(key string) tea.Cmd {
	if p.table.Navigate(key, len(p.list.rows)) {
		return p.more()
	}
	switch key {
	case "enter":
		if p.table.Cursor < len(p.list.rows) {
			p.turn++
			p.detail = newDetail(p.env, p.source, p.list.rows[p.table.Cursor], p.turn)
			return p.detail.refresh(p.env.Now)
		}
	case "/":
		p.editing, p.fault = true, ""
		p.field.Set(p.words)
		if p.words != "" {
			p.field.Insert(" ")
		}
	case "esc":
		if p.words != "" {
			return p.apply("", ops.Filter{})
		}
	}
	return nil
}

func (p *Page) editKey(msg tea.KeyPressMsg) tea.Cmd {
	switch name := msg.String(); name {
	case "esc":
		p.editing, p.fault = false, ""
	case "enter":
		words := p.field.Text()
		filter, err := p.source.Filter(words)
		if err != nil {
			p.fault = parts.Clean(err.Error())
			return nil
		}
		return p.apply(words, filter)
	default:
		p.fault = ""
		p.field.Key(name, msg.Text)
	}
	return nil
}

// apply starts the list anew with another filter.
func (p *Page) apply(words string, filter ops.Filter) tea.Cmd {
	p.editing, p.fault, p.words, p.filter = false, "", words, filter
	p.list, p.table.Cursor, p.table.Top = list{}, 0, 0
	p.feed.Reset()
	return p.ask()
}

// View draws the page at exactly w × h.
func (p *Page) View(w, h int) string {
	if p.detail != nil {
		return p.detail.view(w, h)
	}
	head := p.head(w)
	if !p.feed.Health().Loaded {
		return parts.Block(head, w, len(head)) + "\n" + p.feed.Health().Missing(p.env, "the jobs", w, h-len(head))
	}
	if len(p.list.rows) == 0 {
		text := "No jobs yet: the table is empty."
		if p.words != "" {
			text = "No job matches this filter.\nesc shows all jobs."
		}
		return parts.Block(head, w, len(head)) + "\n" + parts.Center(p.env.Theme, text, p.env.Theme.Muted, w, h-len(head))
	}
	return parts.Block(append(head, p.table.Lines(p.env.Theme, w, h-len(head), len(p.list.rows), true, p.cells)...), w, h)
}

func (p *Page) head(w int) []string {
	th := p.env.Theme
	place := ""
	if n := len(p.list.rows); n > 0 {
		more := "+"
		if p.list.ended {
			more = ""
		}
		place = " " + strconv.Itoa(p.table.Cursor+1) + " of " + strconv.Itoa(n) + more
	}
	room := w - parts.Width(place) - 3
	var left string
	switch {
	case p.editing && p.fault != "":
		return []string{th.Focus.Render("/ ") + p.field.View(th, w-2, true), th.Bad.Render(parts.Fit("✕ "+p.fault, w))}
	case p.editing:
		return []string{th.Focus.Render("/ ") + p.field.View(th, w-2, true),
			th.Muted.Render(parts.Fit("  type:shell status:failed dead service:stripe_api age>1h age<5m text", w))}
	case p.words != "":
		left = th.Accent.Render("/ ") + th.Strong.Render(parts.Fit(parts.Clean(p.words), room))
	default:
		left = th.Muted.Render(parts.Fit("  All jobs, newest first", room+2))
	}
	return []string{left + th.Muted.Render(place), ""}
}

// state is a status's symbol and style.
func state(th *parts.Theme, r *ops.JobRow) (string, parts.Style) {
	switch r.Status {
	case contract.Running:
		return "●", th.Accent
	case contract.Completed:
		return "●", th.Good
	case contract.Failed:
		if r.Attempts < r.MaxAttempts {
			return "▲", th.Warn
		}
		return "✕", th.Bad
	case contract.Cancelled:
		return "○", th.Muted
	default:
		return "○", th.Text
	}
}

func took(now time.Time, r *ops.JobRow) string {
	switch {
	case r.DurationSeconds != nil:
		return parts.Duration(time.Duration(*r.DurationSeconds * float64(time.Second)))
	case r.Status == contract.Running && r.StartedAt != nil:
		return parts.Since(now, *r.StartedAt)
	}
	return "–"
}

func (p *Page) cells(i int, c []parts.Cell) {
	th, r := p.env.Theme, &p.list.rows[i]
	symbol, style := state(th, r)
	c[0] = parts.Cell{Text: symbol + " " + string(r.Status), Style: style}
	c[1] = parts.Cell{Text: string(r.Type), Style: th.Types[string(r.Type)]}
	c[2] = parts.Cell{Text: parts.Clean(r.Service), Style: th.Text}
	c[3] = parts.Cell{Text: parts.Clean(r.Operation), Style: th.Text}
	c[4] = parts.Cell{Text: parts.Clean(r.Identifier), Style: th.Muted}
	c[5] = parts.Cell{Text: strconv.Itoa(r.Attempts) + "/" + strconv.Itoa(r.MaxAttempts), Style: th.Muted}
	c[6] = parts.Cell{Text: parts.Since(p.env.Now, r.CreatedAt), Style: th.Muted}
	c[7] = parts.Cell{Text: took(p.env.Now, r), Style: th.Text}
	if r.Error != "" {
		c[8] = parts.Cell{Text: parts.Clean(r.Error[:min(len(r.Error), 300)]), Style: th.Muted}
	}
}
