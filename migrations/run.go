package migrations

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lockKey is the advisory lock of whoever migrates ("sqlmig").
	lockKey = 0x73716c6d6967

	maxTries   = 30
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	turn       = 250 * time.Millisecond // between looks whether the other migration has ended
	look       = 100 * time.Millisecond // between looks at who blocks
	beat       = time.Second            // between reports of a step that is at work
	farewell   = 5 * time.Second        // for letting go of lock and settings
)

// run is one Apply or Down.
type run struct {
	conn    *pgx.Conn
	opts    Options
	began   time.Time
	applied []string
	steps   int
	record  recorder

	mu      sync.Mutex // Progress is told by the steps and by the watch
	blocker string     // last seen
	second  *pgx.Conn  // looks at what conn is doing, and writes the record
}

func newRun(conn *pgx.Conn, opts Options) *run {
	if opts.tries == 0 {
		opts.tries = maxTries
	}
	return &run{conn: conn, opts: opts, began: time.Now(), record: recorder{actor: opts.Actor}}
}

func (r *run) tell(ctx context.Context, p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.record.versions) > 0 && r.sees(ctx) {
		r.record.write(ctx, r.second, p)
	}
	if r.opts.Progress != nil {
		r.opts.Progress(p)
	}
}

// lock makes this the only migration on the database. It asks again and again
// rather than wait inside PostgreSQL: a session that waits there holds a
// snapshot, which an index build of the other migration would wait for.
func (r *run) lock(ctx context.Context) error {
	if err := r.exec(ctx, prepareSQL); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	told := time.Time{}
	for {
		var got bool
		if err := r.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(lockKey)).Scan(&got); err != nil {
			return fmt.Errorf("ask for the migrations' lock: %w", err)
		}
		if got {
			return nil
		}
		if time.Since(told) >= beat {
			told = time.Now()
			who, err := sessions(ctx, r.conn, holderSQL, int64(lockKey))
			if err != nil {
				return err
			}
			theirs, err := Look(ctx, r.conn)
			if err != nil {
				return err
			}
			p := Progress{Elapsed: time.Since(r.began)}
			if theirs.State == AtWork {
				p = theirs.Progress
			}
			p.State, p.Waiting = Watching, "another migration of this database: "+who
			r.tell(ctx, p)
		}
		if err := pause(ctx, turn); err != nil {
			return fmt.Errorf("wait for another migration of this database: %w", err)
		}
	}
}

// prepareSQL keeps a role's own limits from cutting a long step short, and has
// the server notice within a second that this program was killed, so that the
// next one need not wait for the end of what nobody hears any more.
const prepareSQL = `SET statement_timeout = 0; SET lock_timeout = 0; SET specql.lock_tries = '1'; SET client_connection_check_interval = '1s'`

// close records how it ended, lets go of the lock and gives the session its
// own settings back.
func (r *run) close(ctx context.Context, failure error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	alive := !r.conn.IsClosed() // else the server is gone, or we are
	if (alive || r.second != nil) && r.sees(ctx) {
		r.record.end(ctx, r.second, failure)
	}
	if r.second != nil {
		r.second.Close(ctx)
	}
	if r.conn.IsClosed() {
		return // and the lock went with it
	}
	for _, sql := range []string{
		fmt.Sprintf("SELECT pg_advisory_unlock(%d) WHERE EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')", lockKey),
		"RESET statement_timeout; RESET lock_timeout; RESET client_min_messages; RESET specql.lock_tries; RESET client_connection_check_interval",
	} {
		if err := r.exec(ctx, sql); err != nil {
			r.conn.Close(ctx) // rather than hand back a session that still holds the lock
			return
		}
	}
}

func (r *run) exec(ctx context.Context, sql string) error {
	_, err := r.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// step runs one step, again and again while others keep it from its lock.
func (r *run) step(ctx context.Context, m Migration, step Step, p Progress) error {
	began := time.Now()
	tell := func(state StepState, waiting string) {
		p.State, p.Waiting, p.Elapsed = state, waiting, time.Since(began)
		r.tell(ctx, p)
	}
	tell(Running, "")
	wait := firstPause
	for try := 1; ; try++ {
		err := r.watched(ctx, p, step.Work, began, func() error { return r.exec(ctx, step.SQL) })
		if err == nil {
			tell(Done, "")
			return nil
		}
		if !contended(err) || ctx.Err() != nil {
			return err
		}
		who := r.whoBlocked(ctx)
		if try == r.opts.tries {
			return fmt.Errorf("gave up after %d tries, blocked by %s: %w", try, who, err)
		}
		tell(Retrying, who)
		if err := pause(ctx, time.Duration((0.5+rand.Float64())*float64(wait))); err != nil {
			return err
		}
		wait = min(2*wait, longPause)
		if first, ok := m.before(step); ok {
			if err := r.watched(ctx, p, first.Work, began, func() error { return r.exec(ctx, first.SQL) }); err != nil && !contended(err) {
				return err
			}
		}
	}
}

// looking runs what reads the catalog, which waits for whoever holds the
// table for itself alone.
func (r *run) looking(ctx context.Context, do func() error) error {
	return r.watched(ctx, Progress{Step: "look what is there"}, Instant, time.Now(), do)
}

// watched does something on conn while a second session looks who blocks it.
func (r *run) watched(ctx context.Context, p Progress, work Work, began time.Time, do func() error) error {
	watchCtx, cancel := context.WithCancel(ctx)
	r.blocker = ""
	var watch sync.WaitGroup
	stop := make(chan struct{})
	watch.Go(func() { r.watch(watchCtx, stop, p, work, began) })
	err := do()
	close(stop)
	cancel()
	watch.Wait()
	return err
}

// watch reports until stop is closed. It is a comfort only: where a second
// session cannot be had, or is cut off, the migration goes on without.
func (r *run) watch(ctx context.Context, stop <-chan struct{}, p Progress, work Work, began time.Time) {
	var first *Advance
	var firstAt time.Time
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	told := began
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		p.State, p.Waiting = Running, ""
		if r.sees(ctx) {
			pid := int32(r.conn.PgConn().PID())
			who, err := sessions(ctx, r.second, "SELECT unnest(pg_blocking_pids($1::int))", pid)
			if err == nil && who != "" {
				p.State, p.Waiting = Waiting, who
			}
		}
		news := p.Waiting != "" && r.blocker == ""
		if p.Waiting != "" {
			r.blocker = p.Waiting
		}
		if news || time.Since(told) >= beat {
			told = time.Now()
			p.Elapsed = time.Since(began)
			if r.second != nil {
				a := advance(ctx, r.second, int32(r.conn.PgConn().PID()), work)
				if first == nil || first.Unit == "" || a.Done < first.Done {
					first, firstAt = &a, told
				}
				p.Advance = a.since(*first, told.Sub(firstAt))
			}
			select {
			case <-stop:
				return // the step's own report comes next
			default:
				r.tell(ctx, p)
			}
		}
	}
}

// sees opens the second session when it is first needed, or needed again. The
// watch calls it too, while conn is at work: it does not ask how conn is.
func (r *run) sees(ctx context.Context) bool {
	if r.second != nil && !r.second.IsClosed() {
		return true
	}
	conn, err := pgx.ConnectConfig(ctx, r.conn.Config())
	if err != nil {
		return false
	}
	// What it writes must never wait for what the first session has locked.
	if _, err := conn.Exec(ctx, "SET lock_timeout = '100ms'"); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return false
	}
	r.second = conn
	return true
}

// whoBlocked names whom a statement gave way to: seen by the watch, or, where
// that was too slow, whoever holds a lock on the table now.
func (r *run) whoBlocked(ctx context.Context) string {
	if r.blocker != "" {
		return r.blocker
	}
	who, err := sessions(ctx, r.conn, `SELECT l.pid FROM pg_locks l WHERE l.locktype = 'relation' AND l.granted
		AND l.pid <> pg_backend_pid() AND l.relation = (SELECT c.oid FROM pg_class c JOIN pg_namespace n
			ON n.oid = c.relnamespace WHERE n.nspname = 'jobs' AND c.relname = 'tb_job_run')`)
	if err != nil || who == "" {
		return "a session that has ended"
	}
	return who
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
