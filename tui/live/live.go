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
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// ranges are what the counts and series of the page look back on. Long ones
// are read less often: they change slowly, and reading them costs more.
var ranges = []struct {
	window, every time.Duration
	name          string
}{
	{15 * time.Minute, 0, "15 min"},
	{time.Hour, 5 * time.Second, "1 h"},
	{6 * time.Hour, 15 * time.Second, "6 h"},
	{24 * time.Hour, 30 * time.Second, "24 h"},
}

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

	span     int // of ranges
	zone     zone
	at       [zones]int // the cursor in each zone
	services parts.Table
	drawn    [zones]area
}

// zone is a part of the page that the cursor can be in.
type zone int

const (
	nowhere zone = iota
	onTypes
	onServices
	onHeld
	zones
)

// area is where a zone's lines stand on the page, for the mouse.
type area struct{ x, y, w, h, first, each int }

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source, rates: map[jobs.ExecutionType]*rate{},
		feed:     parts.Feed[ops.Live]{Interval: time.Second, Clock: source.Clock},
		services: parts.Table{Columns: serviceColumns()}}
}

// Refresh asks for new figures when they are due.
func (p *Page) Refresh() tea.Cmd {
	r := ranges[p.span]
	p.feed.Interval = max(p.env.Every(p.busy()), r.every)
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (ops.Live, error) { return p.source.Live(ctx, r.window) })
}

// News makes new figures due.
func (p *Page) News() {
	if ranges[p.span].every == 0 {
		p.feed.Soon()
	}
}

// busy tells whether jobs wait or run.
func (p *Page) busy() bool {
	return p.feed.Good.IsZero() || slices.ContainsFunc(p.feed.Value.Types, func(t ops.TypeLive) bool { return t.Running > 0 || t.Waiting > 0 })
}

// Health tells how fresh the figures are.
func (p *Page) Health() parts.Health { return p.feed.Health() }

// Capturing is false: nothing is typed here.
func (p *Page) Capturing() bool { return false }

// Hints is nil: no key is captured.
func (p *Page) Hints() []parts.Key { return nil }

// Place is where the page's actions work.
func (p *Page) Place() actions.Place { return actions.Live }

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	switch id {
	case actions.LiveOpen:
		if p.zone == nowhere {
			return "put the cursor on something first (tab)"
		}
	case actions.LiveSwitch:
		if len(p.feed.Value.Types) == 0 {
			return "the types are not read yet"
		}
	}
	return ""
}

// Do does one of the page's actions.
func (p *Page) Do(id actions.ID) tea.Cmd {
	switch id {
	case actions.LiveNext:
		p.next(1)
	case actions.LivePrev:
		p.next(-1)
	case actions.LiveLeave:
		p.zone = nowhere
	case actions.LiveRange:
		p.span = (p.span + 1) % len(ranges)
		p.feed.Hurry()
		return p.Refresh()
	case actions.LiveSwitch:
		return p.openSwitch()
	case actions.LiveOpen:
		return p.drill()
	}
	return nil
}

// Update takes an answer, the mouse, or a key that moves the cursor.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[ops.Live]:
		if p.feed.Take(msg) {
			p.measure()
		}
	case tea.KeyPressMsg:
		p.move(msg.String())
	case tea.MouseWheelMsg:
		switch msg.Button {
		case tea.MouseWheelUp:
			p.move("up")
		case tea.MouseWheelDown:
			p.move("down")
		}
	case tea.MouseClickMsg:
		return p.click(msg.X, msg.Y)
	}
	return nil
}

// length is how many things the cursor can be on in a zone.
func (p *Page) length(z zone) int {
	switch z {
	case onTypes:
		return len(p.feed.Value.Types)
	case onServices:
		return len(p.feed.Value.Services)
	case onHeld:
		return len(p.feed.Value.Held)
	}
	return 1
}

// next moves the cursor through the types, then to the services, the held
// lanes, and away.
func (p *Page) next(by int) {
	if p.zone == onTypes {
		if i := p.at[onTypes] + by; i >= 0 && i < p.length(onTypes) {
			p.at[onTypes] = i
			return
		}
	}
	for {
		p.zone = (p.zone + zone(by) + zones) % zones
		if n := p.length(p.zone); n > 0 {
			if p.at[p.zone] = 0; by < 0 && p.zone == onTypes {
				p.at[onTypes] = n - 1
			}
			return
		}
	}
}

func (p *Page) move(key string) {
	by := map[string]int{"up": -1, "k": -1, "left": -1, "down": 1, "j": 1, "right": 1, "pgup": -10, "pgdown": 10, "home": -1 << 20, "g": -1 << 20, "end": 1 << 20, "G": 1 << 20}[key]
	if by == 0 {
		return
	}
	if p.zone == nowhere {
		if p.zone = onServices; p.length(onServices) == 0 {
			p.zone = onTypes
		}
		return
	}
	p.at[p.zone] = min(max(p.at[p.zone]+by, 0), max(p.length(p.zone)-1, 0))
}

// click puts the cursor there, or opens what it is on already.
func (p *Page) click(x, y int) tea.Cmd {
	for z, a := range p.drawn {
		if a.each == 0 || x < a.x || x >= a.x+a.w || y < a.y || y >= a.y+a.h {
			continue
		}
		i := a.first + (y-a.y)/a.each
		if zone(z) == onTypes && a.first < 0 { // cards stand side by side
			i = (x - a.x) * p.length(onTypes) / a.w
		}
		if i >= p.length(zone(z)) {
			return nil
		}
		if p.zone == zone(z) && p.at[z] == i {
			return p.drill()
		}
		p.zone, p.at[z] = zone(z), i
	}
	return nil
}

// drill opens the jobs behind the figures under the cursor.
func (p *Page) drill() tea.Cmd {
	v, i := &p.feed.Value, p.at[p.zone]
	since := " age<" + strings.ReplaceAll(ranges[p.span].name, " min", "m")
	since = strings.ReplaceAll(since, " h", "h")
	words := ""
	switch {
	case i >= p.length(p.zone):
	case p.zone == onTypes:
		words = "type:" + string(v.Types[i].Type) + since
	case p.zone == onServices:
		words = "service:" + ops.FilterWord(v.Services[i].Service) + since
	case p.zone == onHeld:
		words = "service:" + ops.FilterWord(v.Held[i].Service) + " status:pending"
	}
	if words == "" {
		return nil
	}
	return parts.Go(parts.GoMsg{Page: actions.PageJobs, Filter: words})
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
