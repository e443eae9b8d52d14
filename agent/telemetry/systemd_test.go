package telemetry

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/agent"
)

func TestSystemdIsTold(t *testing.T) {
	s := &still{stats: agent.Stats{Slots: 100, Running: 3, Unrecorded: 2, Closed: []string{"a", "b", "c", "d", "e", "f"}}}
	var told []string
	take := func() []string { defer func() { told = nil }(); return told }
	u := &Supervised{Agent: s, Watchdog: time.Minute, Log: discard, Notify: func(state string) { told = append(told, state) }}

	for _, c := range []struct {
		change func()
		want   []string
	}{
		{func() {}, []string{"STATUS=running 3 of 100; 2 results unrecorded; held: a, b, c, d, e and 1 more", "WATCHDOG=1"}},
		{func() {}, []string{"WATCHDOG=1"}}, // nothing new to say
		{func() {
			s.stats = agent.Stats{Slots: 100}
			s.health.NotReady = []string{"the agent is paused"}
		}, []string{"STATUS=not ready: the agent is paused; running 0 of 100", "WATCHDOG=1"}},
		{func() { s.health.Stuck = []string{"the lease loop\nhangs"} }, []string{"STATUS=stuck: the lease loop hangs; not ready: the agent is paused; running 0 of 100"}},
		{func() {}, nil}, // and systemd restarts it
		{func() { s.health = agent.Health{} }, []string{"STATUS=running 0 of 100", "WATCHDOG=1"}},
		{func() { u.Watchdog = 0 }, nil},
	} {
		c.change()
		u.tell()
		if got := take(); !slices.Equal(got, c.want) {
			t.Errorf("told %q, want %q", got, c.want)
		}
	}
}

func TestReadyIsToldOnceTheAgentHasRegistered(t *testing.T) {
	told := make(chan string, 100)
	registered := make(chan struct{})
	u := &Supervised{Agent: &still{}, Registered: registered, Log: discard, Notify: func(state string) { told <- state }}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { u.Run(ctx); close(done) }()
	if first := <-told; !strings.HasPrefix(first, "STATUS=") {
		t.Errorf("before it registered: %s", first)
	}
	close(registered)
	if next := <-told; next != "READY=1" {
		t.Errorf("after it registered: %s", next)
	}
	stop()
	<-done
	if len(told) > 0 {
		t.Errorf("more was told: %s", <-told)
	}
}

func TestWithoutSystemdNothingIsTold(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	u := UnderSystemd(&still{}, nil, discard)
	if u != nil {
		t.Fatalf("%+v", u)
	}
	u.Run(t.Context()) // returns
	u.Stopping()
}
