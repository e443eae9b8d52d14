package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table is the result: a row for each figure, under the benchmark's heading.
type table struct{ rows []row }

// row is one figure. Where it is a ratio, ours and theirs are its two sides.
type row struct {
	heading      string // alone on a line of its own when it is all that is set
	what         string
	ours, theirs string
	value        float64
	show         func(float64) string
	target       target
}

// target is what a figure should be; the zero value asks for nothing.
type target struct {
	sign  string
	limit float64
}

func atLeast(limit float64) target { return target{"≥", limit} }
func atMost(limit float64) target  { return target{"≤", limit} }

// none is the target of a figure that is shown for comparison alone.
var none target

func (t target) missedBy(value float64) bool {
	switch t.sign {
	case "≥":
		return !(value >= t.limit)
	case "≤":
		return !(value <= t.limit)
	}
	return false
}

func (t *table) heading(text string) { t.rows = append(t.rows, row{heading: text}) }

// ratio adds ours divided by theirs.
func (t *table) ratio(what string, ours, theirs float64, unit func(float64) string, goal target) {
	t.rows = append(t.rows, row{what: what, ours: unit(ours), theirs: unit(theirs), value: ours / theirs, show: plain, target: goal})
}

// compare adds the medians of ours and theirs, and the median of the rounds'
// ratios: of what was measured one soon after the other. A machine that is slower
// for some of the rounds, as those are that others share, makes both slower.
func (t *table) compare(what string, r rounds, ours, theirs reading, unit func(float64) string, goal target) {
	t.ratio(what, r.median(ours), r.median(theirs), unit, goal)
	t.rows[len(t.rows)-1].value = r.median(func(round map[string]figures) float64 { return ours(round) / theirs(round) })
}

// figure adds a value that stands for itself.
func (t *table) figure(what string, value float64, unit func(float64) string, goal target) {
	t.rows = append(t.rows, row{what: what, ours: unit(value), value: value, show: unit, target: goal})
}

// missed counts the figures that are not what they should be.
func (t *table) missed() (n int) {
	for _, r := range t.rows {
		if r.target.missedBy(r.value) {
			n++
		}
	}
	return n
}

// write prints the rows in columns: what, our figure, the one that it is held
// against, their ratio, the target and the verdict.
func (t *table) write(w io.Writer) {
	lines := make([][]string, len(t.rows))
	var widths [6]int
	for i, r := range t.rows {
		lines[i] = r.cells()
		for column, text := range lines[i] {
			widths[column] = max(widths[column], utf8.RuneCountInString(text))
		}
	}
	for i, cells := range lines {
		if cells == nil {
			fmt.Fprintf(w, "\n%s\n", t.rows[i].heading)
			continue
		}
		var line strings.Builder
		for column, text := range cells {
			pad := strings.Repeat(" ", widths[column]-utf8.RuneCountInString(text))
			if column == 0 || column == 5 {
				line.WriteString("  " + text + pad)
			} else {
				line.WriteString("  " + pad + text)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

func (r row) cells() []string {
	if r.heading != "" {
		return nil
	}
	cells := []string{r.what, r.ours, r.theirs, "", "", ""}
	if r.theirs != "" {
		cells[3] = r.show(r.value)
	}
	if r.target == none {
		return cells
	}
	cells[4], cells[5] = r.target.sign+" "+r.show(r.target.limit), "OK"
	if r.target.missedBy(r.value) {
		cells[5] = "MISSED"
	}
	return cells
}

// The units that figures are shown in.

func plain(v float64) string        { return fmt.Sprintf("%.2f", v) }
func microseconds(v float64) string { return fmt.Sprintf("%.1f µs", v*1e6) }
func milliseconds(v float64) string { return fmt.Sprintf("%.2f ms", v*1000) }
func mebibytes(v float64) string    { return fmt.Sprintf("%.1f MiB", v) }
func percent(v float64) string      { return fmt.Sprintf("%.2f %%", v) }

func perSecond(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.2f/s", v)
	}
	return thousands(int(v+0.5)) + "/s"
}

// thousands writes a number with its thousands apart.
func thousands(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
