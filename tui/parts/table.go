package parts

import "strings"

// Column is one column of a Table. Columns with a lower Priority go first
// when the screen is too narrow; 0 never goes.
type Column struct {
	Title    string
	Width    int // cells; for a growing column its least
	Grow     int // share of the cells left over; 0: none
	Right    bool
	Priority int // 0: always shown; else the highest goes first
}

// Cell is one field of a row, cleaned by whoever makes it.
type Cell struct {
	Text  string
	Style Style
}

// Table shows the rows around its cursor and draws no others, so that a frame
// costs the same with ten rows and with a hundred thousand.
type Table struct {
	Columns []Column
	Cursor  int // index of the row under the cursor
	Top     int // index of the first row on the screen
	Height  int // rows on the screen at the last View; 1 at least

	plan  []int // shown columns
	width []int // their widths
	forW  int
}

// Move moves the cursor by n rows among the given number.
func (t *Table) Move(n, rows int) { t.Cursor = min(max(t.Cursor+n, 0), max(rows-1, 0)) }

// Navigate answers the keys that move a cursor; ok is false for any other.
func (t *Table) Navigate(key string, rows int) (ok bool) {
	switch key {
	case "up", "k":
		t.Move(-1, rows)
	case "down", "j":
		t.Move(1, rows)
	case "pgup", "ctrl+b":
		t.Move(-max(t.Height, 1), rows)
	case "pgdown", "ctrl+f":
		t.Move(max(t.Height, 1), rows)
	case "home", "g":
		t.Cursor = 0
	case "end", "G":
		t.Cursor = max(rows-1, 0)
	default:
		return false
	}
	return true
}

// Lines draws a header and up to h-1 of the rows, w cells wide. cell gives a
// row's fields into the slice it gets, one for each column.
func (t *Table) Lines(th *Theme, w, h, rows int, focused bool, cell func(row int, into []Cell)) []string {
	t.layout(w)
	t.Height = max(h-1, 1)
	t.Cursor = min(max(t.Cursor, 0), max(rows-1, 0))
	t.Top = min(t.Top, t.Cursor, max(rows-t.Height, 0))
	t.Top = max(t.Top, t.Cursor-t.Height+1, 0)
	out := make([]string, 0, h)
	out = append(out, t.header(th))
	cells := make([]Cell, len(t.Columns))
	var b strings.Builder
	for row := t.Top; row < min(t.Top+h-1, rows); row++ {
		clear(cells)
		cell(row, cells)
		b.Reset()
		b.Grow(w * 2)
		selected := focused && row == t.Cursor
		if selected {
			b.WriteString(th.Selected.open)
			b.WriteString("▸ ")
		} else {
			b.WriteString("  ")
		}
		for i, c := range t.plan {
			if i > 0 {
				b.WriteString("  ")
			}
			text := cells[c].Text
			if t.Columns[c].Right {
				text = FitRight(text, t.width[i])
			} else {
				text = Fit(text, t.width[i])
			}
			if selected {
				b.WriteString(text)
			} else {
				cells[c].Style.Write(&b, text)
			}
		}
		if selected && th.Selected.open != "" {
			b.WriteString("\x1b[m")
		}
		out = append(out, b.String())
	}
	return out
}

func (t *Table) header(th *Theme) string {
	var b strings.Builder
	b.WriteString("  ")
	for i, c := range t.plan {
		if i > 0 {
			b.WriteString("  ")
		}
		if t.Columns[c].Right {
			b.WriteString(FitRight(t.Columns[c].Title, t.width[i]))
		} else {
			b.WriteString(Fit(t.Columns[c].Title, t.width[i]))
		}
	}
	return th.Muted.Render(b.String())
}

// layout chooses the columns that fit w and shares out what is left over.
func (t *Table) layout(w int) {
	if t.forW == w && t.plan != nil {
		return
	}
	t.forW = w
	limit := 0
	for _, c := range t.Columns {
		limit = max(limit, c.Priority)
	}
	for ; ; limit-- {
		t.plan, t.width = t.plan[:0], t.width[:0]
		used, grow := 0, 0
		for i, c := range t.Columns {
			if c.Priority <= limit {
				t.plan, t.width = append(t.plan, i), append(t.width, c.Width)
				used += 2 + c.Width
				grow += c.Grow
			}
		}
		if used > w && limit > 0 {
			continue
		}
		left := max(w-used, 0)
		for i, c := range t.plan {
			if g := t.Columns[c].Grow; g > 0 {
				extra := left * g / grow
				t.width[i] += extra
				left -= extra
				grow -= g
			}
		}
		return
	}
}
