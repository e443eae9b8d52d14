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

// interleave measures every side once a round, another one first each time and
// in the other direction each time, so that what the machine does meanwhile, and
// what one side leaves to the next, falls on all of them. It returns the medians
// over the rounds, by side.
func (l *lab) interleave(ctx context.Context, what string, rounds int, sides []side) (map[string]figures, error) {
	all := map[string]map[string][]float64{}
	for round := range rounds {
		for i := range sides {
			s := sides[(round+i)%len(sides)]
			if round%2 == 1 {
				s = sides[(round+len(sides)-i)%len(sides)]
			}
			runtime.GC() // nobody's garbage is another one's work
			within, cancel := context.WithTimeout(ctx, longestMeasurement)
			found, err := s.run(within)
			cancel()
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", what, s.name, err)
			}
			l.note("%s, round %d of %d, %s: %s", what, round+1, rounds, s.name, found)
			if all[s.name] == nil {
				all[s.name] = map[string][]float64{}
			}
			for name, v := range found {
				all[s.name][name] = append(all[s.name][name], v)
			}
		}
	}
	medians := map[string]figures{}
	for name, found := range all {
		medians[name] = figures{}
		for figure, values := range found {
			medians[name][figure] = median(values)
		}
	}
	return medians, nil
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
	count atomic.Int64
	all   chan struct{}
}

func newTally(n int) *tally { return &tally{n: int64(n), all: make(chan struct{})} }

func (t *tally) add() {
	if t.count.Add(1) == t.n {
		close(t.all)
	}
}
