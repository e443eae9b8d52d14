package tui

import (
	"fmt"
	"strings"
	"time"

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
	if a.h >= 24 {
		head = append(head, "")
	}
	var b strings.Builder
	b.WriteString(parts.Block(head, a.w, len(head)))
	b.WriteByte('\n')
	b.WriteString(inset(a.page().View(a.w-2, a.h-len(head)-1)))
	b.WriteByte('\n')
	b.WriteString(parts.Fit(a.bottom(), a.w))
	screen := b.String()
	if box := a.page().Overlay(a.w, a.h); box != nil {
		screen = parts.Over(a.env.Theme, screen, box)
	}
	if a.help {
		screen = parts.Over(a.env.Theme, screen, a.helpBox())
	}
	return screen
}

// inset leaves a blank at both sides of the page.
func inset(body string) string {
	return " " + strings.ReplaceAll(body, "\n", " \n ") + " "
}

// segment is a part of the top line in a long and a short form.
type segment struct{ long, short string }

// top is the line that says where one is and whether it is safe. What does
// not fit takes its short form, the last first.
func (a *app) top() string {
	th := a.env.Theme
	segments := a.segments()
	short := len(segments)
	join := func() string {
		words := make([]string, 0, len(segments))
		for i, s := range segments {
			text := s.long
			if i >= short {
				text = s.short
			}
			if text != "" {
				words = append(words, text)
			}
		}
		return " " + strings.Join(words, "  ")
	}
	text := join()
	for short > 0 && parts.Width(text) > a.w-1 {
		short--
		text = join()
	}
	return th.Bar.Render(parts.Fit(text, a.w))
}

func (a *app) segments() []segment {
	v := a.overview.Value
	if a.overview.Good.IsZero() {
		return []segment{{"SpecQL Ops", "SpecQL Ops"}, {"connecting to the database …", "connecting …"}}
	}
	environment := "no environment"
	if len(v.Environments) > 0 {
		environment = parts.Clean(strings.Join(v.Environments, "+"))
	}
	role := segment{"operator " + parts.Clean(v.Role), "operator"}
	if a.env.ReadOnly != "" {
		role = segment{"read-only " + parts.Clean(v.Role), "read-only"}
	}
	alive := segment{fmt.Sprintf("● %d agents alive", v.AgentsAlive), fmt.Sprintf("● %d agents", v.AgentsAlive)}
	switch v.AgentsAlive {
	case 0:
		alive = segment{"▲ no agent alive", "▲ 0 agents"}
	case 1:
		alive = segment{"● 1 agent alive", "● 1 agent"}
	}
	mode := segment{"http-only", "http"}
	switch {
	case !v.Migrated:
		mode = segment{"▲ schema not migrated", "▲ old"}
	case v.MultiExecution:
		mode = segment{"multi-execution", "multi"}
	}
	database := parts.Clean(v.Database)
	return []segment{{environment, parts.Fit(environment, min(parts.Width(environment), 12))},
		{database + " @ " + parts.Clean(v.Server), parts.Fit(database, min(parts.Width(database), 12))},
		role, alive, registryVersion(v.RegistryHashes), mode}
}

func registryVersion(hashes []string) segment {
	switch len(hashes) {
	case 0:
		return segment{"no registry", "no registry"}
	case 1:
		h := parts.ShortHash(hashes[0])
		return segment{"registry " + h + ", all the same", h + " ="}
	default:
		return segment{fmt.Sprintf("▲ registry differs: %d versions", len(hashes)), fmt.Sprintf("▲ %d versions", len(hashes))}
	}
}

// tabs names the pages, and at the right says how fresh this one is.
func (a *app) tabs() string {
	th := a.env.Theme
	var b strings.Builder
	b.WriteString(" ")
	for i, e := range a.pages {
		if i == a.at {
			b.WriteString(th.Focus.Render("[" + e.key + " " + e.name + "]"))
		} else {
			b.WriteString(th.Muted.Render(" " + e.key + " " + e.name + " "))
		}
		b.WriteString(" ")
	}
	left := b.String()
	text, style := a.freshness()
	return left + style.Render(parts.FitRight(text, a.w-parts.Width(left)-1)) + " "
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
		return "▲ no database", th.Bad
	case !health.Loaded:
		return "", th.Muted
	case a.env.Now.Sub(health.Good) > staleAfter:
		return "▲ stale " + age, th.Bad
	}
	return health.Good.UTC().Format("15:04:05 UTC"), th.Muted
}

func (a *app) frameKeys() []parts.Key {
	pause := "pause"
	if a.env.Paused {
		pause = "go on"
	}
	return []parts.Key{{Keys: "p", Help: pause}, {Keys: "?", Help: "help"}, {Keys: "q", Help: "quit"}}
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
	var frame []parts.Key
	if !a.page().Capturing() {
		frame = a.frameKeys()
	}
	room := a.w - 1
	for _, k := range frame {
		room -= cells(k)
	}
	var b strings.Builder
	b.WriteString(" ")
	for _, k := range a.page().Keys() {
		if k.Hidden || cells(k) > room {
			continue
		}
		room -= cells(k)
		writeKey(&b, th, k)
	}
	for _, k := range frame {
		writeKey(&b, th, k)
	}
	if note := a.env.ReadOnly; note != "" && !a.page().Capturing() && room > 24 {
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

// helpBox lists every key of the page and the frame, and why one does
// nothing.
func (a *app) helpBox() []string {
	th := a.env.Theme
	w := min(a.w-4, 64)
	var lines []string
	add := func(k parts.Key) {
		style, note := th.Text, ""
		if k.Disabled != "" {
			style, note = th.Border, "  (not here: "+k.Disabled+")"
		}
		lines = append(lines, th.Accent.Render(parts.Fit(k.Keys, 15))+style.Render(parts.Fit(k.Help+note, w-19)))
	}
	for _, k := range a.page().Keys() {
		add(k)
	}
	for _, e := range a.pages {
		add(parts.Key{Keys: e.key, Help: e.name})
	}
	for _, k := range a.frameKeys() {
		add(k)
	}
	if len(lines) > a.h-4 {
		lines = lines[:a.h-4]
	}
	if len(lines)+4 <= a.h {
		lines = append(lines, th.Muted.Render("● well   ▲ look at it   ✕ bad   ○ off or waiting"))
	}
	return parts.Framed(lines, w, " "+th.Strong.Render("Keys on "+a.pages[a.at].name)+" ", th.Muted.Render(" any key closes "), th.Accent)
}
