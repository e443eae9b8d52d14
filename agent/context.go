package agent

import (
	"context"
	"sync"
	"time"
)

// attemptContext is an attempt's context: a deadline and a cancellation with
// its cause. It behaves as the standard library's does, by being one as soon
// as anybody waits on it; an attempt that never waits pays for no timer. It may
// be ended before it has its deadline, and used from then on.
type attemptContext struct {
	deadline time.Time

	mu     sync.Mutex
	std    context.Context // nil until it is needed
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // the deadline's timer
	cause  error              // of a cancellation before that
}

func (c *attemptContext) standard() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.std == nil {
		cancellable, cancel := context.WithCancelCause(context.Background())
		c.std, c.stop = context.WithDeadline(cancellable, c.deadline)
		c.cancel = cancel
		if c.cause != nil {
			cancel(c.cause)
		}
	}
	return c.std
}

// end stops the attempt with a cause, which the first call decides.
func (c *attemptContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.std != nil {
		c.cancel(cause)
	}
}

// release lets go of the deadline's timer when the attempt is over.
func (c *attemptContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.std != nil {
		c.stop()
		c.cancel(nil)
	}
}

func (c *attemptContext) Deadline() (time.Time, bool) { return c.deadline, true }
func (c *attemptContext) Done() <-chan struct{}       { return c.standard().Done() }
func (c *attemptContext) Value(key any) any           { return c.standard().Value(key) }

func (c *attemptContext) Err() error {
	c.mu.Lock()
	std := c.std
	if std == nil {
		defer c.mu.Unlock()
		switch {
		case c.cause != nil:
			return context.Canceled
		case !time.Now().Before(c.deadline):
			return context.DeadlineExceeded
		}
		return nil
	}
	c.mu.Unlock()
	return std.Err()
}
