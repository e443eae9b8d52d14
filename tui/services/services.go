// Package services is the console's page of services: how each fares, what it
// may use and has used of it, why its jobs wait, what its policy refused with
// the line that would permit it, and what the registry's last versions changed.
// From
// here a service is switched on or off, or to its http fallback. It does no I/O in
// Update.
package services

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strconv"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// Source is what the page asks.
type Source struct {
	Services func(ctx context.Context) ([]ops.ServiceRow, error)
	Service  func(ctx context.Context, name string) (ops.ServiceDetail, error)
	Plan     func(ctx context.Context, name string, change jobs.LaneChange) (ops.ServicePlan, error)
	Switch   func(ctx context.Context, name string, change jobs.LaneChange, reason string) ([]jobs.LaneSwitch, error)
	Versions func(ctx context.Context) ([]ops.VersionRow, error)
	Diff     func(ctx context.Context, from, to string) (ops.VersionDiff, error)
	Clock    func() time.Time
}

// sorts are the columns that the list can be sorted by, each the other way
// round than a person reads it first: the worst on top.
var sorts = []struct {
	column int
	order  func(a, b *ops.ServiceRow) int
}{
	{1, func(a, b *ops.ServiceRow) int { return cmp.Compare(a.Service, b.Service) }},
	{5, func(a, b *ops.ServiceRow) int { return cmp.Compare(b.Failed, a.Failed) }},
	{3, func(a, b *ops.ServiceRow) int { return cmp.Compare(b.Waiting, a.Waiting) }},
	{4, func(a, b *ops.ServiceRow) int { return cmp.Compare(b.Completed+b.Failed, a.Completed+a.Failed) }},
	{7, func(a, b *ops.ServiceRow) int { return cmp.Compare(b.P95, a.P95) }},
}

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[[]ops.ServiceRow]
	table  parts.Table
	sort   int
	above  int // lines above the table, for the mouse

	detail *detail
	turn   int // of details: a late answer to a closed one is dropped
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	p := &Page{env: env, source: source,
		feed: parts.Feed[[]ops.ServiceRow]{Interval: 2 * time.Second, Clock: source.Clock},
		table: parts.Table{Columns: []parts.Column{
			{Title: "State", Width: 9},
			{Title: "Service", Width: 16, Grow: 3},
			{Title: "Type", Width: 10, Priority: 1},
			{Title: "Waiting", Width: 8, Right: true},
			{Title: "Done 1 h", Width: 8, Right: true, Priority: 3},
			{Title: "Failed", Width: 7, Right: true},
			{Title: "Success", Width: 8, Right: true, Priority: 2},
			{Title: "p95", Width: 7, Right: true, Priority: 4},
			{Title: "Limits in use", Width: 18, Grow: 2, Priority: 5},
			{Title: "Why it waits", Width: 16, Grow: 5, Priority: 6},
		}}}
	p.titles()
	return p
}

// titles marks the column that the list is sorted by.
func (p *Page) titles() {
	plain := []string{"State", "Service", "Type", "Waiting", "Done 1 h", "Failed", "Success", "p95", "Limits in use", "Why it waits"}
	for i := range p.table.Columns {
		p.table.Columns[i].Title = plain[i]
	}
	c := &p.table.Columns[sorts[p.sort].column]
	if c.Right {
		c.Title = "↓" + c.Title
	} else {
		c.Title += " ↓"
	}
}

// Refresh asks for the services, or for the open one, when that is due.
func (p *Page) Refresh() tea.Cmd {
	if p.detail != nil {
		return p.detail.refresh(p.env.Now)
	}
	return p.feed.Ask(p.env.Now, p.source.Services)
}

// News makes new figures due.
func (p *Page) News() {
	p.feed.Soon()
	if p.detail != nil {
		p.detail.feed.Soon()
	}
}

// Health tells how fresh the page is.
func (p *Page) Health() parts.Health {
	if p.detail != nil {
		return p.detail.feed.Health()
	}
	return p.feed.Health()
}

// Capturing is false: nothing is typed here.
func (p *Page) Capturing() bool { return false }

// Hints is nil: no key is captured.
func (p *Page) Hints() []parts.Key { return nil }

// Place is where the page's actions work.
func (p *Page) Place() actions.Place { return actions.Services }

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	switch id {
	case actions.ServicesOpen, actions.ServicesSort:
		if p.detail != nil {
			return "a service is open: go back first"
		}
		fallthrough
	case actions.ServicesJobs:
		if _, ok := p.current(); !ok {
			return "the list is empty"
		}
	case actions.ServicesSwitch, actions.ServicesFallback:
		row, ok := p.current()
		switch {
		case !ok:
			return "the list is empty"
		case row.Switch.Service == "":
			return "no agent has this service"
		case id == actions.ServicesFallback && (!row.Switch.CanFall || row.Type == jobs.HTTP):
			return "the service has no http fallback (base_url)"
		}
	}
	return ""
}

// current is the open service, else the one under the cursor.
func (p *Page) current() (ops.ServiceRow, bool) {
	if p.detail != nil {
		return p.detail.row, true
	}
	if p.table.Cursor < len(p.feed.Value) {
		return p.feed.Value[p.table.Cursor], true
	}
	return ops.ServiceRow{}, false
}

// Do does one of the page's actions.
func (p *Page) Do(id actions.ID) tea.Cmd {
	row, ok := p.current()
	switch id {
	case actions.ServicesOpen:
		if ok {
			return p.open(row)
		}
	case actions.ServicesBack:
		p.detail = nil
	case actions.ServicesSort:
		p.sort = (p.sort + 1) % len(sorts)
		p.titles()
		p.order()
		p.table.Cursor = 0
	case actions.ServicesJobs:
		if word := ops.FilterWord(row.Service); word != "" {
			return parts.Go(parts.GoMsg{Page: actions.PageJobs, Filter: "service:" + word})
		}
	case actions.ServicesDiff:
		return p.changes()
	case actions.ServicesSwitch:
		if row.Switch.Enabled {
			return p.env.Ask(p.switching(row, jobs.DisableService))
		}
		return p.env.Ask(p.switching(row, jobs.EnableService))
	case actions.ServicesFallback:
		if row.Switch.Fallback {
			return p.env.Ask(p.switching(row, jobs.NoFallback))
		}
		return p.env.Ask(p.switching(row, jobs.FallBack))
	}
	return nil
}

func (p *Page) open(row ops.ServiceRow) tea.Cmd {
	p.turn++
	p.detail = newDetail(p.env, p.source, row, p.turn)
	return p.detail.refresh(p.env.Now)
}

// Update takes an answer, the mouse, or a key that moves the cursor.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[[]ops.ServiceRow]:
		return p.take(msg)
	case parts.Read[ops.ServiceDetail]:
		if p.detail != nil {
			p.detail.take(msg)
		}
	case diffMsg:
		return p.showChanges(msg)
	case parts.GoMsg:
		if msg.Page == actions.PageServices && msg.Service != "" {
			return p.open(ops.ServiceRow{Service: msg.Service})
		}
	case tea.KeyPressMsg:
		if p.detail != nil {
			p.detail.key(msg.String())
		} else {
			p.table.Navigate(msg.String(), len(p.feed.Value))
		}
	case tea.MouseWheelMsg:
		by := map[tea.MouseButton]int{tea.MouseWheelUp: -3, tea.MouseWheelDown: 3}[msg.Button]
		if p.detail != nil {
			p.detail.top += by
		} else {
			p.table.Move(by, len(p.feed.Value))
		}
	case tea.MouseClickMsg:
		if i := p.table.Top + msg.Y - p.above - 1; p.detail == nil && msg.Y > p.above && i < len(p.feed.Value) {
			if i == p.table.Cursor {
				return p.open(p.feed.Value[i])
			}
			p.table.Cursor = i
		}
	}
	return nil
}

// take keeps the cursor on the same service.
func (p *Page) take(msg parts.Read[[]ops.ServiceRow]) tea.Cmd {
	before, had := p.current()
	if !p.feed.Take(msg) {
		return nil
	}
	p.order()
	if had && p.detail == nil {
		if i := slices.IndexFunc(p.feed.Value, func(s ops.ServiceRow) bool { return s.Service == before.Service }); i >= 0 && p.table.Cursor > 0 {
			p.table.Cursor = i
		}
	}
	return nil
}

func (p *Page) order() {
	order := sorts[p.sort].order
	slices.SortStableFunc(p.feed.Value, func(a, b ops.ServiceRow) int {
		return cmp.Or(order(&a, &b), cmp.Compare(a.Service, b.Service))
	})
}

// state is a service's symbol, its word and the style of both.
func state(th *parts.Theme, s *ops.ServiceRow) (symbol, word string, style parts.Style) {
	done := s.Completed + s.Failed
	switch {
	case s.Switch.Service != "" && !s.Switch.Enabled:
		return "○", "off", th.Muted
	case s.Limits.OpenUntil != nil:
		return "✕", "cut off", th.Bad
	case s.Held != "" && s.Waiting > 0:
		return "▲", "held", th.Warn
	case s.Held != "":
		return "○", "off", th.Muted
	case done > 0 && s.Failed*2 >= done:
		return "✕", "failing", th.Bad
	case done > 0 && s.Failed*20 > done:
		return "▲", "errors", th.Warn
	case done == 0 && s.Waiting == 0:
		return "○", "idle", th.Muted
	}
	return "●", "well", th.Good
}

// View draws the page at exactly w × h.
func (p *Page) View(w, h int) string {
	if p.detail != nil {
		return p.detail.view(w, h)
	}
	if !p.feed.Health().Loaded {
		return p.feed.Health().Missing(p.env, "the services", w, h)
	}
	th, list := p.env.Theme, p.feed.Value
	if len(list) == 0 {
		return parts.Center(th, "○ No agent has applied a registry yet.\n\nServices are here as soon as one has.", th.Muted, w, h)
	}
	lines := p.table.Lines(th, w, h, len(list), true, func(i int, c []parts.Cell) { p.cells(&list[i], c) })
	return parts.Block(lines, w, h)
}

func (p *Page) cells(s *ops.ServiceRow, c []parts.Cell) {
	th := p.env.Theme
	symbol, word, style := state(th, s)
	c[0] = parts.Cell{Text: symbol + " " + word, Style: style}
	c[1] = parts.Cell{Text: parts.Clean(s.Service), Style: th.Strong}
	runs, runStyle := runsAs(th, s)
	c[2] = parts.Cell{Text: runs, Style: runStyle}
	c[3] = parts.Cell{Text: parts.Count(s.Waiting, s.Capped), Style: th.Text}
	c[4] = parts.Cell{Text: parts.Count(s.Completed, false), Style: th.Text}
	c[5] = parts.Cell{Text: parts.Count(s.Failed, false), Style: th.Muted}
	c[6] = parts.Cell{Text: parts.Success(s.Completed, s.Failed), Style: th.Text}
	if s.Failed*20 > s.Completed+s.Failed {
		c[5].Style, c[6].Style = th.Warn, th.Warn
	}
	c[7] = parts.Cell{Text: parts.Duration(s.P95), Style: th.Text}
	c[8] = parts.Cell{Text: limits(&s.Limits), Style: th.Muted}
	c[9] = parts.Cell{Text: parts.Clean(s.Held), Style: th.Text}
}

// runsAs is the type that a service's jobs run by now.
func runsAs(th *parts.Theme, s *ops.ServiceRow) (text string, style parts.Style) {
	if s.Switch.Fallback {
		return "→ http", th.Warn
	}
	return string(s.Type), th.Types[string(s.Type)]
}

// limits words what of its limits a service uses, in short.
func limits(l *ops.ServiceLimits) string {
	switch {
	case l.PerMinute > 0:
		return strconv.Itoa(l.SpentMinute) + " of " + strconv.Itoa(l.PerMinute) + "/min"
	case l.PerHour > 0:
		return strconv.Itoa(l.SpentHour) + " of " + strconv.Itoa(l.PerHour) + "/h"
	case l.Concurrency > 0:
		return strconv.Itoa(l.Concurrency) + " at once"
	}
	return "–"
}

// Copy is the line that would permit what was refused last, else the name.
func (p *Page) Copy() (what, text string) {
	row, ok := p.current()
	if !ok {
		return "", ""
	}
	if p.detail != nil {
		for _, v := range p.detail.feed.Value.Violations {
			if v.Permit != "" {
				return "the line that would permit it: " + parts.Clean(v.Permit), v.Permit
			}
		}
	}
	return "the service's name", row.Service
}

// Export writes the list.
func (p *Page) Export() (string, func(context.Context, io.Writer, bool, func(int64)) (int64, error)) {
	list := slices.Clone(p.feed.Value)
	return "services", func(_ context.Context, w io.Writer, asJSON bool, _ func(int64)) (int64, error) {
		sheet, err := parts.NewSheet(w, asJSON, "service", "type", "waiting", "completed_1h", "failed_1h", "violations_1h", "p95_ms", "held")
		if err != nil {
			return 0, err
		}
		for i := range list {
			s := &list[i]
			if err := sheet.Row(s.Service, string(s.Type), strconv.FormatInt(s.Waiting, 10), strconv.FormatInt(s.Completed, 10),
				strconv.FormatInt(s.Failed, 10), strconv.FormatInt(s.Violations, 10), strconv.FormatInt(s.P95.Milliseconds(), 10), s.Held); err != nil {
				return 0, err
			}
		}
		return sheet.End()
	}
}
