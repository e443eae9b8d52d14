package agent

import (
	"sync"
	"time"
)

// crew runs attempts, as many at a time as there are slots, each beside all
// others. A goroutine whose attempt has ended takes the next one that has not
// begun, so that many short attempts need few goroutines; as long as there is a
// slot for one that has not begun, another goroutine is on its way, so that none
// waits for one that takes long.
type crew struct {
	run   func(*attempt)
	slots int
	rest  chan func()   // received from by goroutines at rest
	over  chan struct{} // closed when no goroutine is to rest any more

	mu      sync.Mutex
	waiting []*attempt // in the order in which they were claimed
	next    int        // of waiting
	busy    int        // slots in which attempts run
	lapsing bool       // lapse is to come
	coming  bool       // a goroutine was sent for that has not looked yet
	resting int
}

// mostResting is how many goroutines wait for more to do. One that has worked
// before starts sooner than a new one, whose stack has to grow first: for requests
// that is 3 % of what an agent spends on them.
const mostResting = 64

// forSlot is how long an attempt waits for a slot. Jobs are claimed where slots
// are likely to be free by the time that they come; where that was wrong, others
// may have room for them.
const forSlot = 100 * time.Millisecond

func newCrew(slots int, run func(*attempt)) *crew {
	return &crew{run: run, slots: slots, rest: make(chan func()), over: make(chan struct{})}
}

// dismiss lets the goroutines at rest go, once.
func (c *crew) dismiss() { close(c.over) }

// lead begins the first of the attempts in the caller's goroutine, which saves it
// a switch of them, while others see to the rest and go on with what the caller
// was about. It returns when there is nothing more to run.
func (c *crew) lead(attempts []*attempt, goOn func()) {
	c.do(goOn)
	c.mu.Lock()
	c.queue(attempts)
	c.lapseLater()
	c.work()
}

// queue lines the attempts up behind those that wait.
func (c *crew) queue(attempts []*attempt) {
	if 2*c.next > len(c.waiting) { // the line moves up where it never gets empty
		n := copy(c.waiting, c.waiting[c.next:])
		clear(c.waiting[n:])
		c.waiting, c.next = c.waiting[:n], 0
	}
	c.waiting = append(c.waiting, attempts...)
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
	if c.next < len(c.waiting) && c.busy < c.slots && !c.coming {
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
	for c.busy < c.slots {
		at := c.take()
		if at == nil {
			break
		}
		c.busy++
		c.call()
		c.mu.Unlock()
		c.run(at)
		c.mu.Lock()
		c.busy--
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

// running is how many attempts have begun and not ended.
func (c *crew) running() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy
}

// lapseLater sees to more attempts than there are slots.
func (c *crew) lapseLater() {
	if !c.lapsing && len(c.waiting)-c.next > c.slots-c.busy {
		c.lapsing = true
		time.AfterFunc(forSlot, c.lapse)
	}
}

// lapse gives up the attempts that have waited too long for a slot: run finds
// them stopped.
func (c *crew) lapse() {
	c.mu.Lock()
	c.lapsing = false
	var late []*attempt
	if c.busy >= c.slots { // else one has just come free
		for c.next < len(c.waiting) && time.Since(c.waiting[c.next].claimed) >= forSlot {
			late = append(late, c.take())
		}
	}
	c.lapseLater()
	c.mu.Unlock()
	for _, at := range late {
		at.stoppable.end(errNoSlot)
		c.run(at)
	}
}
