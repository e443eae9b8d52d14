package parts

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Block makes lines exactly w cells wide and h high: longer ones are cut,
// missing ones are blank.
func Block(lines []string, w, h int) string {
	var b strings.Builder
	b.Grow(h * (w + 32))
	for i := range h {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i < len(lines) {
			b.WriteString(Fit(lines[i], w))
		} else {
			b.WriteString(blanks(w))
		}
	}
	return b.String()
}

// Center is text in the middle of w × h, broken into lines where needed.
func Center(t *Theme, text string, style Style, w, h int) string {
	var body []string
	for _, line := range strings.Split(text, "\n") {
		body = append(body, Wrap(line, max(w-4, 10))...)
	}
	lines := make([]string, max((h-len(body))/2, 0), h)
	for _, line := range body {
		lines = append(lines, blanks((w-Width(line))/2)+style.Render(line))
	}
	return Block(lines, w, h)
}

// Framed is a border around lines with a title in its upper edge and a note
// at that edge's right. It is w cells wide and len(lines)+2 high.
func Framed(lines []string, w int, title, note string, border Style) []string {
	inner := w - 4
	out := make([]string, 0, len(lines)+2)
	edge := max(w-Width(title)-Width(note)-4, 0)
	if note != "" {
		edge -= 2
	}
	top := border.Render("╭─") + title + border.Render(strings.Repeat("─", max(edge, 0)))
	if note != "" {
		top += note + border.Render("──")
	}
	out = append(out, Fit(top+border.Render("─╮"), w))
	left, right := border.Render("│ "), border.Render(" │")
	for _, l := range lines {
		out = append(out, left+Fit(l, inner)+right)
	}
	return append(out, border.Render("╰"+strings.Repeat("─", max(w-2, 0))+"╯"))
}

// Beside joins blocks of equal height with a gap of blanks.
func Beside(gap int, blocks ...[]string) []string {
	var out []string
	for i := range blocks[0] {
		var b strings.Builder
		for n, block := range blocks {
			if n > 0 {
				b.WriteString(blanks(gap))
			}
			b.WriteString(block[i])
		}
		out = append(out, b.String())
	}
	return out
}

// Over lays box over the middle of a screen and fades the rest.
func Over(t *Theme, screen string, box []string) string {
	lines := strings.Split(screen, "\n")
	if len(box) == 0 {
		return screen
	}
	bw := Width(box[0])
	y := max((len(lines)-len(box))/2, 0)
	for i, line := range lines {
		line = ansi.Strip(line)
		if i < y || i >= y+len(box) {
			lines[i] = t.Border.Render(line)
			continue
		}
		w := Width(line)
		x := max((w-bw)/2, 0)
		lines[i] = t.Border.Render(Fit(ansi.Cut(line, 0, x), x)) + box[i-y] + t.Border.Render(Fit(ansi.Cut(line, x+bw, w), w-x-bw))
	}
	return strings.Join(lines, "\n")
}
