package agent

import "sync"

// crew runs attempts, each beside all others. A goroutine whose attempt has
// ended takes the next one that has not begun, so that many short attempts need
// few goroutines; as long as any has not begun, another goroutine is on its way,
// so that none waits for one that takes long.
type crew struct {
	run  func(*attempt)
	rest chan func()   // received from by goroutines at rest
	over chan struct{} // closed when no goroutine is to rest any more

	mu      sync.Mutex
	waiting []*attempt // in the order in which they were claimed
	next    int        // of waiting
	coming  bool       // a goroutine was sent for that has not looked yet
	resting int
}

// mostResting is how many goroutines wait for more to do. One that has worked
// before starts sooner than a new one, whose stack has to grow first: for requests
// that is 3 % of what an agent spends on them.
const mostResting = 64

func newCrew(run func(*attempt)) *crew {
	return &crew{run: run, rest: make(chan func()), over: make(chan struct{})}
}

// dismiss lets the goroutines at rest go, once.
func (c *crew) dismiss() { close(c.over) }

// lead begins the first of the attempts in the caller's goroutine, which saves it
// a switch of them, while others see to the rest and go on with what the caller
// was about. It returns when there is nothing more to run.
func (c *crew) lead(attempts []*attempt, goOn func()) {
	c.do(goOn)
	c.mu.Lock()
	c.waiting = append(c.waiting, attempts...)
	c.work()
}

// do has a goroutine do something.
func (c *crew) do(something func()) {
	select {
	case c.rest <- something:
	default:
		go c.serve(something)
	}
}

func (c *crew) serve(something func()) {
	for something != nil {
		something()
		something = c.wait()
	}
}

// wait rests until there is something to do; nil: the goroutine is to go.
func (c *crew) wait() (something func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resting == mostResting {
		return nil
	}
	c.resting++
	c.mu.Unlock()
	select {
	case something = <-c.rest:
	case <-c.over:
	}
	c.mu.Lock()
	c.resting--
	return something
}

// call sends for a goroutine when an attempt needs one.
func (c *crew) call() {
	if c.next < len(c.waiting) && !c.coming {
		c.coming = true
		c.do(c.arrive)
	}
}

func (c *crew) arrive() {
	c.mu.Lock()
	c.coming = false
	c.work()
}

// work runs attempts that have not begun until there are none, and unlocks c.
func (c *crew) work() {
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
