package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/agent/telemetry"
)

// watching is what lets others see the agent at work: metrics and probes,
// systemd's notifications, the log's level.
type watching struct {
	systemd *telemetry.Supervised
	queue   *telemetry.Queue
	server  *telemetry.Server // nil: --listen off
	stop    context.CancelFunc
}

// listen takes the address of metrics and probes; nil when none is wanted.
func listen(address string) (net.Listener, error) {
	if address == "" || address == "off" {
		return nil, nil
	}
	l, err := telemetry.Listen(address)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return l, nil
}

// watch shows the agent until close. A nil listener shows nothing to probes.
func watch(a *agent.Agent, l net.Listener, url string, f flags, level *telemetry.Level, log *slog.Logger) (*watching, error) {
	w := &watching{systemd: telemetry.UnderSystemd(a, a.Registered(), log)}
	if l != nil {
		queue, err := telemetry.NewQueue(url, a, log)
		if err != nil {
			return nil, &exitError{exitDatabase, err}
		}
		w.queue = queue
		w.server = telemetry.NewServer(l, telemetry.ServerOptions{Agent: a, Level: level, Pprof: f.pprof, Log: log,
			Metrics: telemetry.NewRegistry(telemetry.NewFigures(a), queue)})
		go w.server.Serve()
		log.Info("metrics and probes", "address", w.server.Address())
	}
	ctx, stop := context.WithCancel(context.Background()) // the drain is shown too
	w.stop = stop
	go w.systemd.Run(ctx)
	return w, nil
}

// close ends it all; the last probe saw the drain.
func (w *watching) close() {
	w.stop()
	if w.server != nil {
		w.server.Close()
		w.queue.Close()
	}
}

// stepLevel makes the log more verbose by SIGUSR1 and less by SIGUSR2.
func stepLevel(level *telemetry.Level) {
	steps := make(chan os.Signal, 4)
	signal.Notify(steps, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range steps {
			if s == syscall.SIGUSR1 {
				level.More()
			} else {
				level.Less()
			}
		}
	}()
}
