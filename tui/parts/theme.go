package parts

import (
	"fmt"
	"image/color"
	"strings"

	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
)

// Style is a set of SGR attributes, ready to print. The zero value prints
// text as it is.
type Style struct{ open string }

// Render prints s, which must not hold escape sequences, in the style.
func (s Style) Render(text string) string {
	if s.open == "" || text == "" {
		return text
	}
	return s.open + text + "\x1b[m"
}

// Write is Render into a builder.
func (s Style) Write(b *strings.Builder, text string) {
	if s.open == "" {
		b.WriteString(text)
		return
	}
	b.WriteString(s.open)
	b.WriteString(text)
	b.WriteString("\x1b[m")
}

// Theme names styles by what they mean. No state is told by a style alone:
// a symbol or a word always stands beside it.
type Theme struct {
	Text, Strong, Muted, Border Style
	Accent, Focus               Style // keys and titles; what has the focus
	Good, Warn, Bad             Style
	Selected                    Style // the row under the cursor
	Bar, BarStrong, Alarm       Style // the top line; where nothing is claimed at all
	Types                       map[string]Style
}

// NewTheme fits a background and what the terminal can show. Below 16 colours,
// as with NO_COLOR, only bold, faint, underline and reverse are used.
func NewTheme(dark bool, profile colorprofile.Profile) *Theme {
	switch {
	case profile != colorprofile.Unknown && profile <= colorprofile.ASCII:
		return plainTheme()
	case profile == colorprofile.ANSI:
		return basicTheme(dark)
	case dark:
		return newTheme(profile, palette{text: 0xd8dee9, strong: 0xf8fafc, muted: 0x8b98a9, border: 0x3d4858,
			accent: 0x7cc4fa, good: 0x86d993, warn: 0xf0c674, bad: 0xff7b85, selected: 0x2b3a4e, bar: 0x1e2733,
			http: 0x7cc4fa, shell: 0x86d993, docker: 0xb9a5f5, serverless: 0xf5b183})
	default:
		return newTheme(profile, palette{text: 0x1f2937, strong: 0x0b1220, muted: 0x5b6675, border: 0xb6bfca,
			accent: 0x0b62ad, good: 0x18703a, warn: 0x8a5800, bad: 0xb3202c, selected: 0xd5e5f5, bar: 0xe6ebf1,
			http: 0x0b62ad, shell: 0x18703a, docker: 0x6940b5, serverless: 0xa04a0a})
	}
}

type palette struct {
	text, strong, muted, border, accent, good, warn, bad, selected, bar, http, shell, docker, serverless int
}

func newTheme(profile colorprofile.Profile, p palette) *Theme {
	colour := func(ground string, c int) string {
		rgb := color.RGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 255}
		if profile == colorprofile.ANSI256 {
			return fmt.Sprintf("%s;5;%d", ground, ansi.Convert256(rgb))
		}
		return fmt.Sprintf("%s;2;%d;%d;%d", ground, rgb.R, rgb.G, rgb.B)
	}
	fg := func(c int) string { return colour("38", c) }
	bg := func(c int) string {
		if profile == colorprofile.ANSI256 { // its colours are too loud to stand behind text, its greys are not
			return fmt.Sprintf("48;5;%d", 232+(c>>16+2*(c>>8&255)+(c&255))/4*24/256)
		}
		return colour("48", c)
	}
	return &Theme{
		Text: sgr(fg(p.text)), Strong: sgr("1", fg(p.strong)), Muted: sgr(fg(p.muted)), Border: sgr(fg(p.border)),
		Accent: sgr(fg(p.accent)), Focus: sgr("1", fg(p.accent)),
		Good: sgr(fg(p.good)), Warn: sgr(fg(p.warn)), Bad: sgr("1", fg(p.bad)),
		Selected: sgr(fg(p.strong), bg(p.selected)),
		Bar:      sgr(fg(p.text), bg(p.bar)), Alarm: sgr("1", fg(0xffffff), colour("48", 0xa51d2a)), BarStrong: sgr("1", fg(p.strong), bg(p.bar)),
		Types: map[string]Style{"http": sgr(fg(p.http)), "shell": sgr(fg(p.shell)), "docker": sgr(fg(p.docker)),
			"serverless": sgr(fg(p.serverless))},
	}
}

// basicTheme leaves text to the terminal's own colours, which fit its
// background, and never paints a background that might swallow the text.
func basicTheme(dark bool) *Theme {
	accent, muted := "36", "2"
	if !dark {
		accent = "34"
	}
	return &Theme{
		Strong: sgr("1"), Muted: sgr(muted), Border: sgr(muted), Accent: sgr(accent), Focus: sgr("1", accent),
		Good: sgr("32"), Warn: sgr("33"), Bad: sgr("1", "31"), Selected: sgr("7"), Bar: sgr("7"), Alarm: sgr("1", "37", "41"), BarStrong: sgr("1", "7"),
		Types: map[string]Style{"http": sgr(accent), "shell": sgr("32"), "docker": sgr("35"), "serverless": sgr("33")},
	}
}

func plainTheme() *Theme {
	return &Theme{
		Strong: sgr("1"), Muted: sgr("2"), Border: sgr("2"), Accent: sgr("1"), Focus: sgr("1"),
		Bad: sgr("1"), Selected: sgr("7"), Bar: sgr("7"), Alarm: sgr("1", "7"), BarStrong: sgr("1", "7"),
	}
}

func sgr(codes ...string) Style { return Style{"\x1b[" + strings.Join(codes, ";") + "m"} }
