package parts

import "strings"

var eighths = []rune(" ▁▂▃▄▅▆▇█")

// Spark draws the newest values as bars, w cells wide and h lines high, the
// newest at the right. Every value above zero shows at least an eighth of a
// cell, so that "little" never looks like "nothing". Its scale starts at zero.
func Spark(values []float64, w, h int) []string {
	lines := make([]string, h)
	if w <= 0 || h <= 0 {
		return lines
	}
	if len(values) > w {
		values = values[len(values)-w:]
	}
	top := 0.0
	for _, v := range values {
		top = max(top, v)
	}
	for row := range h {
		var b strings.Builder
		b.WriteString(blanks(w - len(values)))
		floor := (h - 1 - row) * 8
		for _, v := range values {
			level := 0
			if v > 0 && top > 0 {
				level = max(1, int(v/top*float64(h*8)+0.5))
			}
			b.WriteRune(eighths[min(max(level-floor, 0), 8)])
		}
		lines[row] = b.String()
	}
	return lines
}
