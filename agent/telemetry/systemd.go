package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// statusEvery is how often systemd's line about the agent may change.
const statusEvery = 5 * time.Second

// Supervised tells systemd how the agent does: READY once it has registered,
// a STATUS line, and, where the unit has WatchdogSec, a sign of life for as
// long as the agent's loops give one. An agent that hangs is then restarted.
type Supervised struct {
	Agent      Source
	Registered <-chan struct{}
	Watchdog   time.Duration // WatchdogSec; 0: none
	Notify     func(state string)
	Log        *slog.Logger

	status string
	stuck  bool
}

// UnderSystemd is what systemd wants to know of this process; nil when systemd
// did not start it.
func UnderSystemd(agent Source, registered <-chan struct{}, log *slog.Logger) *Supervised {
	if sent, err := daemon.SdNotify(false, "STATUS=starting"); !sent || err != nil {
		return nil
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog is not served", "error", err)
	}
	return &Supervised{Agent: agent, Registered: registered, Watchdog: watchdog, Log: log,
		Notify: func(state string) { daemon.SdNotify(false, state) }}
}

// Run tells systemd until ctx ends. A nil one does nothing.
func (s *Supervised) Run(ctx context.Context) {
	if s == nil {
		return
	}
	every := statusEvery
	if s.Watchdog > 0 {
		every = min(every, s.Watchdog/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	registered := s.Registered
	for {
		s.tell()
		select {
		case <-ctx.Done():
			return
		case <-registered:
			registered = nil
			s.Notify(daemon.SdNotifyReady)
		case <-tick.C:
		}
	}
}

// Stopping says that the agent drains.
func (s *Supervised) Stopping() {
	if s != nil {
		s.Notify(daemon.SdNotifyStopping)
	}
}

func (s *Supervised) tell() {
	stuck := s.Agent.Health().Stuck
	if status := s.line(stuck); status != s.status {
		s.status = status
		s.Notify("STATUS=" + status)
	}
	if len(stuck) > 0 && !s.stuck {
		s.Log.Error("the agent is stuck: no sign of life goes to systemd", "reasons", stuck)
	}
	s.stuck = len(stuck) > 0
	if s.Watchdog > 0 && !s.stuck {
		s.Notify(daemon.SdNotifyWatchdog)
	}
}

// line is one line for `systemctl status`.
func (s *Supervised) line(stuck []string) string {
	const named = 5
	stats := s.Agent.Stats()
	var parts []string
	if len(stuck) > 0 {
		parts = append(parts, "stuck: "+strings.Join(stuck, ", "))
	}
	if reasons := s.Agent.Health().NotReady; len(reasons) > 0 {
		parts = append(parts, "not ready: "+strings.Join(reasons, ", "))
	}
	parts = append(parts, fmt.Sprintf("running %d of %d", stats.Running, stats.Slots))
	if stats.Unrecorded > 0 {
		parts = append(parts, fmt.Sprintf("%d results unrecorded", stats.Unrecorded))
	}
	if n := len(stats.Closed); n > 0 {
		held := "held: " + strings.Join(stats.Closed[:min(n, named)], ", ")
		if n > named {
			held += fmt.Sprintf(" and %d more", n-named)
		}
		parts = append(parts, held)
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), "\n", " ")
}
