package jobs

import (
	"bytes"
	"slices"
	"sort"

	"github.com/specql/specql-ops/ops"
)

const (
	readSize = 200  // rows a reading
	keepSize = 1000 // rows kept when the top is on the screen
)

// list is what was read of the jobs, in the order of the list, without gaps from its
// first row to its last.
type list struct {
	rows  []ops.JobRow
	ended bool // the last row is the last that there is
	up    bool // oldest first
}

func cursorOf(r *ops.JobRow) ops.Cursor { return ops.Cursor{CreatedAt: r.CreatedAt, ID: r.ID} }

// later tells whether row comes after c in the list.
func (l *list) later(r *ops.JobRow, c ops.Cursor) bool {
	if !r.CreatedAt.Equal(c.CreatedAt) {
		return r.CreatedAt.Before(c.CreatedAt) != l.up
	}
	order := bytes.Compare(r.ID[:], c.ID[:])
	return order != 0 && order < 0 != l.up
}

// from is the index of the first row after c.
func (l *list) from(c ops.Cursor) int {
	return sort.Search(len(l.rows), func(i int) bool { return l.later(&l.rows[i], c) })
}

// wanted is the cursor after which to read next: the next stretch when the
// cursor nears the list's end, else what is on the screen.
func (l *list) wanted(cursor, top, height int) ops.Cursor {
	n := len(l.rows)
	if l.short(cursor, height) {
		return cursorOf(&l.rows[n-1])
	}
	if top <= 0 || top > n {
		return ops.Cursor{}
	}
	return cursorOf(&l.rows[top-1])
}

// short tells whether the rows end within two screens of the cursor though
// the table goes on.
func (l *list) short(cursor, height int) bool {
	return !l.ended && len(l.rows) > 0 && cursor+2*max(height, 1) >= len(l.rows)
}

// merge puts a reading in the place of the rows that it covers and returns
// where the cursor and the top of the screen then are: on the same jobs, but
// at the very top the newest rows come into view.
func (l *list) merge(s stretch, cursor, top int) (int, int) {
	atTop := cursor == 0
	var on, first ops.Cursor
	if cursor < len(l.rows) {
		on = cursorOf(&l.rows[cursor])
	}
	if top < len(l.rows) {
		first = cursorOf(&l.rows[top])
	}
	lo := 0
	if s.after != (ops.Cursor{}) {
		lo = l.from(s.after)
	}
	hi := len(l.rows)
	whole := len(s.rows) < readSize // it reaches the table's end
	if !whole {
		hi = max(l.from(cursorOf(&s.rows[len(s.rows)-1])), lo)
	}
	if hi == len(l.rows) {
		l.ended = whole
	}
	if hi-lo == len(s.rows) {
		copy(l.rows[lo:hi], s.rows)
	} else {
		l.rows = slices.Replace(l.rows, lo, hi, s.rows...)
	}
	if atTop {
		if len(l.rows) > keepSize {
			l.rows, l.ended = slices.Clip(l.rows[:keepSize]), false
		}
		return 0, 0
	}
	if top == 0 {
		return l.find(on, cursor), 0 // new rows push the cursor's down, while it stays in view
	}
	return l.find(on, cursor), l.find(first, top)
}

// find is where the job at c stands now, or the row that took its place.
func (l *list) find(c ops.Cursor, before int) int {
	if c == (ops.Cursor{}) {
		return min(before, max(len(l.rows)-1, 0))
	}
	i := sort.Search(len(l.rows), func(i int) bool { return l.later(&l.rows[i], c) || cursorOf(&l.rows[i]) == c })
	return min(i, max(len(l.rows)-1, 0))
}
