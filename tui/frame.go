package tui

import (
	"fmt"
	"strings"
	"time"

	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// draw makes the whole screen at exactly the terminal's size.
func (a *app) draw() string {
	switch {
	case a.w <= 0 || a.h <= 0:
		return ""
	case a.tooSmall():
		return parts.Center(a.env.Theme, fmt.Sprintf("▲ Too small\n%d×%d needed\n%d×%d here", leastWidth, leastHeight, a.w, a.h),
			a.env.Theme.Warn, a.w, a.h)
	}
	head := []string{a.top(), a.tabs()}
	for len(head) < a.headHeight() {
		head = append(head, "")
	}
	var b strings.Builder
	b.WriteString(parts.Block(head, a.w, len(head)))
	b.WriteByte('\n')
	b.WriteString(inset(a.page().View(a.w-2, a.h-len(head)-1)))
	b.WriteByte('\n')
	b.WriteString(parts.Fit(a.bottom(), a.w))
	screen := b.String()
	if own, ok := a.page().(overlayer); ok {
		screen = parts.Over(a.env.Theme, screen, own.Overlay(a.w, a.h))
	}
	switch {
	case a.dialog != nil:
		screen = parts.Over(a.env.Theme, screen, a.dialog.View(a.env.Theme, a.w, a.h-2))
	case a.palette != nil:
		screen = parts.Over(a.env.Theme, screen, a.paletteBox())
	case a.help:
		screen = parts.Over(a.env.Theme, screen, a.helpBox())
	}
	return screen
}

// headHeight is how many lines stand above the page.
func (a *app) headHeight() int {
	if a.h >= 24 {
		return 3
	}
	return 2
}

// inset leaves a blank at both sides of the page.
func inset(body string) string {
	return " " + strings.ReplaceAll(body, "\n", " \n ") + " "
}

// segment is a part of the top line in a long and a short form.
// segment is a part of the top line: what it says where there is room, and what
// it falls back to, each at its place in the order in which segments yield.
type segment struct {
	text   string
	yields []shorter
}

type shorter struct {
	place int
	text  string
}

func (s segment) at(step int) string {
	text := s.text
	for _, y := range s.yields {
		if y.place <= step {
			text = y.text
		}
	}
	return text
}

// The order in which the top line's parts yield where there is no room: what
// tells least about whether it is safe first.
const (
	yieldRole = iota + 1
	yieldServer
	yieldRegistry
	yieldAgents
	yieldStop
	yieldMode
	yieldDatabase
	yieldEnvironment
)

// top is the line that says where one is and whether it is safe.
func (a *app) top() string {
	th := a.env.Theme
	segments := a.segments()
	text := ""
	for step := 0; step <= yieldEnvironment; step++ {
		words := make([]string, len(segments))
		for i, s := range segments {
			words[i] = s.at(step)
		}
		text = " " + strings.Join(words, "  ")
		if parts.Width(text) <= a.w-1 {
			break
		}
	}
	if a.overview.Value.Stopped != "" {
		return th.Alarm.Render(parts.Fit(text, a.w))
	}
	return th.Bar.Render(parts.Fit(text, a.w))
}

func (a *app) segments() []segment {
	v := a.overview.Value
	if a.overview.Good.IsZero() {
		return []segment{{"SpecQL Ops", nil}, {"connecting to the database …", []shorter{{yieldRole, "connecting …"}}}}
	}
	environment := "no environment"
	if len(v.Environments) > 0 {
		environment = parts.Clean(strings.Join(v.Environments, "+"))
	}
	role := parts.Clean(v.Role)
	may := segment{"operator " + role, []shorter{{yieldRole, "operator"}}}
	switch {
	case !v.Migrated: // what is to be done there is to migrate
		may = segment{"role " + role, []shorter{{yieldRole, atMost(role, 12)}}}
	case a.env.ReadOnly != "":
		may = segment{"read-only " + role, []shorter{{yieldRole, "read-only"}}}
	}
	alive := segment{fmt.Sprintf("● %d agents alive", v.AgentsAlive), []shorter{{yieldAgents, fmt.Sprintf("● %d agents", v.AgentsAlive)}}}
	switch v.AgentsAlive {
	case 0:
		alive = segment{"▲ no agent alive", []shorter{{yieldAgents, "▲ 0 agents"}}}
	case 1:
		alive = segment{"● 1 agent alive", []shorter{{yieldAgents, "● 1 agent"}}}
	}
	mode := segment{"http-only", []shorter{{yieldMode, "http"}}}
	switch {
	case !v.Migrated:
		mode = segment{"▲ schema not migrated", []shorter{{yieldMode, "▲ old"}}}
	case v.MultiExecution:
		mode = segment{"multi-execution", []shorter{{yieldMode, "multi"}}}
	}
	database := parts.Clean(v.Database)
	all := []segment{
		{environment, []shorter{{yieldEnvironment, atMost(environment, 12)}}},
		{database + " @ " + parts.Clean(v.Server), []shorter{{yieldServer, database}, {yieldDatabase, atMost(database, 12)}}},
		may, alive, registryVersion(v.RegistryHashes), mode}
	if v.Stopped != "" { // before all else
		all = append([]segment{{"✕ ALL CLAIMING STOPPED: " + parts.Clean(v.Stopped), []shorter{{yieldStop, "✕ ALL CLAIMING STOPPED"}}}}, all...)
	}
	return all
}

// atMost cuts a text that is wider than w.
func atMost(text string, w int) string { return parts.Fit(text, min(parts.Width(text), w)) }

func registryVersion(hashes []string) segment {
	switch len(hashes) {
	case 0:
		return segment{"no registry", nil}
	case 1:
		h := parts.ShortHash(hashes[0])
		return segment{"registry " + h + ", all the same", []shorter{{yieldRegistry, h + " ="}}}
	default:
		return segment{fmt.Sprintf("▲ registry differs: %d versions", len(hashes)), []shorter{{yieldRegistry, fmt.Sprintf("▲ %d versions", len(hashes))}}}
	}
}

// tabs names the pages, and at the right says how fresh this one is.
func (a *app) tabs() string {
	th := a.env.Theme
	text, style := a.freshness()
	left := " "
	for i, e := range a.pages {
		look := th.Muted
		if i == a.at {
			look = th.Focus
		}
		left += look.Render(a.tab(i, e)) + " "
	}
	return left + style.Render(parts.FitRight(text, a.w-parts.Width(left)-1)) + " "
}

// crowded tells whether what the second line says at its right leaves no room
// for the names of all pages: what is wrong matters more.
func (a *app) crowded() bool {
	text, _ := a.freshness()
	w := 2 + parts.Width(text)
	for i, e := range a.pages {
		w += len(a.fullTab(i, e)) + 1
	}
	return w > a.w
}

// tab is a page in the second line; where it is crowded only the one that is
// open has its name.
func (a *app) tab(i int, e entry) string {
	if i != a.at && a.crowded() {
		return " " + a.env.Keymap.First(e.id)
	}
	return a.fullTab(i, e)
}

func (a *app) fullTab(i int, e entry) string {
	key, name := a.env.Keymap.First(e.id), actions.Must(e.id).Title
	if key != "" {
		key += " "
	}
	if i == a.at {
		return "[" + key + name + "]"
	}
	return " " + key + name + " "
}

// staleAfter is how old a page's figures may be before they are called stale.
const staleAfter = 6 * time.Second

func (a *app) freshness() (string, parts.Style) {
	th := a.env.Theme
	health := a.page().Health()
	if h := a.overview.Health(); health.Err == nil && h.Err != nil {
		health.Err, health.Retry = h.Err, h.Retry
	}
	age := parts.Since(a.env.Now, health.Good)
	switch {
	case a.env.Paused:
		return "‖ paused, " + age + " old", th.Warn
	case health.Err != nil && health.Loaded:
		return "▲ stale " + age + ", next try " + parts.Age(max(health.Retry.Sub(a.env.Now), 0)), th.Bad
	case health.Err != nil:
		return "▲ cannot read", th.Bad
	case !health.Loaded:
		return "", th.Muted
	case a.env.Now.Sub(health.Good) > staleAfter:
		return "▲ stale " + age, th.Bad
	}
	return health.Good.UTC().Format("15:04:05 UTC"), th.Muted
}

// hints are the keys of what is on top; bound says that they are actions.
func (a *app) hints() (keys []parts.Key, bound bool) {
	switch {
	case a.dialog != nil:
		return a.dialog.Keys(a.env.Now), false
	case a.palette != nil:
		return []parts.Key{{Keys: "↑↓", Help: "choose"}, {Keys: "enter", Help: "do it"}, {Keys: "esc", Help: "close"}}, false
	case a.page().Capturing():
		return a.page().Hints(), false
	}
	return a.keysOf(a.page().Place()), true
}

// keysOf lists a place's actions with their keys as they are bound.
func (a *app) keysOf(p actions.Place) []parts.Key {
	var out []parts.Key
	for _, act := range actions.Of(p) {
		if a.env.Keymap.First(act.ID) == "" || isPage(act.ID) && a.pageOf(act.ID) < 0 {
			continue
		}
		k := parts.Key{Keys: a.env.Keymap.First(act.ID), Help: act.Title, Disabled: a.disabled(act), Hidden: act.Quiet}
		if act.ID == actions.Pause && a.env.Paused {
			k.Help, k.Hidden = "go on", false
		}
		if act.ID == actions.Undo {
			k.Hidden = a.undo == nil
		}
		out = append(out, k)
	}
	return out
}

// bottom is the keys that work here and now, or what was just answered.
func (a *app) bottom() string {
	th := a.env.Theme
	if a.toast.Text != "" {
		if a.toast.Bad {
			return th.Warn.Render(parts.Fit(" ▲ "+parts.Clean(a.toast.Text), a.w))
		}
		return th.Good.Render(parts.Fit(" ● "+parts.Clean(a.toast.Text), a.w))
	}
	keys, bound := a.hints()
	var frame []parts.Key
	if bound {
		for _, k := range a.keysOf(actions.Everywhere) {
			if !k.Hidden {
				frame = append(frame, k)
			}
		}
	}
	room := a.w - 1
	for _, k := range frame {
		room -= cells(k)
	}
	var b strings.Builder
	b.WriteString(" ")
	for _, k := range keys {
		if k.Hidden || cells(k) > room {
			continue
		}
		room -= cells(k)
		writeKey(&b, th, k)
	}
	for _, k := range frame {
		writeKey(&b, th, k)
	}
	if note := a.env.ReadOnly; note != "" && bound && room > 24 {
		b.WriteString(th.Muted.Render(parts.FitRight("read-only: "+note, room-1)))
	}
	return b.String()
}

func cells(k parts.Key) int { return parts.Width(k.Keys) + 1 + parts.Width(k.Help) + 2 }

func writeKey(b *strings.Builder, th *parts.Theme, k parts.Key) {
	if k.Disabled != "" {
		th.Border.Write(b, k.Keys+" "+k.Help)
	} else {
		th.Accent.Write(b, k.Keys)
		th.Muted.Write(b, " "+k.Help)
	}
	b.WriteString("  ")
}

// helpBox lists every key of the page and of the frame, and why one does
// nothing.
func (a *app) helpBox() []string {
	th := a.env.Theme
	w := min(a.w-4, 92)
	place := a.page().Place()
	var lines []string
	add := func(act actions.Action) {
		keys := a.env.Keymap.Keys(act.ID)
		if keys == "" || isPage(act.ID) && a.pageOf(act.ID) < 0 {
			return
		}
		style, does := th.Text, act.Does
		if reason := a.disabled(act); reason != "" {
			style, does = th.Border, act.Title+" (not here: "+reason+")"
		}
		lines = append(lines, th.Accent.Render(parts.Fit(keys, 15))+style.Render(parts.Fit(does, w-19)))
	}
	for _, act := range actions.Of(place) {
		add(act)
	}
	lines = append(lines, th.Accent.Render(parts.Fit("↑↓ pgup pgdn", 15))+th.Text.Render(parts.Fit("Move the cursor; the mouse works too", w-19)))
	for _, act := range actions.Of(actions.Everywhere) {
		add(act)
	}
	if len(lines) > a.h-4 {
		lines = append(lines[:a.h-5], th.Muted.Render("… and more: see a larger screen, : or docs/keys.md"))
	}
	if len(lines)+4 <= a.h {
		lines = append(lines, th.Muted.Render("● well   ▲ look at it   ✕ bad   ○ off or waiting"))
	}
	return parts.Framed(lines, w, " "+th.Strong.Render("Keys on "+place.Title())+" ", th.Muted.Render(" any key closes "), th.Accent)
}
