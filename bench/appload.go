package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/appschema"
)

// arrivalsASecond is how many inserts, and how many claim-and-complete cycles,
// an application begins each second, however long the ones before take.
const arrivalsASecond = 200.0

// appConns bounds the application's sessions, as its pool would.
const appConns = 40

const (
	claimSQL = `UPDATE jobs.tb_job_run SET status = 'running', attempts = attempts + 1, started_at = now(), updated_at = now()
		WHERE id = (SELECT id FROM jobs.tb_job_run WHERE status = 'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING id`
	completeSQL = `SELECT jobs.complete_job_successfully($1, '{"ok": true}')`
)

// waits are what an application's statements took, by phase. A statement counts
// from when it was due, so that those behind a stall count too.
type waits struct {
	mu      sync.Mutex
	current string
	longest map[string]time.Duration
	over    map[string]int
	err     error
}

func (w *waits) phase(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = name
}

func (w *waits) add(took time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	w.longest[w.current] = max(w.longest[w.current], took)
	if took > felt {
		w.over[w.current]++
	}
}

type waitsKey struct{}

// waitsOf are those of the load that ctx runs under.
func waitsOf(ctx context.Context) *waits { return ctx.Value(waitsKey{}).(*waits) }

// underLoad does something while an application works on the database, after
// having watched the application alone. Its statements' waits go to the
// figures, those of before under "usual ".
func underLoad(ctx context.Context, db *database, do func(context.Context, figures) error) (figures, error) {
	w := &waits{longest: map[string]time.Duration{}, over: map[string]int{}}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, waitsKey{}, w), tooLong)
	defer cancel()
	config, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = appConns, appConns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	running, stop := context.WithCancel(ctx)
	var load sync.WaitGroup
	load.Go(func() { steadily(running, w, insert(pool)) })
	load.Go(func() { steadily(running, w, cycle(pool)) })
	w.phase("warm-up ")
	found := figures{}
	if err = sleep(ctx, usualFor/2); err == nil {
		w.phase("usual ")
		if err = sleep(ctx, usualFor); err == nil {
			w.phase("")
			err = do(ctx, found)
		}
	}
	stop()
	load.Wait()
	if err = errors.Join(err, w.err); err != nil {
		return nil, err
	}
	for _, phase := range []string{"usual ", "", "fill ", "down "} {
		found[phase+"longest"] = w.longest[phase].Seconds()
		found[phase+"over"] = float64(w.over[phase])
	}
	return found, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// steadily begins one after the other at a steady rate and waits for the last.
func steadily(ctx context.Context, w *waits, one func(ctx context.Context, w *waits, due time.Time, n int)) {
	var all sync.WaitGroup
	defer all.Wait()
	began := time.Now()
	for n := 0; ; n++ {
		due := began.Add(time.Duration(float64(n) / arrivalsASecond * float64(time.Second)))
		if sleep(ctx, time.Until(due)) != nil {
			return
		}
		all.Go(func() { one(context.WithoutCancel(ctx), w, due, n) })
	}
}

func insert(pool *pgxpool.Pool) func(context.Context, *waits, time.Time, int) {
	prefix := fmt.Sprintf("live-%d-", time.Now().UnixNano())
	return func(ctx context.Context, w *waits, due time.Time, n int) {
		_, err := pool.Exec(ctx, appschema.Insert, prefix+fmt.Sprint(n), "service_1", "run", `{"order": 1}`, nil, nil, "live", "order", "1")
		w.add(time.Since(due), err)
	}
}

func cycle(pool *pgxpool.Pool) func(context.Context, *waits, time.Time, int) {
	return func(ctx context.Context, w *waits, due time.Time, _ int) {
		var id [16]byte
		err := pool.QueryRow(ctx, claimSQL).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) { // another one has taken it
			w.add(time.Since(due), nil)
			return
		}
		w.add(time.Since(due), err)
		if err != nil {
			return
		}
		at := time.Now()
		_, err = pool.Exec(ctx, completeSQL, id)
		w.add(time.Since(at), err)
	}
}
