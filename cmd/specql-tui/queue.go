package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

func queueStatus(c *common) *cobra.Command {
	var window time.Duration
	cmd := &cobra.Command{
		Use:   "queue-status",
		Short: "Show what waits, runs and was done, by execution type, and what is held and why",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if window < ops.MinWindow || window > ops.MaxWindow {
				return usageError("--window %s is out of range: give 1m to 24h", window)
			}
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				live, err := ops.GetLive(ctx, db, window)
				if err != nil {
					return err
				}
				if c.json() {
					return writeJSON(cmd.OutOrStdout(), statusOfQueue(live))
				}
				return printQueue(cmd.OutOrStdout(), live)
			})
		},
	}
	cmd.Flags().DurationVar(&window, "window", 15*time.Minute, "how far counts and percentiles look back, 1m to 24h")
	return cmd
}

func printQueue(w io.Writer, live ops.Live) error {
	t := newTable(w, "TYPE", "STATE", "WAITING", "OLDEST", "RUNNING", "COMPLETED", "FAILED", "P50", "P95", "P99")
	for _, x := range live.Types {
		t.row(string(x.Type), state(x.Switch.Enabled), capped(x.Waiting, x.WaitingCapped), brief(x.Oldest), fmt.Sprint(x.Running),
			fmt.Sprint(x.Completed), fmt.Sprint(x.Failed), brief(x.P50), brief(x.P95), brief(x.P99))
	}
	if err := t.flush(); err != nil || len(live.Held) == 0 {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "HELD SERVICE", "TYPE", "WAITING", "REASON")
	for _, h := range live.Held {
		t.row(h.Service, string(h.Type), capped(h.Waiting, h.Capped), h.Reason)
	}
	return t.flush()
}

type queueType struct {
	Type           jobs.ExecutionType `json:"execution_type"`
	Enabled        bool               `json:"enabled"`
	Waiting        int64              `json:"waiting"`
	WaitingCapped  bool               `json:"waiting_capped"`
	OldestSeconds  float64            `json:"oldest_seconds"`
	Running        int64              `json:"running"`
	Completed      int64              `json:"completed"`
	Failed         int64              `json:"failed"`
	Violations     int64              `json:"violations"`
	P50            float64            `json:"p50_ms"`
	P95            float64            `json:"p95_ms"`
	P99            float64            `json:"p99_ms"`
	CPUPercent     *float64           `json:"cpu_usage_percent,omitempty"`
	MemoryMB       *float64           `json:"memory_mb,omitempty"`
	PeakMemoryMB   *float64           `json:"peak_memory_mb,omitempty"`
	DisabledReason string             `json:"disabled_reason,omitempty"`
}

type heldService struct {
	Service string             `json:"service_name"`
	Type    jobs.ExecutionType `json:"execution_type"`
	Waiting int64              `json:"waiting"`
	Capped  bool               `json:"waiting_capped"`
	Reason  string             `json:"reason"`
}

type queueReport struct {
	At            time.Time     `json:"at"`
	WindowSeconds float64       `json:"window_seconds"`
	Types         []queueType   `json:"types"`
	Held          []heldService `json:"held"`
}

func statusOfQueue(live ops.Live) queueReport {
	out := queueReport{At: live.At, Held: []heldService{}}
	for _, x := range live.Types {
		t := queueType{Type: x.Type, Enabled: x.Switch.Enabled, Waiting: x.Waiting, WaitingCapped: x.WaitingCapped,
			OldestSeconds: x.Oldest.Seconds(), Running: x.Running, Completed: x.Completed, Failed: x.Failed,
			Violations: x.Violations, P50: milliseconds(x.P50), P95: milliseconds(x.P95), P99: milliseconds(x.P99),
			CPUPercent: x.CPUPercent, MemoryMB: x.MemoryMB, PeakMemoryMB: x.PeakMemoryMB}
		if !x.Switch.Enabled {
			t.DisabledReason = x.Switch.Reason
		}
		out.Types = append(out.Types, t)
		out.WindowSeconds = x.Window.Seconds()
	}
	for _, h := range live.Held {
		out.Held = append(out.Held, heldService(h))
	}
	return out
}
