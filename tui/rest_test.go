package tui

import (
	"context"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

func TestConsoleRestsWhileNothingHappensAndLooksAtOnceWhenSomethingDoes(t *testing.T) {
	f := newFake()
	for i := range f.live.Types {
		f.live.Types[i].Waiting, f.live.Types[i].Running = 0, 0
	}
	f.overview.AgentsRunning = 0
	asked := 0
	source := f.source()
	source.News = make(chan struct{})
	source.Live = func(context.Context, time.Duration) (ops.Live, error) { asked++; return f.live, nil }
	c := &console{t, f, newApp(source, "")}
	c.tick(time.Second)
	asked = 0
	for range 60 {
		c.tick(time.Second)
	}
	if asked < 9 || asked > 11 {
		t.Errorf("asked %d times in a minute of rest, want once in six seconds", asked)
	}

	asked = 0
	news := func() {
		_, cmd := c.app.Update(newsMsg{})
		all := cmd().(tea.BatchMsg)
		for _, each := range all[:len(all)-1] { // the last one waits for the next news
			c.settle(each)
		}
	}
	c.pass(100 * time.Millisecond)
	news()
	if asked != 1 {
		t.Fatalf("asked %d times at the news", asked)
	}
	for range 3 {
		c.tick(time.Second)
	}
	if asked != 4 {
		t.Errorf("asked %d times within three seconds of it, want each second", asked)
	}

	f.live.Types[0].Type, f.live.Types[0].Running = jobs.HTTP, 1
	c.tick(6 * time.Second)
	asked = 0
	for range 10 {
		c.tick(time.Second)
	}
	if asked != 10 {
		t.Errorf("asked %d times in ten seconds while a job runs", asked)
	}
}
