package tui

import (
	"sort"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// palette finds any action by its words.
type palette struct {
	field parts.Field
	all   []actions.Action
	found []actions.Action
	at    int
}

// newPalette lists the page's own actions first, then what works everywhere.
func newPalette(a *app) *palette {
	p := &palette{}
	for _, place := range []actions.Place{a.page().Place(), actions.Everywhere} {
		for _, act := range actions.Of(place) {
			if !act.Moves && (!isPage(act.ID) || a.pageOf(act.ID) >= 0) {
				p.all = append(p.all, act)
			}
		}
	}
	p.find()
	return p
}

// find ranks the actions by what was typed: every letter must come in order,
// and letters that follow each other or begin a word count more.
func (p *palette) find() {
	type hit struct {
		action actions.Action
		score  int
	}
	var hits []hit
	want := strings.ToLower(strings.TrimSpace(p.field.Text()))
	for _, act := range p.all {
		best := max(2*fuzzy(want, strings.ToLower(act.Title)), fuzzy(want, strings.ToLower(act.Does)), fuzzy(want, string(act.ID)))
		if best > 0 || want == "" {
			hits = append(hits, hit{act, best})
		}
	}
	sort.SliceStable(hits, func(i, j int) bool { return hits[i].score > hits[j].score })
	p.found = p.found[:0]
	for _, h := range hits {
		p.found = append(p.found, h.action)
	}
	p.at = 0
}

func fuzzy(want, text string) (score int) {
	if i := strings.Index(text, want); i >= 0 {
		if i == 0 || text[i-1] == ' ' || text[i-1] == '.' {
			return 100 + len(want)
		}
		return 50 + len(want)
	}
	last, at := -2, 0
	for _, r := range want {
		i := strings.IndexRune(text[at:], r)
		if i < 0 {
			return 0
		}
		if at+i == last+1 {
			score += 2
		}
		last = at + i
		at = last + 1
	}
	return max(score, 1)
}

func (a *app) paletteKey(msg tea.KeyPressMsg) tea.Cmd {
	p := a.palette
	switch name := msg.String(); name {
	case "esc":
		a.palette = nil
	case "up", "shift+tab":
		p.at = max(p.at-1, 0)
	case "down", "tab":
		p.at = min(p.at+1, max(len(p.found)-1, 0))
	case "enter":
		a.palette = nil
		if p.at < len(p.found) {
			return a.do(p.found[p.at])
		}
	default:
		if p.field.Key(name, msg.Text) {
			p.find()
		}
	}
	return nil
}

func (a *app) paletteBox() []string {
	th, p := a.env.Theme, a.palette
	w := min(a.w-4, 84)
	inner := w - 4
	lines := []string{th.Focus.Render(": ") + p.field.View(th, inner-2, true), ""}
	most := min(a.h-8, 16)
	from := max(0, min(p.at-most/2, len(p.found)-most))
	for i := from; i < min(from+most, len(p.found)); i++ {
		act := p.found[i]
		reason := a.disabled(act)
		key, does := parts.Fit(a.env.Keymap.First(act.ID), 9), act.Does
		if reason != "" {
			does = "not here: " + reason
		}
		text := parts.Fit(act.Title, 15) + " " + parts.Fit(does, inner-28)
		switch {
		case i == p.at:
			lines = append(lines, th.Selected.Render("▸ "+key+" "+text))
		case reason != "":
			lines = append(lines, th.Border.Render("  "+key+" "+text))
		default:
			lines = append(lines, "  "+th.Accent.Render(key)+" "+th.Text.Render(text))
		}
	}
	if len(p.found) == 0 {
		lines = append(lines, th.Muted.Render("No action has these letters."))
	}
	for len(lines) < min(most, len(p.all))+2 {
		lines = append(lines, "")
	}
	return parts.Framed(lines, w, " "+th.Strong.Render("Actions")+" ", th.Muted.Render(" enter does it · esc "), th.Accent)
}
