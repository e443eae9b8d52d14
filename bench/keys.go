package main

import (
	"context"
	"errors"
	"time"
)

const (
	keyPresses = 400
	keyRest    = 25 * time.Millisecond // between two of them: faster than anybody types
)

// keys measures how long the console takes from a key to the first bytes of what
// it changes, through a pseudo-terminal of 200 columns and 60 rows, on the list
// of jobs, beside a table of finished ones. The list is read again meanwhile, as
// always.
func keys(ctx context.Context, l *lab) error {
	built, err := buildPrograms(ctx)
	if err != nil {
		return err
	}
	defer built.remove()
	from, err := l.finishedTemplate(ctx, l.sizes.finished[0])
	if err != nil {
		return err
	}
	found, err := l.interleave(ctx, "keys", 1, []side{{"console", func(ctx context.Context) (figures, error) {
		return l.onCopy(ctx, from, func(db *database) (figures, error) { return built.pressed(ctx, db) })
	}}})
	if err != nil {
		return err
	}
	l.table.heading("Console: from a key to what it writes, at 200×60")
	l.table.figure(p50, found.of("console")[p50], milliseconds, none)
	l.table.figure(p95, found.of("console")[p95], milliseconds, atMost(0.02))
	return nil
}

// pressed moves the cursor of the list of jobs down and up.
func (p programs) pressed(ctx context.Context, db *database) (found figures, err error) {
	terminal, _, stop, err := p.open(ctx, db.url, 200, 60)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := terminal.Type("3"); err != nil {
		return nil, err
	}
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := terminal.Expect(soon, "1 of "); err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range warmUp + keyPresses {
		time.Sleep(keyRest)
		key := "j"
		if i/20%2 == 1 {
			key = "k"
		}
		at := time.Now()
		if err := terminal.Type(key); err != nil {
			return nil, err
		}
		wrote, err := terminal.Wrote(ctx, at)
		if err != nil {
			return nil, err
		}
		if i >= warmUp {
			took = append(took, wrote.Sub(at))
		}
	}
	return figures{p50: quantile(took, 0.5), p95: quantile(took, 0.95)}, nil
}
