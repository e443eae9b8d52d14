package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// However long the others take, each attempt begins: here all must be under way
// at the same time before any ends.
func TestAttemptsOfACrewWaitForNoOther(t *testing.T) {
	const n = 500
	var together sync.WaitGroup
	together.Add(n)
	ended := make(chan struct{}, n)
	c := newCrew(n, func(*attempt) {
		together.Done()
		together.Wait()
		ended <- struct{}{}
	})
	defer c.dismiss()
	for range 5 {
		some := make([]*attempt, n/5)
		for i := range some {
			some[i] = &attempt{}
		}
		go c.lead(some, func() {})
	}
	for range n {
		<-ended
	}
}

func TestCrewRunsEachAttemptOnce(t *testing.T) {
	const n = 20_000
	var runs [n]atomic.Int32
	number := map[*attempt]int{}
	var all []*attempt
	for i := range n {
		at := &attempt{}
		all, number[at] = append(all, at), i
	}
	var ended sync.WaitGroup
	ended.Add(n)
	c := newCrew(n, func(at *attempt) {
		runs[number[at]].Add(1)
		ended.Done()
	})
	defer c.dismiss()
	for i := 0; i < n; i += 100 {
		go c.lead(all[i:i+100], func() {})
	}
	ended.Wait()
	for i := range runs {
		if got := runs[i].Load(); got != 1 {
			t.Fatalf("attempt %d ran %d times", i, got)
		}
	}
}

// TestACrewRunsNoMoreThanItHasSlots, while attempts come that were claimed early,
// and its line does not grow with what has gone through it.
func TestACrewRunsNoMoreThanItHasSlots(t *testing.T) {
	const slots, claims, n = 3, 2000, 4
	var now, most atomic.Int32
	begun, goOn := make(chan struct{}), make(chan struct{})
	c := newCrew(slots, func(*attempt) {
		if k := now.Add(1); k > most.Load() {
			most.Store(k)
		}
		begun <- struct{}{}
		<-goOn
		now.Add(-1)
	})
	defer c.dismiss()
	come := func() {
		some := make([]*attempt, n)
		for i := range some {
			some[i] = &attempt{claimed: time.Now().Add(time.Hour)} // it never waits too long
		}
		go c.lead(some, func() {})
	}
	come()
	come() // five more than there are slots
	for range slots {
		<-begun
	}
	for range claims {
		come()
		for range n {
			goOn <- struct{}{}
			<-begun
		}
	}
	if got := c.running(); got != slots || most.Load() > slots {
		t.Errorf("%d run, at most %d at a time, in %d slots", got, most.Load(), slots)
	}
	c.mu.Lock()
	if cap(c.waiting) > 20*n {
		t.Errorf("the line has become %d long for the %d that wait", cap(c.waiting), len(c.waiting)-c.next)
	}
	c.mu.Unlock()
	for range 2*n - slots {
		goOn <- struct{}{}
		<-begun
	}
	for range slots {
		goOn <- struct{}{}
	}
}

// TestAttemptsThatFindNoSlotAreGivenUp: others may have room for their jobs. One
// that has waited just as long begins where a slot is free after all.
func TestAttemptsThatFindNoSlotAreGivenUp(t *testing.T) {
	begun, goOn, givenUp := make(chan *attempt), make(chan struct{}), make(chan *attempt)
	c := newCrew(1, func(at *attempt) {
		if context.Cause(&at.stoppable) == errNoSlot {
			givenUp <- at
			return
		}
		begun <- at
		<-goOn
	})
	defer c.dismiss()
	attempts := make([]*attempt, 3)
	for i := range attempts {
		attempts[i] = &attempt{claimed: time.Now(), stoppable: attemptContext{deadline: time.Now().Add(time.Hour)}}
	}
	go c.lead(attempts, func() {})
	if <-begun != attempts[0] || <-givenUp != attempts[1] || <-givenUp != attempts[2] {
		t.Fatal("not in the order of the claim")
	}
	goOn <- struct{}{}

	free := newCrew(2, func(*attempt) { t.Error("given up although a slot is free") })
	free.busy, free.waiting = 1, []*attempt{{}}
	if free.lapse(); free.take() == nil {
		t.Error("it waits no more")
	}
}
