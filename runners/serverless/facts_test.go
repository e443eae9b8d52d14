package serverless

import (
	"testing"
	"time"

	"github.com/specql/specql-ops/registry"
)

// TestMemoryReportedOtherwiseCountsUntilItIsFoundSo walks through what a function
// shows and what AWS bills by. An alias of two versions shows one of them.
func TestMemoryReportedOtherwiseCountsUntilItIsFoundSo(t *testing.T) {
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	r := New(Options{Now: func() time.Time { return now }})
	defer r.Close()
	b := r.facts
	s := &registry.Service{Name: "resizer", RunnerConfig: registry.RunnerConfig{FunctionName: "probe", Region: "us-east-1"}}
	e := b.entry(keyOf(s, ""))
	found := func(memoryMB int) {
		e.take(facts{found: memoryMB > 0, memoryMB: memoryMB, why: map[bool]string{false: "no right"}[memoryMB > 0]}, now)
	}
	reported := func(memoryMB int) { b.reported(s, "", memoryMB) }
	expect := func(what string, is, as int, fresh bool) {
		t.Helper()
		if f, ok := b.fresh(e); f.memoryMB != is || f.reportedMB != as || ok != fresh {
			t.Errorf("%s: %d MB found, %d MB reported, fresh %v; want %d, %d, %v", what, f.memoryMB, f.reportedMB, ok, is, as, fresh)
		}
	}
	found(512)
	reported(512)
	expect("as it was found", 512, 0, true)
	reported(1024)
	expect("otherwise", 0, 1024, false)
	found(512)
	expect("it shows the same as before", 512, 1024, true)
	if got, want := r.most(s, ""), r.price(s, "").of(1024, maxInit.Milliseconds()); got != want {
		t.Errorf("it may cost %v, want %v: the larger version may run", got, want)
	}
	reported(1024)
	reported(512)
	expect("both versions run", 512, 1024, true)
	now = now.Add(factsFor)
	found(512)
	expect("some minutes later", 512, 0, true)

	now = now.Add(factsFor)
	found(0)
	expect("a question without an answer", 512, 0, true)
	now = now.Add(trustFor)
	found(0)
	expect("an hour without one", 0, 0, true)
	reported(256)
	reported(128)
	expect("what it runs with, the most of it", 0, 256, true)
	found(128)
	expect("it shows itself again", 128, 256, true)
}
