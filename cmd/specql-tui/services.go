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
	"github.com/specql/specql-ops/ops/actions"
)

func services(c *common) *cobra.Command {
	lists := map[jobs.LaneChange]*[]string{}
	var reason string
	cmd := &cobra.Command{
		Use:   "services [--disable NAME… | --enable NAME… | --fallback NAME… | --no-fallback NAME…]",
		Short: "Show the services' switches, switch one off, or let it run by http instead of its own type",
		Long: "Every agent obeys with its next claim, also those that start later. Pending jobs of a service that is off are\n" +
			"held, unchanged; running ones finish. --fallback runs a shell, docker or serverless service by http, at its\n" +
			"base_url, until --no-fallback. Each change is written to the audit log. Ends with 4 for a service that no\n" +
			"agent's registry has, 1 when a service has no fallback.",
		Example: "  specql-tui services --disable stripe_api --reason \"their outage\"\n" +
			"  specql-tui services --fallback image_resizer --reason \"function throttled\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			var change jobs.LaneChange
			for _, each := range laneChanges {
				if !cmd.Flags().Changed(string(each)) {
					continue
				}
				if change != "" {
					return usageError("--%s and --%s together: give one of them", change, each)
				}
				change = each
			}
			if change == "" {
				if len(args) > 0 {
					return usageError("%s is given without --disable, --enable, --fallback or --no-fallback", args[0])
				}
				return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
					return showServices(ctx, cmd.OutOrStdout(), c, db)
				})
			}
			by := ops.Self(program)
			by.Reason = reason
			names := append(*lists[change], args...)
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				return switchServices(ctx, cmd.OutOrStdout(), c, db, names, change, by)
			})
		},
	}
	for change, text := range map[jobs.LaneChange]string{
		jobs.DisableService: "hold these services' jobs", jobs.EnableService: "let these services' jobs go on",
		jobs.FallBack: "run these services by http", jobs.NoFallback: "run these services by their own type again",
	} {
		lists[change] = cmd.Flags().StringSlice(string(change), nil, text)
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log and everybody's screens")
	return cmd
}

var laneChanges = []jobs.LaneChange{jobs.DisableService, jobs.EnableService, jobs.FallBack, jobs.NoFallback}

func showServices(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool) error {
	list, err := ops.ListServices(ctx, db)
	if err != nil {
		return err
	}
	if c.json() {
		if list == nil {
			list = []jobs.LaneSwitch{}
		}
		return writeJSON(w, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no agent has published a service yet")
		return err
	}
	t := newTable(w, "SERVICE", "TYPE", "STATE", "FALLBACK", "SINCE", "BY", "REASON")
	for _, s := range list {
		fallback := none
		switch {
		case s.Fallback:
			fallback = "runs by http"
		case s.CanFall:
			fallback = "possible"
		}
		since := none
		if s.ChangedAt != nil {
			since = when(*s.ChangedAt)
		}
		t.row(s.Service, string(s.Type), state(s.Enabled), fallback, since, or(s.ChangedBy, none), or(s.Reason, none))
	}
	return t.flush()
}

func switchServices(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, names []string, change jobs.LaneChange, by jobs.By) error {
	plan, err := ops.PlanServices(ctx, db, names, change)
	if err != nil {
		return err
	}
	changed, err := ops.SwitchServices(ctx, db, names, change, by)
	if err != nil {
		return err
	}
	status := exitFine
	for _, p := range plan {
		if p.Cannot {
			status = exitFound
		}
	}
	if c.json() {
		if changed == nil {
			changed = []jobs.LaneSwitch{}
		}
		if err := writeJSON(w, map[string]any{"changed": changed, "affected": plan}); err != nil {
			return err
		}
		return quiet(status)
	}
	for _, p := range plan {
		pending := capped(p.Pending, p.Capped)
		text := ""
		switch {
		case p.Cannot:
			text = "has no http fallback: give its runner_config a base_url in the registry"
		case p.Already:
			text = "stands so already"
		case change == jobs.DisableService:
			text = fmt.Sprintf("is disabled: %s pending jobs are held, %d running finish", pending, p.Running)
		case change == jobs.EnableService:
			text = fmt.Sprintf("is enabled: %s pending jobs go on", pending)
		case change == jobs.FallBack:
			text = fmt.Sprintf("runs by http from now on: %s pending jobs; %d running finish as %s", pending, p.Running, p.Type)
		default:
			text = fmt.Sprintf("runs as %s again: %s pending jobs; %d running finish", p.Type, pending, p.Running)
		}
		fmt.Fprintf(w, "%s %s\n", clean(p.Service), text)
	}
	return quiet(status)
}

func emergencyStop(c *common) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "emergency-stop",
		Short: actions.Does(actions.Stop),
		Long: "No job of any type is started any more, by no agent, also those that start later; running ones finish. The\n" +
			"execution types' own switches stay as they are. specql-tui resume ends it.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.stopping(cmd, reason, ops.EmergencyStop, func(w io.Writer, p ops.StopPlan, changed bool) {
				if !changed {
					fmt.Fprintf(w, "nothing was claimed already: %s\n", clean(p.Stopped))
					return
				}
				fmt.Fprintf(w, "all claiming is stopped on %s: %s pending jobs are held, %d running finish; specql-tui resume ends it\n",
					count(int64(p.Agents), "agent"), capped(p.Pending, p.Capped), p.Running)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log and everybody's screens")
	return cmd
}

func resume(c *common) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "End the emergency stop",
		Long:  "What was enabled before the stop is claimed again. What was switched off stays off.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.stopping(cmd, reason, ops.ResumeClaims, func(w io.Writer, p ops.StopPlan, changed bool) {
				if !changed {
					fmt.Fprintln(w, "there is no emergency stop")
					return
				}
				fmt.Fprintf(w, "claiming goes on: %s pending jobs (it was: %s)\n", capped(p.Pending, p.Capped), clean(p.Stopped))
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

func (c *common) stopping(cmd *cobra.Command, reason string, do func(context.Context, jobs.Beginner, jobs.By) (bool, error),
	tell func(io.Writer, ops.StopPlan, bool)) error {
	by := ops.Self(program)
	by.Reason = reason
	return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
		// What cannot be counted soon must not keep anybody from stopping.
		counting, cancel := context.WithTimeout(ctx, 2*time.Second)
		before, _ := ops.PlanStop(counting, db)
		cancel()
		changed, err := do(ctx, db, by)
		if err != nil {
			return err
		}
		if c.json() {
			return writeJSON(cmd.OutOrStdout(), map[string]any{"changed": changed, "plan": before})
		}
		tell(cmd.OutOrStdout(), before, changed)
		return nil
	})
}
