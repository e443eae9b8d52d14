package agent

import "sync"

// crew runs attempts, each beside all others. A goroutine whose attempt has
// ended takes the next one that has not begun, so that many short attempts need
// few goroutines; as long as any has not begun, another goroutine is on its way,
// so that none waits for one that takes long.
type crew struct {
	run func(*attempt)

	mu      sync.Mutex
	waiting []*attempt // in the order in which they were claimed
	next    int        // of waiting
	coming  bool       // a goroutine was started that has not looked yet
}

// start lets the attempts begin.
func (c *crew) start(attempts []*attempt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, attempts...)
	c.call()
}

// call sends for a goroutine when an attempt needs one.
func (c *crew) call() {
	if c.next < len(c.waiting) && !c.coming {
		c.coming = true
		go c.work()
	}
}

func (c *crew) work() {
	c.mu.Lock()
	c.coming = false
	for at := c.take(); at != nil; at = c.take() {
		c.call()
		c.mu.Unlock()
		c.run(at)
		c.mu.Lock()
	}
	c.mu.Unlock()
}

func (c *crew) take() *attempt {
	if c.next == len(c.waiting) {
		clear(c.waiting)
		c.waiting, c.next = c.waiting[:0], 0
		return nil
	}
	c.next++
	return c.waiting[c.next-1]
}
