package services

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// detail is one service in full, as lines to scroll.
type detail struct {
	env    *parts.Env
	source Source
	row    ops.ServiceRow
	feed   parts.Feed[ops.ServiceDetail]
	top    int
	height int
}

func newDetail(env *parts.Env, source Source, row ops.ServiceRow, turn int) *detail {
	d := &detail{env: env, source: source, row: row, feed: parts.Feed[ops.ServiceDetail]{Interval: 2 * time.Second, Clock: source.Clock}}
	d.feed.Begin(turn)
	return d
}

func (d *detail) refresh(now time.Time) tea.Cmd {
	name, ask := d.row.Service, d.source.Service
	return d.feed.Ask(now, func(ctx context.Context) (ops.ServiceDetail, error) { return ask(ctx, name) })
}

func (d *detail) take(msg parts.Read[ops.ServiceDetail]) {
	if d.feed.Take(msg) {
		d.row = msg.Value.ServiceRow
	}
}

func (d *detail) key(key string) {
	switch key {
	case "up", "k":
		d.top--
	case "down", "j":
		d.top++
	case "pgup":
		d.top -= d.height
	case "pgdown", "space":
		d.top += d.height
	case "home", "g":
		d.top = 0
	case "end", "G":
		d.top = 1 << 20
	}
}

func (d *detail) view(w, h int) string {
	th := d.env.Theme
	symbol, word, style := state(th, &d.row)
	head := []string{style.Render(symbol+" "+word) + th.Strong.Render("  "+parts.Clean(d.row.Service)) + th.Types[string(d.row.Type)].Render("  "+string(d.row.Type)), ""}
	if !d.feed.Health().Loaded {
		return parts.Block(head, w, 2) + "\n" + d.feed.Health().Missing(d.env, "the service", w, h-2)
	}
	lines := d.lines(w)
	d.height = max(h-2, 1)
	d.top = min(max(d.top, 0), max(len(lines)-d.height, 0))
	if below := len(lines) - d.top - d.height; below > 0 {
		head[1] = th.Muted.Render(parts.FitRight(fmt.Sprintf("↓ %d more lines", below), w))
	}
	return parts.Block(append(head, lines[d.top:min(d.top+d.height, len(lines))]...), w, h)
}

func (d *detail) lines(w int) (out []string) {
	th, v := d.env.Theme, &d.feed.Value
	pair := func(name, value string, style parts.Style) {
		for i, l := range parts.Wrap(value, w-20) {
			if value == "" {
				return
			}
			if i > 0 {
				name = ""
			}
			out = append(out, th.Muted.Render(parts.Fit("  "+name, 20))+style.Render(l))
		}
	}
	section := func(name string) {
		if len(out) > 0 {
			out = append(out, "")
		}
		out = append(out, th.Accent.Render(name))
	}
	section("Now")
	waiting := parts.Count(v.Waiting, v.Capped)
	if v.Oldest > 0 {
		waiting += ", the oldest for " + parts.Age(v.Oldest)
	}
	pair("Waiting", waiting, th.Text)
	if v.Held != "" {
		pair("Why", "▲ "+parts.Clean(v.Held), th.Warn)
	}
	section("Last hour")
	pair("Finished", parts.Count(v.Completed, false)+", failed "+parts.Count(v.Failed, false)+", success "+parts.Success(v.Completed, v.Failed), th.Text)
	pair("Slowest 5 %", "from "+parts.Duration(v.P95), th.Text)
	if v.MemoryPeakMB != nil {
		pair("Peak memory", parts.Memory(v.MemoryPeakMB), th.Text)
	}
	section("Limits against use")
	d.limits(pair)
	d.registry(section, pair)
	section("Refused by its policy")
	if len(v.Violations) == 0 {
		out = append(out, th.Muted.Render("  ● Nothing was refused among its latest failures."))
	}
	for _, r := range v.Violations {
		pair(parts.Since(d.env.Now, r.At)+" ago", parts.Clean(r.Rule)+": "+parts.Clean(r.Message), th.Text)
		if r.Permit != "" {
			pair("permit it with", parts.Clean(r.Permit), th.Accent)
		}
	}
	return out
}

func (d *detail) limits(pair func(string, string, parts.Style)) {
	th, l := d.env.Theme, &d.feed.Value.Limits
	use := func(spent, bound int) string {
		return fmt.Sprintf("%s of %s, %d %%", parts.Count(int64(spent), false), parts.Count(int64(bound), false), 100*spent/bound)
	}
	style := func(spent, bound int) parts.Style {
		if spent*10 >= bound*9 {
			return th.Warn
		}
		return th.Text
	}
	none := true
	if l.PerMinute > 0 {
		pair("Rate a minute", use(l.SpentMinute, l.PerMinute), style(l.SpentMinute, l.PerMinute))
		none = false
	}
	if l.PerHour > 0 {
		pair("Budget an hour", use(l.SpentHour, l.PerHour), style(l.SpentHour, l.PerHour))
		none = false
	}
	if l.Concurrency > 0 {
		pair("At once", strconv.Itoa(l.Concurrency)+" on each agent", th.Text)
		none = false
	}
	if l.FailuresToCut > 0 {
		text, st := fmt.Sprintf("%d failures in a row of %d that cut it off", l.FailuresNow, l.FailuresToCut), th.Text
		if l.OpenUntil != nil {
			text, st = text+"; cut off until "+l.OpenUntil.UTC().Format("15:04:05")+" UTC", th.Bad
		}
		pair("Circuit", text, st)
		none = false
	}
	if none {
		pair("", "– none but the agents' slots", th.Muted)
	}
}

// registry shows what the newest registry says of the service.
func (d *detail) registry(section func(string), pair func(string, string, parts.Style)) {
	th, v := d.env.Theme, &d.feed.Value
	if v.Registry == nil {
		section("Registry")
		pair("", "▲ no version that agents applied has it", th.Warn)
		return
	}
	s := v.Registry
	section("Registry " + v.Version.Short() + ", applied " + parts.Since(d.env.Now, v.Version.AppliedAt) + " ago")
	pair("Kind", parts.Clean(strings.Trim(s.Kind+", "+s.Category, ", ")), th.Text)
	pair("Operations", parts.Clean(strings.Join(s.Operations, ", ")), th.Text)
	pair("Address", parts.Clean(s.BaseURL), th.Text)
	switch {
	case d.row.Switch.Fallback:
		pair("", "▲ its jobs run over http there, not by "+string(d.row.Type), th.Warn)
	case s.Fallback:
		pair("", "it can fall back to http", th.Muted)
	}
	pair("Commands", parts.Clean(strings.Join(s.Commands, ", ")), th.Text)
	pair("Domains", parts.Clean(strings.Join(s.Domains, ", ")), th.Text)
	pair("Images", parts.Clean(strings.Join(s.Images, ", ")), th.Text)
}
