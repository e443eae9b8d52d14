package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

func executionTypes(c *common) *cobra.Command {
	var disable, enable []string
	var reason string
	var force, cancelRunning bool
	cmd := &cobra.Command{
		Use:   "execution-types [--disable TYPE… | --enable TYPE…]",
		Short: "Show the execution types, or switch them on and off for every agent",
		Long: "Agents obey a switch with their next claim. Pending jobs of a disabled type are held, unchanged;\n" +
			"running ones finish, or are stopped with --cancel-running. The change is written to the audit log.",
		Example: "  specql-tui execution-types\n" +
			"  specql-tui execution-types --disable shell docker serverless --reason \"host maintenance\"\n" +
			"  specql-tui execution-types --enable shell",
		RunE: func(cmd *cobra.Command, args []string) error {
			off, on := cmd.Flags().Changed("disable"), cmd.Flags().Changed("enable")
			if off && on {
				return usageError("--disable and --enable together: give one of them")
			}
			if !off && !on {
				if len(args) > 0 {
					return usageError("%s is given without --disable or --enable: say what to do with it", args[0])
				}
				return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
					return showSwitches(ctx, cmd.OutOrStdout(), c, db)
				})
			}
			if cancelRunning && !off {
				return usageError("--cancel-running has a meaning with --disable only")
			}
			types, err := parseTypes(append(append(disable, enable...), args...))
			if err != nil {
				return err
			}
			if off && !force {
				for _, t := range types {
					if t == jobs.HTTP {
						return ops.ErrNeedsForce
					}
				}
			}
			by := ops.Self(program)
			by.Reason = reason
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				return switchTypes(ctx, cmd.OutOrStdout(), c, db, types, typeSwitch{on, force, cancelRunning, by})
			})
		},
	}
	cmd.Flags().StringSliceVar(&disable, "disable", nil, "hold jobs of these types")
	cmd.Flags().StringSliceVar(&enable, "enable", nil, "let jobs of these types go on")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log and everybody's screens")
	cmd.Flags().BoolVar(&force, "force", false, "disable http too")
	cmd.Flags().BoolVar(&cancelRunning, "cancel-running", false, "with --disable: stop what runs of these types")
	return cmd
}

func parseTypes(words []string) ([]jobs.ExecutionType, error) {
	var types []jobs.ExecutionType
	for _, w := range words {
		t, err := jobs.ParseExecutionType(w)
		if err != nil {
			return nil, &statusError{exitInvalid, err}
		}
		types = append(types, t)
	}
	return types, nil
}

func showSwitches(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool) error {
	list, err := jobs.Switches(ctx, db)
	if err != nil {
		return ops.Explain(err)
	}
	if c.json() {
		return writeJSON(w, list)
	}
	t := newTable(w, "TYPE", "STATE", "SINCE", "BY", "REASON")
	for _, s := range list {
		t.row(string(s.Type), state(s.Enabled), when(s.ChangedAt), or(s.ChangedBy, none), or(s.Reason, none))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if len(list) > 0 && list[0].StoppedAt != nil {
		fmt.Fprintf(w, "▲ emergency stop since %s by %s: %s; nothing is claimed until specql-tui resume\n",
			when(*list[0].StoppedAt), clean(list[0].StoppedBy), clean(or(list[0].StopReason, "no reason given")))
	}
	return nil
}

func state(enabled bool) string {
	if enabled {
		return "enabled"
	}
	return "disabled"
}

// typeSwitch is how types are to be switched.
type typeSwitch struct {
	on, force, cancelRunning bool
	by                       jobs.By
}

func switchTypes(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, types []jobs.ExecutionType, s typeSwitch) error {
	plan, err := ops.PlanSwitch(ctx, db, types, s.on)
	if err != nil {
		return err
	}
	changed, err := ops.Switch(ctx, db, types, s.on, s.force, s.by)
	if err != nil {
		return err
	}
	var cancelled ops.JobResult
	if s.cancelRunning {
		if cancelled, err = ops.CancelRunning(ctx, db, types, s.by); err != nil {
			return err
		}
	}
	if c.json() {
		if changed == nil {
			changed = []jobs.Switch{}
		}
		return writeJSON(w, map[string]any{"changed": changed, "affected": affected(plan), "cancelled": cancelled.Changed})
	}
	for _, t := range plan.Types {
		running := fmt.Sprintf("%d running finish", t.Running)
		if s.cancelRunning {
			running = "what runs is stopped"
		}
		switch {
		case t.Already:
			fmt.Fprintf(w, "%s was %s already\n", t.Type, state(s.on))
		case s.on:
			fmt.Fprintf(w, "%s is enabled: %s pending jobs of %s go on\n", t.Type, capped(t.Pending, t.PendingCapped),
				count(int64(t.Services), "service"))
		default:
			fmt.Fprintf(w, "%s is disabled: %s pending jobs of %s are held, %s\n", t.Type,
				capped(t.Pending, t.PendingCapped), count(int64(t.Services), "service"), running)
		}
	}
	if s.cancelRunning {
		fmt.Fprintf(w, "%s cancelled\n", count(cancelled.Changed, "running job"))
	}
	return nil
}

type affectedType struct {
	Type     jobs.ExecutionType `json:"execution_type"`
	Already  bool               `json:"already"`
	Pending  int64              `json:"pending"`
	Capped   bool               `json:"pending_capped"`
	Running  int64              `json:"running"`
	Services int                `json:"services"`
}

func affected(p ops.SwitchPlan) []affectedType {
	var out []affectedType
	for _, t := range p.Types {
		out = append(out, affectedType{t.Type, t.Already, t.Pending, t.PendingCapped, t.Running, t.Services})
	}
	return out
}
