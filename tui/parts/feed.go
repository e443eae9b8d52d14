package parts

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"
)

// ReadDeadline bounds every question to the database.
const ReadDeadline = 2 * time.Second

const backoffMost = 15 * time.Second

// Read is the answer to one question of a Feed. The app hands it to the page
// that asked.
type Read[T any] struct {
	Value T
	Err   error
	At    time.Time // when the answer came
	Turn  int
}

// Feed keeps one value fresh: it asks again every Interval, waits longer
// after each failure in a row (up to 15 s), never asks twice at a time, and
// keeps the last good value while the database is away.
type Feed[T any] struct {
	Interval time.Duration
	Clock    func() time.Time

	Value T
	Good  time.Time // when Value was read; zero: never
	Err   error     // of the last question; nil: it was answered

	due      time.Time
	failures int
	busy     bool
	turn     int
}

// Reset forgets the value and any question on its way: its answer will be
// dropped.
func (f *Feed[T]) Reset() {
	var zero T
	f.Value, f.Good, f.Err = zero, time.Time{}, nil
	f.Hurry()
}

// Hurry drops a question on its way and makes the next one due at once.
func (f *Feed[T]) Hurry() {
	f.turn++
	f.busy, f.failures, f.due = false, 0, time.Time{}
}

// Soon makes the next question due now, unless one is on its way or the
// database is being waited for.
func (f *Feed[T]) Soon() {
	if !f.busy && f.Err == nil {
		f.due = time.Time{}
	}
}

// Begin gives a new feed its first turn, where several follow each other and
// a late answer to an earlier one must not be taken for its own.
func (f *Feed[T]) Begin(turn int) { f.turn = turn << 20 }

// Ask returns the command that asks, when it is time; else nil. It fits the
// clock's tick: a feed that is due within half a tick is due.
func (f *Feed[T]) Ask(now time.Time, ask func(context.Context) (T, error)) tea.Cmd {
	if f.busy || now.Add(tickSlack).Before(f.due) {
		return nil
	}
	f.busy = true
	f.due = now.Add(f.Interval)
	turn, clock := f.turn, f.Clock
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), ReadDeadline)
		defer cancel()
		v, err := ask(ctx)
		return Read[T]{Value: v, Err: err, At: clock(), Turn: turn}
	}
}

const tickSlack = 300 * time.Millisecond

// Take records an answer. It returns false for one that nobody waits for any
// more, or that is an error; the value is then unchanged.
func (f *Feed[T]) Take(r Read[T]) bool {
	if r.Turn != f.turn {
		return false
	}
	f.busy = false
	f.Err = r.Err
	if r.Err != nil {
		f.due = r.At.Add(min(time.Second<<min(f.failures, 8), backoffMost))
		f.failures++
		return false
	}
	f.failures = 0
	f.Value, f.Good = r.Value, r.At
	return true
}

// Health is how a feed stands, for the stale mark.
type Health struct {
	Loaded bool
	Good   time.Time
	Err    error
	Retry  time.Time // when it asks again after an error
	Busy   bool      // a question is on its way
}

// Health tells how the feed stands.
func (f *Feed[T]) Health() Health {
	return Health{Loaded: !f.Good.IsZero(), Good: f.Good, Err: f.Err, Retry: f.due, Busy: f.busy}
}

// Missing is what stands where a page's figures would, until there are any.
func (h Health) Missing(env *Env, what string, w, hgt int) string {
	if h.Err == nil {
		return Center(env.Theme, "Reading "+what+" …", env.Theme.Muted, w, hgt)
	}
	wait := Age(max(h.Retry.Sub(env.Now), 0))
	return Center(env.Theme, "▲ Cannot read "+what+"\n\n"+Clean(h.Err.Error())+"\n\nNext try: "+wait, env.Theme.Warn, w, hgt)
}
