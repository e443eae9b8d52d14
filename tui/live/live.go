// Package live is the console's page of live figures: a card for each
// execution type, the busiest services, and what is held and why. From here a
// type is switched on or off, behind a dialog that shows the plan first.
//
// The page draws what it was given and asks through Source; it does no I/O in
// Update and decides no policy.
package live

import (
	"context"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// Window is what the counts and series of the page look back on.
const Window = 15 * time.Minute

// Source is what the page asks and does.
type Source struct {
	Live   func(ctx context.Context, window time.Duration) (ops.Live, error)
	Plan   func(ctx context.Context, types []jobs.ExecutionType, enable bool) (ops.SwitchPlan, error)
	Switch func(ctx context.Context, types []jobs.ExecutionType, enable, force bool, reason string) ([]jobs.Switch, error)
	Clock  func() time.Time
}

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[ops.Live]
	rates  map[jobs.ExecutionType]*rate

	focus    int // of the cards; -1: none
	scroll   int // first line of the services' table
	services parts.Table
	dialog   *dialog
	serial   int // of dialogs: a late answer to a closed one is dropped
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source, focus: -1, rates: map[jobs.ExecutionType]*rate{},
		feed:     parts.Feed[ops.Live]{Interval: time.Second, Clock: source.Clock},
		services: parts.Table{Columns: serviceColumns()}}
}

// Refresh asks for new figures when they are due.
func (p *Page) Refresh() tea.Cmd {
	p.feed.Interval = p.env.Every(p.busy())
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (ops.Live, error) { return p.source.Live(ctx, Window) })
}

// News makes new figures due.
func (p *Page) News() { p.feed.Soon() }

// busy tells whether jobs wait or run.
func (p *Page) busy() bool {
	return p.feed.Good.IsZero() || slices.ContainsFunc(p.feed.Value.Types, func(t ops.TypeLive) bool { return t.Running > 0 || t.Waiting > 0 })
}

// Health tells how fresh the figures are.
func (p *Page) Health() parts.Health { return p.feed.Health() }

// Capturing tells whether the page's dialog takes every key.
func (p *Page) Capturing() bool { return p.dialog != nil }

// Overlay is the dialog's box, nil when there is none.
func (p *Page) Overlay(w, h int) []string {
	if p.dialog == nil {
		return nil
	}
	return p.dialog.view(p.env.Theme, w, h)
}

// Keys lists the page's bindings as they stand.
func (p *Page) Keys() []parts.Key {
	if p.dialog != nil {
		return p.dialog.keys()
	}
	return []parts.Key{
		{Keys: "t", Help: "switch a type", Disabled: p.env.ReadOnly},
		{Keys: "tab", Help: "focus a card"},
		{Keys: "↑↓", Help: "scroll services"},
		{Keys: "esc", Help: "no focus", Hidden: p.focus < 0},
	}
}

// Update takes a key or an answer.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[ops.Live]:
		if p.feed.Take(msg) {
			p.measure()
		}
	case planMsg:
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.planned(msg, p.env.Now)
		}
	case doneMsg:
		p.feed.Hurry()
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.done(msg)
		}
	case tea.KeyPressMsg:
		if p.dialog != nil {
			return p.dialogKey(msg)
		}
		return p.key(msg.String())
	case tea.PasteMsg:
		if p.dialog != nil {
			p.dialog.paste(msg.Content, p.env.Now)
		}
	case tea.MouseWheelMsg:
		if p.dialog == nil {
			switch msg.Button {
			case tea.MouseWheelUp:
				p.scroll -= 3
			case tea.MouseWheelDown:
				p.scroll += 3
			}
		}
	}
	return nil
}

func (p *Page) key(key string) tea.Cmd {
	n := len(p.feed.Value.Types)
	switch key {
	case "tab":
		p.focus = (p.focus + 2) % (n + 1)
		p.focus--
	case "shift+tab":
		p.focus = (p.focus+1+n)%(n+1) - 1
	case "esc":
		p.focus = -1
	case "up", "k":
		p.scroll--
	case "down", "j":
		p.scroll++
	case "pgup":
		p.scroll -= p.services.Height
	case "pgdown":
		p.scroll += p.services.Height
	case "home", "g":
		p.scroll = 0
	case "end", "G":
		p.scroll = len(p.feed.Value.Services)
	case "t":
		return p.openSwitch()
	}
	return nil
}

func (p *Page) openSwitch() tea.Cmd {
	if p.env.ReadOnly != "" {
		reason := p.env.ReadOnly
		return func() tea.Msg { return parts.ToastMsg{Text: "Types cannot be switched here: " + reason, Bad: true} }
	}
	types := p.feed.Value.Types
	if len(types) == 0 {
		return nil
	}
	p.serial++
	p.dialog = &dialog{serial: p.serial, opened: p.env.Now, stage: choosing}
	for _, t := range types {
		p.dialog.switches = append(p.dialog.switches, t.Switch)
		if p.dialog.switches[len(p.dialog.switches)-1].Type == "" {
			p.dialog.switches[len(p.dialog.switches)-1].Type = t.Type
		}
	}
	if p.focus >= 0 && p.focus < len(types) {
		return p.choose(p.focus)
	}
	return nil
}

// choose asks for the plan that turns a type's switch over.
func (p *Page) choose(i int) tea.Cmd {
	d := p.dialog
	d.choose(i, p.env.Now)
	serial, t, enable, plan := d.serial, d.of, d.enable, p.source.Plan
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), parts.ReadDeadline)
		defer cancel()
		v, err := plan(ctx, []jobs.ExecutionType{t}, enable)
		return planMsg{serial: serial, plan: v, err: err}
	}
}

func (p *Page) dialogKey(msg tea.KeyPressMsg) tea.Cmd {
	d := p.dialog
	switch d.key(msg, p.env.Now) {
	case closes:
		p.dialog = nil
	case chosen:
		return p.choose(d.choice)
	case confirmed:
		serial, t, enable, force, reason, do := d.serial, d.of, d.enable, d.plan.NeedsForce, d.reason.Text(), p.source.Switch
		return func() tea.Msg {
			ctx, cancel := context.WithTimeout(context.Background(), parts.ReadDeadline)
			defer cancel()
			changed, err := do(ctx, []jobs.ExecutionType{t}, enable, force, reason)
			return doneMsg{serial: serial, changed: changed, err: err}
		}
	}
	return nil
}

// rate is a type's jobs per second from one reading of the total to the next,
// smoothed over about three.
type rate struct {
	total int64
	at    time.Time
	value float64
	known bool
}

const smoothing = 0.5

func (p *Page) measure() {
	for _, t := range p.feed.Value.Types {
		r := p.rates[t.Type]
		if r == nil {
			r = &rate{}
			p.rates[t.Type] = r
		}
		r.read(t.Total, t.TotalAt)
	}
}

// read takes one reading. The total covers the last minutes, so it falls when
// a minute leaves it: a pair of readings on both sides of a minute says
// nothing.
func (r *rate) read(total int64, at time.Time) {
	elapsed := at.Sub(r.at).Seconds()
	sameMinute := at.Truncate(time.Minute).Equal(r.at.Truncate(time.Minute))
	if !r.at.IsZero() && sameMinute && elapsed < 0.2 {
		return
	}
	if sameMinute && total >= r.total {
		now := float64(total-r.total) / elapsed
		if !r.known {
			r.value, r.known = now, true
		} else {
			r.value += (now - r.value) * smoothing
		}
	}
	r.total, r.at = total, at
}

// text is the rate, or "–/s" before two readings.
func (p *Page) rateText(t jobs.ExecutionType) string {
	if r := p.rates[t]; r != nil && r.known {
		return parts.Rate(r.value)
	}
	return "–/s"
}
