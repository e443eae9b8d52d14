package agent

import (
	"sync"
	"sync/atomic"
	"testing"
)

// However long the others take, each attempt begins: here all must be under way
// at the same time before any ends.
func TestAttemptsOfACrewWaitForNoOther(t *testing.T) {
	const n = 500
	var together sync.WaitGroup
	together.Add(n)
	ended := make(chan struct{}, n)
	c := newCrew(func(*attempt) {
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
	c := newCrew(func(at *attempt) {
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
