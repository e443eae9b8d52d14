package main

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// longestMeasurement bounds one side's measurement: what takes longer is
// broken, and waiting for it tells nothing.
const longestMeasurement = 5 * time.Minute

// figures are what one measurement found, by name. Rates are per second,
// durations in seconds.
type figures map[string]float64

// side is one of those that are measured in turn.
type side struct {
	name string
	run  func(ctx context.Context) (figures, error)
}

// rounds are what was found in each round, by side.
type rounds []map[string]figures

// interleave measures every side once a round, another one first each time and
// in the other direction each time, so that what the machine does meanwhile, and
// what one side leaves to the next, falls on all of them.
func (l *lab) interleave(ctx context.Context, what string, n int, sides []side) (rounds, error) {
	all := make(rounds, n)
	for round := range all {
		all[round] = map[string]figures{}
		for i := range sides {
			s := sides[inOrder(round, i, len(sides))]
			runtime.GC() // nobody's garbage is another one's work
			within, cancel := context.WithTimeout(ctx, longestMeasurement)
			found, err := s.run(within)
			cancel()
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", what, s.name, err)
			}
			l.note("%s, round %d of %d, %s: %s", what, round+1, n, s.name, found)
			all[round][s.name] = found
		}
	}
	return all, nil
}

// inOrder is which of n comes i-th in a round: another one first each time, and in
// the other direction each time.
func inOrder(round, i, n int) int {
	if round%2 == 1 {
		i = n - i
	}
	return (round + i) % n
}

// of returns the medians of a side's figures over the rounds.
func (r rounds) of(side string) figures {
	medians := figures{}
	for name := range r[0][side] {
		medians[name] = r.median(of(side, name))
	}
	return medians
}

// reading is one value of a round, such as a side's figure.
type reading func(round map[string]figures) float64

func of(side, figure string) reading {
	return func(round map[string]figures) float64 { return round[side][figure] }
}

func (r rounds) median(value reading) float64 {
	values := make([]float64, len(r))
	for i, round := range r {
		values[i] = value(round)
	}
	return median(values)
}

// String lists the figures for the log.
func (f figures) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(f)) {
		unit := milliseconds
		switch {
		case strings.HasPrefix(name, rate):
			unit = perSecond
		case strings.HasPrefix(name, "CPU"):
			unit = microseconds
		}
		parts = append(parts, name+" "+unit(f[name]))
	}
	return strings.Join(parts, ", ")
}

// The names of figures.
const rate = "rate"

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// quantile is the duration below which the fraction q of them lies, in
// seconds.
func quantile(v []time.Duration, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(q*float64(len(s))))].Seconds()
}

// tally closes all when so many have been counted.
type tally struct {
	n     int64
	first time.Time // when the first was counted; to be read when all is closed
	count atomic.Int64
	all   chan struct{}
}

func newTally(n int) *tally { return &tally{n: int64(n), all: make(chan struct{})} }

func (t *tally) add() {
	counted := t.count.Add(1)
	if counted == 1 {
		t.first = time.Now()
	}
	if counted == t.n {
		close(t.all)
	}
}
