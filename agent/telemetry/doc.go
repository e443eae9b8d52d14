// Package telemetry shows a running agent to those who watch it: Prometheus
// metrics, health probes, traces, the log's level and systemd's notifications.
//
// It reads agent.Stats and agent.Health and changes nothing of the agent. What
// it costs is paid by whoever looks: the agent counts its jobs anyway, and the
// counts become metrics when they are scraped.
package telemetry
