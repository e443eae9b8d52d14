package agent

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

// showEvery is how often the log of a job that somebody follows is written.
const showEvery = 300 * time.Millisecond

// logs are the logs that somebody follows. A log is in memory until its attempt
// ends; it is written earlier only while somebody asks for it.
type logs struct {
	mu       sync.Mutex
	followed map[jobs.ID]*following
	asked    chan struct{} // capacity 1: somebody asked
}

type following struct {
	until   time.Time
	written int64    // number of the first line that is not in the table
	of      *attempt // whose lines these are
}

func newLogs() *logs {
	return &logs{followed: map[jobs.ID]*following{}, asked: make(chan struct{}, 1)}
}

// end says that an attempt says no more: nobody follows it from now on.
func (l *logs) end(at *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at.silent = true
	if f := l.followed[at.job.ID]; f != nil && f.of == at {
		delete(l.followed, at.job.ID)
	}
}

// follow takes note that somebody wants to see the log of an attempt; nil: of
// none that this agent runs.
func (l *logs) follow(at *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at == nil || at.silent {
		return
	}
	job := at.job.ID
	f := l.followed[job]
	if f == nil || f.of != at {
		f = &following{of: at}
		l.followed[job] = f
	}
	f.until, at.shown = time.Now().Add(jobs.FollowFor), true
	select {
	case l.asked <- struct{}{}:
	default:
	}
}

// due returns what is to be written now; more tells whether anybody follows.
func (l *logs) due(now time.Time) (tails []jobs.AttemptTail, agents []jobs.ID, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, f := range l.followed {
		if now.After(f.until) {
			delete(l.followed, id)
			continue
		}
		tail := tailOf(&f.of.log)
		if next := tail.Dropped + int64(len(tail.Lines)); next > f.written {
			f.written = next
			tails, agents = append(tails, jobs.AttemptTail{Job: f.of.job, Tail: tail}), append(agents, f.of.agent)
		}
	}
	return tails, agents, len(l.followed) > 0
}

// again has all that is followed written anew: the last time failed.
func (l *logs) again() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.followed {
		f.written = 0
	}
}

func tailOf(log *runners.Log) jobs.Tail {
	lines, dropped := log.Tail()
	tail := jobs.Tail{Dropped: dropped, Lines: make([]jobs.LogLine, len(lines))}
	for i, line := range lines {
		tail.Lines[i] = jobs.LogLine{At: line.At, Stream: line.Stream, Text: printable(line.Text)}
	}
	return tail
}

// kept is what stays of an attempt's log. Of a success that wrote nothing but its
// output, or that a request's first try was, nothing does, unless somebody has
// begun to read it.
func (at *attempt) kept(failed bool) *jobs.Tail {
	if !failed && !at.shown && !at.log.Spoke() {
		return nil
	}
	tail := tailOf(&at.log)
	if len(tail.Lines) == 0 {
		return nil
	}
	return &tail
}

// keepLogs writes the logs that somebody follows, by a connection that it has
// only while anybody does.
func (a *Agent) keepLogs(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.logs.asked:
		}
		conn, err := a.connect(ctx, forUpkeep)
		if err == nil {
			err = a.showLogs(ctx, conn)
			conn.Close(context.WithoutCancel(ctx))
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("a log that is followed cannot be written", "error", err)
			a.logs.again()
		}
	}
}

// showLogs writes until nobody follows any more.
func (a *Agent) showLogs(ctx context.Context, conn *pgx.Conn) error {
	tick := time.NewTicker(showEvery)
	defer tick.Stop()
	for {
		tails, agents, more := a.logs.due(time.Now())
		for i := range tails {
			if err := jobs.KeepLogs(ctx, conn, agents[i], tails[i:i+1]); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
