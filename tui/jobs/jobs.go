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
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// Source is what the page asks and does.
type Source struct {
	List       func(ctx context.Context, f ops.Filter, p ops.Page) ([]ops.JobRow, error)
	Job        func(ctx context.Context, id contract.ID) (ops.JobDetail, error)
	Filter     func(words string) (ops.Filter, error)
	Plan       func(ctx context.Context, action ops.JobAction, f ops.Filter) (ops.JobPlan, error)
	Change     func(ctx context.Context, action ops.JobAction, f ops.Filter, reason string, progress func(int64)) (ops.JobResult, error)
	Operations func(ctx context.Context) ([]ops.Operation, error)
	Enqueue    func(ctx context.Context, o ops.Operation, typed map[string]string, reason string) (contract.ID, error)
	Follow     func(ctx context.Context, id contract.ID, tell func(ops.LogChunk) error) error
	Clock      func() time.Time
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

	marked map[contract.ID]bool
	above  int // lines above the table's first row, for the mouse
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source, marked: map[contract.ID]bool{},
		feed: parts.Feed[stretch]{Interval: interval, Clock: source.Clock},
		table: parts.Table{Columns: []parts.Column{
			{Title: "Status", Width: 13},
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
	filter, list, up := p.filter, p.source.List, p.list.up
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (stretch, error) {
		rows, err := list(ctx, filter, ops.Page{After: after, Size: readSize, OldestFirst: up})
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

// Capturing tells whether the filter is being typed.
func (p *Page) Capturing() bool { return p.editing }

// Hints lists what works while the filter is being typed.
func (p *Page) Hints() []parts.Key {
	return []parts.Key{{Keys: "enter", Help: "apply"}, {Keys: "esc", Help: "keep the old filter"}, {Keys: "ctrl+u", Help: "clear"}}
}

// Place is the list, or one job in full.
func (p *Page) Place() actions.Place {
	if p.detail != nil {
		return actions.Job
	}
	return actions.Jobs
}

// News makes a new reading due.
func (p *Page) News() {
	p.feed.Soon()
	if p.detail != nil {
		p.detail.feed.Soon()
	}
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
	case logMsg:
		if p.detail != nil {
			return p.detail.log(msg)
		}
	case openedMsg:
		return p.opened(msg)
	case parts.GoMsg:
		if msg.Page == actions.PageJobs && msg.Filter != "" {
			filter, err := p.source.Filter(msg.Filter)
			if err != nil {
				return parts.Toast(err.Error(), true)
			}
			p.leave()
			return p.apply(msg.Filter, filter)
		}
	case tea.PasteMsg:
		if p.editing {
			p.field.Insert(msg.Content)
		}
	case tea.MouseWheelMsg:
		return p.wheel(msg.Button)
	case tea.MouseClickMsg:
		return p.click(msg.Y)
	case tea.KeyPressMsg:
		switch {
		case p.editing:
			return p.editKey(msg)
		case p.detail != nil:
			p.detail.key(msg.String())
		case p.table.Navigate(msg.String(), len(p.list.rows)):
			return p.more()
		}
	}
	return nil
}

// click puts the cursor on a job, or opens the one that it is on.
func (p *Page) click(y int) tea.Cmd {
	i := p.table.Top + y - p.above - 1
	if p.detail != nil || p.editing || y < p.above+1 || i >= len(p.list.rows) {
		return nil
	}
	if i == p.table.Cursor {
		return p.Do(actions.JobsOpen)
	}
	p.table.Cursor = i
	return p.more()
}

func (p *Page) wheel(button tea.MouseButton) tea.Cmd {
	by := 0
	switch button {
	case tea.MouseWheelUp:
		by = -3
	case tea.MouseWheelDown:
		by = 3
	}
	if p.detail != nil {
		p.detail.scroll(by)
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
	p.marked = map[contract.ID]bool{}
	return p.restart()
}

// restart reads the list from its beginning.
func (p *Page) restart() tea.Cmd {
	p.list, p.table.Cursor, p.table.Top = list{up: p.list.up}, 0, 0
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
	p.above = len(head)
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
		if len(p.marked) > 0 {
			place = "  ✓ " + parts.Count(int64(len(p.marked)), false) + " marked  "
		}
		place += " " + strconv.Itoa(p.table.Cursor+1) + " of " + strconv.Itoa(n) + more
	}
	room := w - parts.Width(place) - 3
	var left string
	switch {
	case p.editing && p.fault != "":
		return []string{th.Focus.Render("/ ") + p.field.View(th, w-2, true), th.Bad.Render(parts.Fit("✕ "+p.fault, w))}
	case p.editing:
		return []string{th.Focus.Render("/ ") + p.field.View(th, w-2, true),
			th.Muted.Render(parts.Fit("  type:shell status:failed dead service:stripe_api age>1h text", w))}
	case p.words != "":
		words := parts.Clean(p.words)
		if p.list.up {
			words += "   oldest first"
		}
		left = th.Accent.Render("/ ") + th.Strong.Render(parts.Fit(words, room))
	default:
		left = th.Muted.Render(parts.Fit("  All jobs, "+p.order()+" first", room+2))
	}
	return []string{left + th.Muted.Render(place), ""}
}

func (p *Page) order() string {
	if p.list.up {
		return "oldest"
	}
	return "newest"
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
	c[0] = parts.Cell{Text: "  " + symbol + " " + string(r.Status), Style: style}
	if p.marked[r.ID] {
		c[0].Text = "✓ " + symbol + " " + string(r.Status)
	}
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
