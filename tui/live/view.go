package live

import (
	"fmt"
	"strings"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// View draws the page at exactly w × h: cards side by side where they fit,
// two lines a type on an ordinary terminal, one line on a small one.
func (p *Page) View(w, h int) string {
	if !p.feed.Health().Loaded {
		return p.feed.Health().Missing(p.env, "the live figures", w, h)
	}
	p.drawn = [zones]area{}
	var top []string
	switch {
	case w >= 116 && h >= 28:
		top = p.cards(w, h)
		p.drawn[onTypes] = area{w: w, h: len(top), first: -1, each: 1}
	case w >= 78 && h >= 16:
		top = p.rows(w)
		p.drawn[onTypes] = area{w: w, h: len(top), each: 2}
	default:
		top = p.small(w)
		p.drawn[onTypes] = area{y: 1, w: w, h: len(top) - 1, each: 1}
	}
	rest := h - len(top) - 1
	if rest < 1 {
		return parts.Block(top, w, h)
	}
	lines := append(top, "")
	if w >= 116 {
		right := min(w*2/5, 72)
		left := w - right - 3
		y := len(lines)
		lines = append(lines, parts.Beside(3, pad(p.serviceLines(left, rest, 0, y), left, rest), pad(p.heldLines(right, rest, left+3, y), right, rest))...)
		return parts.Block(lines, w, h)
	}
	// What waits for an operator comes before what is merely busy.
	held := p.heldLines(w, max(rest/2, min(rest, 4)), 0, len(lines))
	lines = append(lines, held...)
	if left := rest - len(held); left >= 4 {
		lines = append(lines, "")
		lines = append(lines, p.serviceLines(w, left-1, 0, len(lines))...)
	}
	return parts.Block(lines, w, h)
}

// state is a type's symbol, its word and the style of both.
func (p *Page) state(t *ops.TypeLive) (symbol, word string, style parts.Style) {
	th := p.env.Theme
	done := t.Completed + t.Failed
	switch {
	case !t.Switch.Enabled:
		return "○", "off", th.Muted
	case done > 0 && t.Failed*2 >= done:
		return "✕", "failing", th.Bad
	case done > 0 && t.Failed*20 > done:
		return "▲", "errors", th.Warn
	default:
		return "●", "on", th.Good
	}
}

func (p *Page) offNote(t *ops.TypeLive) string {
	note := "off for " + parts.Since(p.env.Now, t.Switch.ChangedAt)
	if t.Switch.Reason != "" {
		note += ": " + parts.Clean(t.Switch.Reason)
	}
	if t.Switch.ChangedBy != "" {
		note += " (" + parts.Clean(t.Switch.ChangedBy) + ")"
	}
	return note
}

// fitted draws a series of any length over the whole width: a short one is
// widened, a long one shows the mean of what falls into each cell.
func fitted(series []float64, w, h int) []string {
	n := len(series)
	if n == 0 || n == w || w <= 0 {
		return parts.Spark(series, w, h)
	}
	out := make([]float64, w)
	for x := range out {
		from := x * n / w
		to := max((x+1)*n/w, from+1)
		for _, v := range series[from:to] {
			out[x] += v / float64(to-from)
		}
	}
	return parts.Spark(out, w, h)
}

func (p *Page) cards(w, h int) []string {
	var blocks [][]string
	n := len(p.feed.Value.Types)
	if n == 0 {
		return nil
	}
	cw := (w - (n - 1)) / n
	for i := range p.feed.Value.Types {
		width := cw
		if i < (w-(n-1))%n {
			width++
		}
		blocks = append(blocks, p.card(i, width, h))
	}
	return parts.Beside(1, blocks...)
}

func (p *Page) card(i, w, h int) []string {
	th, t := p.env.Theme, &p.feed.Value.Types[i]
	symbol, word, style := p.state(t)
	inner := w - 4
	line := func(left string, ls parts.Style, right string, rs parts.Style) string {
		return ls.Render(parts.Fit(left, inner-parts.Width(right))) + rs.Render(right)
	}
	high := 2
	if h >= 50 {
		high = 5
	}
	lines := []string{line(p.rateText(t.Type), th.Strong, parts.Success(t.Completed, t.Failed)+" ok", p.successStyle(t))}
	colour := th.Types[string(t.Type)]
	for _, l := range fitted(t.DoneSeries, inner, high) {
		lines = append(lines, colour.Render(l))
	}
	lines = append(lines, th.Muted.Render("done a minute, "+ranges[p.span].name))
	if h >= 50 {
		lines = append(lines, "")
		for _, l := range fitted(t.P95Series, inner, 3) {
			lines = append(lines, th.Muted.Render(l))
		}
		lines = append(lines, th.Muted.Render("p95 a minute"))
	}
	lines = append(lines, "")
	pairs := [][2]string{
		{"p50", parts.Duration(t.P50)}, {"Waiting", parts.Count(t.Waiting, t.WaitingCapped)},
		{"p95", parts.Duration(t.P95)}, {"Oldest", oldest(t)},
		{"p99", parts.Duration(t.P99)}, {"Running", parts.Count(t.Running, false)},
		{"CPU", parts.Percent(t.CPUPercent)}, {"Failed", parts.Count(t.Failed, false)},
		{"Mem", parts.Memory(t.MemoryMB)}, {"Refused", parts.Count(t.Violations, false)},
		{"Peak", parts.Memory(t.PeakMemoryMB)}, {"Done", parts.Count(t.Completed, false)},
	}
	half := (inner - 2) / 2
	for n := 0; n < len(pairs); n += 2 {
		l, r := pairs[n], pairs[n+1]
		lw := min(half, 11)
		if inner >= 40 {
			lw = half - 2
		}
		rw := inner - lw - 2
		lines = append(lines, th.Muted.Render(l[0])+th.Text.Render(parts.FitRight(l[1], lw-len(l[0])))+"  "+
			th.Muted.Render(r[0])+p.waitStyle(t, r[0]).Render(parts.FitRight(r[1], rw-len(r[0]))))
	}
	note := ""
	if !t.Switch.Enabled {
		note = p.offNote(t)
	}
	lines = append(lines, th.Warn.Render(parts.Fit(note, inner)))
	border, title := th.Border, style.Render(" "+symbol+" ")+th.Strong.Render(string(t.Type)+" ")
	if p.on(onTypes, i) {
		border, title = th.Focus, style.Render(" "+symbol+" ")+th.Focus.Render("▸"+string(t.Type)+" ")
	}
	return parts.Framed(lines, w, title, style.Render(" "+word+" "), border)
}

func oldest(t *ops.TypeLive) string {
	if t.Oldest <= 0 {
		return "–"
	}
	return parts.Age(t.Oldest)
}

func (p *Page) successStyle(t *ops.TypeLive) parts.Style {
	_, _, style := p.state(t)
	if !t.Switch.Enabled || t.Completed+t.Failed == 0 {
		return p.env.Theme.Muted
	}
	return style
}

func (p *Page) waitStyle(t *ops.TypeLive, label string) parts.Style {
	if label == "Refused" && t.Violations > 0 {
		return p.env.Theme.Warn
	}
	return p.env.Theme.Text
}

func (p *Page) marker(i int) string {
	if p.on(onTypes, i) {
		return p.env.Theme.Focus.Render("▸ ")
	}
	return "  "
}

func (p *Page) rows(w int) []string {
	th := p.env.Theme
	var out []string
	for i := range p.feed.Value.Types {
		t := &p.feed.Value.Types[i]
		symbol, word, style := p.state(t)
		pct := func(name string, v string) string {
			return th.Muted.Render("  "+name+" ") + th.Text.Render(parts.FitRight(v, 6))
		}
		first := p.marker(i) + style.Render(symbol+" ") + th.Strong.Render(parts.Fit(string(t.Type), 11)) +
			th.Strong.Render(parts.FitRight(p.rateText(t.Type), 8)) +
			p.successStyle(t).Render(parts.FitRight(parts.Success(t.Completed, t.Failed), 9)) +
			pct("p50", parts.Duration(t.P50)) + pct("p95", parts.Duration(t.P95)) + pct("p99", parts.Duration(t.P99)) + "  "
		room := w - parts.Width(first)
		first += th.Types[string(t.Type)].Render(fitted(t.DoneSeries, room, 1)[0])
		waiting := parts.Count(t.Waiting, t.WaitingCapped)
		if t.Oldest > 0 {
			waiting += " (" + parts.Age(t.Oldest) + ")"
		}
		second := "    " + style.Render(parts.Fit(word, 11))
		if t.Switch.Enabled {
			second += label(th, "waiting", waiting, 16) + label(th, "running", parts.Count(t.Running, false), 4) +
				label(th, "CPU", parts.Percent(t.CPUPercent), 5) + label(th, "mem", parts.Memory(t.MemoryMB), 6)
		} else {
			second += label(th, "waiting", waiting, 16) + th.Warn.Render(p.offNote(t))
		}
		out = append(out, first, parts.Fit(second, w))
	}
	return out
}

func label(th *parts.Theme, name, value string, w int) string {
	return th.Muted.Render(name+" ") + th.Text.Render(parts.Fit(value, w)) + "  "
}

func (p *Page) small(w int) []string {
	th := p.env.Theme
	table := parts.Table{Columns: []parts.Column{{Title: "Type", Width: 12}, {Title: "Rate", Width: 6, Right: true},
		{Title: "Success", Width: 7, Right: true}, {Title: "p95", Width: 6, Right: true},
		{Title: "Waiting", Width: 8, Right: true, Grow: 1}, {Title: "Running", Width: 7, Right: true}}}
	types := p.feed.Value.Types
	table.Cursor = p.at[onTypes]
	return table.Lines(th, w, len(types)+1, len(types), p.zone == onTypes, func(i int, c []parts.Cell) {
		t := &types[i]
		symbol, _, style := p.state(t)
		c[0] = parts.Cell{Text: symbol + " " + string(t.Type), Style: style}
		c[1] = parts.Cell{Text: p.rateText(t.Type), Style: th.Strong}
		c[2] = parts.Cell{Text: parts.Success(t.Completed, t.Failed), Style: p.successStyle(t)}
		c[3] = parts.Cell{Text: parts.Duration(t.P95), Style: th.Text}
		c[4] = parts.Cell{Text: parts.Count(t.Waiting, t.WaitingCapped), Style: th.Text}
		c[5] = parts.Cell{Text: parts.Count(t.Running, false), Style: th.Text}
	})
}

func serviceColumns() []parts.Column {
	return []parts.Column{{Title: "Service", Width: 14, Grow: 3}, {Title: "Operation", Width: 10, Grow: 3, Priority: 2},
		{Title: "Type", Width: 10, Priority: 1}, {Title: "Done", Width: 7, Right: true}, {Title: "Failed", Width: 6, Right: true},
		{Title: "Success", Width: 7, Right: true}, {Title: "p50", Width: 6, Right: true, Priority: 3}, {Title: "p95", Width: 6, Right: true}}
}

// on tells whether the cursor stands there.
func (p *Page) on(z zone, i int) bool { return p.zone == z && p.at[z] == i }

func (p *Page) serviceLines(w, h, x, y int) []string {
	th, services := p.env.Theme, p.feed.Value.Services
	head := heading(th, "Services, last "+ranges[p.span].name, len(services))
	if len(services) == 0 {
		return []string{head, th.Muted.Render("  Nothing finished in this time.")}
	}
	p.at[onServices] = min(p.at[onServices], len(services)-1)
	p.services.Cursor = p.at[onServices]
	defer func() { p.drawn[onServices] = area{x: x, y: y + 2, w: w, h: h - 2, first: p.services.Top, each: 1} }()
	return append([]string{head}, p.services.Lines(th, w, h-1, len(services), p.zone == onServices, func(i int, c []parts.Cell) {
		s := &services[i]
		c[0] = parts.Cell{Text: parts.Clean(s.Service), Style: th.Text}
		c[1] = parts.Cell{Text: parts.Clean(s.Operation), Style: th.Muted}
		c[2] = parts.Cell{Text: string(s.Type), Style: th.Types[string(s.Type)]}
		c[3] = parts.Cell{Text: parts.Count(s.Completed, false), Style: th.Text}
		c[4] = parts.Cell{Text: parts.Count(s.Failed, false), Style: th.Muted}
		c[5] = parts.Cell{Text: parts.Success(s.Completed, s.Failed), Style: th.Text}
		if s.Failed*20 > s.Completed+s.Failed {
			c[4].Style, c[5].Style = th.Warn, th.Warn
		}
		c[6] = parts.Cell{Text: parts.Duration(s.P50), Style: th.Muted}
		c[7] = parts.Cell{Text: parts.Duration(s.P95), Style: th.Text}
	})...)
}

// heldLines lists what is held: a line or, on a narrow page, its name and the
// reason below it. The cursor is kept in view.
func (p *Page) heldLines(w, h, x, y int) []string {
	th, held := p.env.Theme, p.feed.Value.Held
	lines := []string{heading(th, "Held: services that wait, and why", len(held))}
	if len(held) == 0 {
		return append(lines, th.Muted.Render("  ● Nothing is held."))
	}
	p.at[onHeld] = min(p.at[onHeld], len(held)-1)
	each := 2
	if w >= 100 || w >= 60 && h < 2*len(held)+1 {
		each = 1
	}
	room := max((h-1)/each, 1)
	if len(held) > room {
		room = max((h-2)/each, 1)
	}
	first := 0
	if p.zone == onHeld {
		first = max(0, p.at[onHeld]-room+1)
	}
	for i := first; i < min(first+room, len(held)); i++ {
		hd := held[i]
		count := parts.Count(hd.Waiting, hd.Capped)
		mark := th.Warn.Render("  ▲ ")
		if p.on(onHeld, i) {
			mark = th.Focus.Render("▸ ") + th.Warn.Render("▲ ")
		}
		if each == 1 {
			lines = append(lines, mark+th.Text.Render(parts.Fit(parts.Clean(hd.Service), min(max(w/5, 14), 28)))+
				th.Muted.Render(parts.FitRight(count, 9)+"  ")+th.Text.Render(parts.Clean(hd.Reason)))
			continue
		}
		count += " waiting"
		lines = append(lines, mark+th.Text.Render(parts.Fit(parts.Clean(hd.Service), w-4-parts.Width(count)-1))+" "+th.Muted.Render(count),
			th.Muted.Render("    "+parts.Fit(parts.Clean(hd.Reason), w-4)))
	}
	p.drawn[onHeld] = area{x: x, y: y + 1, w: w, h: len(lines) - 1, first: first, each: each}
	if more := len(held) - min(first+room, len(held)); more > 0 && len(lines) < h {
		lines = append(lines, th.Muted.Render(fmt.Sprintf("  … and %d more held services", more)))
	}
	return lines[:min(len(lines), h)]
}

func heading(th *parts.Theme, text string, n int) string {
	return th.Accent.Render(text) + th.Muted.Render(fmt.Sprintf("  %d", n))
}

func pad(lines []string, w, h int) []string {
	return strings.Split(parts.Block(lines, w, h), "\n")
}
