// Package agents is the console's page of agents: who is alive, what each can
// run, which registry it runs by, and what is wrong with the one under the
// cursor. From here agents are held, drained, resumed and told to reload. It
// does no I/O in Update.
package agents

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// Source is what the page asks.
type Source struct {
	Agents func(ctx context.Context) ([]ops.AgentRow, error)
	Order  func(ctx context.Context, agents []ops.AgentRow, order ops.Order, reason string) (ops.Ordered, error)
	Clock  func() time.Time
}

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[[]ops.AgentRow]
	table  parts.Table
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source,
		feed: parts.Feed[[]ops.AgentRow]{Interval: 2 * time.Second, Clock: source.Clock},
		table: parts.Table{Columns: []parts.Column{
			{Title: "State", Width: 10},
			{Title: "Name", Width: 12, Grow: 3},
			{Title: "Host", Width: 12, Grow: 2, Priority: 4},
			{Title: "Version", Width: 9, Priority: 5},
			{Title: "Environment", Width: 11, Grow: 1, Priority: 6},
			{Title: "Types", Width: 10, Grow: 2, Priority: 3},
			{Title: "Busy", Width: 9, Right: true},
			{Title: "Isolation", Width: 10, Priority: 6},
			{Title: "Registry", Width: 10, Priority: 1},
			{Title: "Seen", Width: 6, Right: true},
			{Title: "Up", Width: 6, Right: true, Priority: 5},
		}}}
}

// Refresh asks for the agents when that is due.
func (p *Page) Refresh() tea.Cmd { return p.feed.Ask(p.env.Now, p.source.Agents) }

// Health tells how fresh the page is.
func (p *Page) Health() parts.Health { return p.feed.Health() }

// News makes a new reading due.
func (p *Page) News() { p.feed.Soon() }

// Capturing is false: nothing is typed here.
func (p *Page) Capturing() bool { return false }

// Hints is nil: no key is captured.
func (p *Page) Hints() []parts.Key { return nil }

// Place is where the page's actions work.
func (p *Page) Place() actions.Place { return actions.Agents }

// Update takes a key or an answer.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[[]ops.AgentRow]:
		p.take(msg)
	case tea.KeyPressMsg:
		p.table.Navigate(msg.String(), len(p.feed.Value))
	case tea.MouseWheelMsg:
		switch msg.Button {
		case tea.MouseWheelUp:
			p.table.Move(-3, len(p.feed.Value))
		case tea.MouseWheelDown:
			p.table.Move(3, len(p.feed.Value))
		}
	case tea.MouseClickMsg:
		if i := p.table.Top + msg.Y - 1; msg.Y > 0 && msg.Y <= p.table.Height && i < len(p.feed.Value) {
			p.table.Cursor = i
		}
	}
	return nil
}

// take keeps the cursor on the same agent.
func (p *Page) take(msg parts.Read[[]ops.AgentRow]) {
	old := p.feed.Value
	if !p.feed.Take(msg) || p.table.Cursor >= len(old) {
		return
	}
	for i := range p.feed.Value {
		if p.feed.Value[i].ID == old[p.table.Cursor].ID {
			p.table.Cursor = i
			return
		}
	}
}

func state(th *parts.Theme, a *ops.AgentRow) (string, parts.Style) {
	switch a.State {
	case "running":
		if a.RegistryError != "" {
			return "▲", th.Warn
		}
		return "●", th.Good
	case "draining", "paused", "drained":
		return "▲", th.Warn
	case "lost":
		return "✕", th.Bad
	default:
		return "○", th.Muted
	}
}

// View draws the page at exactly w × h: the table, and below it the agent
// under the cursor.
func (p *Page) View(w, h int) string {
	if !p.feed.Health().Loaded {
		return p.feed.Health().Missing(p.env, "the agents", w, h)
	}
	th, agents := p.env.Theme, p.feed.Value
	if len(agents) == 0 {
		return parts.Center(th, "○ No agent has registered here yet.\n\nStart one with specql-agent; jobs wait until then.", th.Muted, w, h)
	}
	p.table.Cursor = min(p.table.Cursor, len(agents)-1)
	box := p.panel(&agents[p.table.Cursor], w)
	rows := min(len(agents)+1, max(h-len(box)-1, 4))
	lines := p.table.Lines(th, w, rows, len(agents), true, func(i int, c []parts.Cell) { p.cells(&agents[i], c) })
	if h-rows >= len(box)+1 {
		lines = append(lines, "")
	}
	return parts.Block(append(lines, box...), w, h)
}

func (p *Page) cells(a *ops.AgentRow, c []parts.Cell) {
	th := p.env.Theme
	symbol, style := state(th, a)
	c[0] = parts.Cell{Text: symbol + " " + parts.Clean(a.State), Style: style}
	c[1] = parts.Cell{Text: parts.Clean(a.Name), Style: th.Strong}
	c[2] = parts.Cell{Text: parts.Clean(a.Host), Style: th.Muted}
	c[3] = parts.Cell{Text: parts.Clean(a.Version), Style: th.Muted}
	c[4] = parts.Cell{Text: parts.Clean(a.Environment), Style: th.Text}
	c[5] = parts.Cell{Text: types(a), Style: th.Text}
	c[6] = parts.Cell{Text: strconv.Itoa(a.Running) + "/" + strconv.Itoa(a.Slots), Style: th.Text}
	c[7] = parts.Cell{Text: parts.Clean(a.Isolation), Style: th.Muted}
	c[8] = parts.Cell{Text: parts.ShortHash(a.RegistryHash), Style: th.Accent}
	if a.RegistryError != "" {
		c[8] = parts.Cell{Text: "▲ " + parts.ShortHash(a.RegistryHash), Style: th.Warn}
	}
	c[9] = parts.Cell{Text: parts.Since(p.env.Now, a.HeartbeatAt), Style: th.Muted}
	c[10] = parts.Cell{Text: parts.Since(p.env.Now, a.StartedAt), Style: th.Muted}
}

func types(a *ops.AgentRow) string {
	names := make([]string, len(a.Types))
	for i, t := range a.Types {
		names[i] = string(t)
	}
	return strings.Join(names, " ")
}

func (p *Page) panel(a *ops.AgentRow, w int) []string {
	th := p.env.Theme
	symbol, style := state(th, a)
	inner := w - 4
	var lines []string
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, th.Muted.Render(parts.Fit(name, 11))+th.Text.Render(parts.Fit(value, inner-11)))
		}
	}
	add("Process", fmt.Sprintf("%d on %s, version %s", a.PID, parts.Clean(a.Host), parts.Clean(a.Version)))
	add("Runs", fmt.Sprintf("%s; %d of %d slots busy; shell isolation %s", types(a), a.Running, a.Slots, parts.Clean(a.Isolation)))
	for _, service := range slices.Sorted(maps.Keys(a.Cannot)) {
		add("Cannot run", "▲ "+parts.Clean(service)+": "+parts.Clean(a.Cannot[service]))
	}
	registry := parts.ShortHash(a.RegistryHash)
	if a.Environment != "" {
		registry += " for " + parts.Clean(a.Environment)
	}
	add("Registry", registry)
	for i, l := range parts.Wrap("▲ its file is not applied: "+parts.Clean(a.RegistryError), inner-11) {
		if a.RegistryError == "" || i > 3 {
			break
		}
		lines = append(lines, parts.Fit("", 11)+th.Warn.Render(l))
	}
	add("Seen", parts.Since(p.env.Now, a.HeartbeatAt)+" ago, started "+parts.Since(p.env.Now, a.StartedAt)+" ago")
	return parts.Framed(lines, w, style.Render(" "+symbol+" ")+th.Strong.Render(parts.Clean(a.Name)+" "), style.Render(" "+parts.Clean(a.State)+" "), th.Border)
}
