package tui

import (
	"context"
	"slices"
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

// shows counts the drawings of a screen.
type shows struct {
	screen
	n int
}

func (s *shows) Show(string, int) { s.n++ }

// deliver has the app take a message and draws, as Bubble Tea does.
func (c *console) deliver(msg tea.Msg) tea.Cmd {
	_, cmd := c.app.Update(msg)
	c.app.View()
	return cmd
}

func TestAtRestOneLookDrawsTheScreenOnce(t *testing.T) {
	f := newFake()
	for i := range f.live.Types {
		f.live.Types[i].Waiting, f.live.Types[i].Running = 0, 0
	}
	f.overview.AgentsRunning = 0
	source := f.source()
	source.News = make(chan struct{})
	c := &console{t, f, newApp(source, "")}
	drawn := &shows{}
	c.app.term = drawn
	c.tick(time.Second)
	look := func() (draws []int) {
		c.pass(6 * time.Second)
		drawn.n = 0
		asking := c.deliver(tickMsg{})().(tea.BatchMsg) // the questions, and the next tick
		draws = []int{drawn.n}
		for _, cmd := range asking {
			msg := cmd()
			if batch, ok := msg.(tea.BatchMsg); ok {
				for _, ask := range batch {
					c.deliver(ask())
					draws = append(draws, drawn.n)
				}
				return draws
			}
		}
		t.Fatal("the tick asks for nothing")
		return nil
	}
	if got := look(); !slices.Equal(got, []int{0, 0, 1}) {
		t.Errorf("drawn %v times after the tick and each of the two answers, want once at the end", got)
	}
	f.live.Types[0].Running = 1
	look()
	if got := look(); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("drawn %v times after the tick and each of the two answers while a job runs, want at each", got)
	}
	drawn.n = 0
	if c.deliver(tea.WindowSizeMsg{Width: 90, Height: 30}); drawn.n != 1 {
		t.Error("a new size is not drawn at once")
	}
}
