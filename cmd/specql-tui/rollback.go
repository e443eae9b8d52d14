package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/ops"
)

func rollback(c *common) *cobra.Command {
	var to, pending, reason string
	var undo, dryRun bool
	o := ops.RollbackOptions{}
	cmd := &cobra.Command{
		Use:   "rollback (--to http-only | --undo)",
		Short: "Go back to http-only, or take that back",
		Long: "Shows its plan, then switches shell, docker and serverless off for every agent, holds or cancels what waits,\n" +
			"waits for what runs, and can return to an earlier registry. The schema stays. It may be run again at any time:\n" +
			"an interrupted one is brought to its end, one that is done changes nothing. Only one operator rolls back at a\n" +
			"time; others are told who does.\n\n" +
			"--undo puts the registry from before back, lets the cancelled jobs wait again at their old places, and\n" +
			"switches on what the rollback had switched off. Ends with 1 when jobs still run, an agent does not run the\n" +
			"restored registry, or there is nothing to undo.",
		Example: "  specql-tui rollback --to http-only --dry-run\n" +
			"  specql-tui rollback --to http-only --pending hold --grace 1m --registry previous --reason \"error rate\"\n" +
			"  specql-tui rollback --undo",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case undo && to != "":
				return usageError("--to and --undo together: give one of them")
			case !undo && to == "":
				return usageError("say where to: rollback --to http-only, or rollback --undo")
			case !undo && to != "http-only":
				return usageError("--to %q is unknown: it can only be http-only", to)
			case pending != "hold" && pending != "cancel":
				return usageError("--pending %q is unknown: use hold or cancel", pending)
			case o.Grace < 0:
				return usageError("--grace %s is negative: give 0s or more", o.Grace)
			case o.RegistryFile != "" && o.Registry == "":
				return usageError("--registry-file has a meaning with --registry only")
			}
			o.Cancel = pending == "cancel"
			o.By = ops.Self(program)
			o.By.Reason = reason
			if w := cmd.ErrOrStderr(); isTerminal(w) {
				o.Progress = rollbackProgress(w)
			}
			return c.working(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				if undo {
					return undoRollback(ctx, cmd.OutOrStdout(), c, db, o)
				}
				return rollBack(ctx, cmd.OutOrStdout(), c, db, o, dryRun)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "http-only")
	cmd.Flags().StringVar(&pending, "pending", "hold", "what becomes of waiting jobs of the other types: hold or cancel")
	cmd.Flags().DurationVar(&o.Grace, "grace", 30*time.Second, "how long running jobs are waited for")
	cmd.Flags().BoolVar(&o.StopRunning, "cancel-running", false, "stop what still runs after --grace")
	cmd.Flags().StringVar(&o.Registry, "registry", "", "return to this registry: previous, the beginning of a HASH, or git:REF")
	cmd.Flags().StringVar(&o.RegistryFile, "registry-file", "", "the registry's file on this host (default: the one that agents name)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log and everybody's screens")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the plan and change nothing")
	cmd.Flags().BoolVar(&undo, "undo", false, "take the last rollback back")
	return cmd
}

// rollbackProgress writes a line for each new step, and each second of a long one.
func rollbackProgress(w io.Writer) func(ops.RollbackStep) {
	var last string
	var told time.Time
	return func(s ops.RollbackStep) {
		if s.Step == last && time.Since(told) < time.Second {
			return
		}
		last, told = s.Step, time.Now()
		if s.Of > 0 {
			fmt.Fprintf(w, "%s: %d of %d\n", s.Step, s.Done, s.Of)
		} else {
			fmt.Fprintln(w, s.Step)
		}
	}
}

func rollBack(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, o ops.RollbackOptions, dryRun bool) error {
	plan, err := ops.PlanRollback(ctx, db, o)
	if err != nil {
		return err
	}
	if !c.json() {
		printRollbackPlan(w, plan, o)
	}
	if dryRun {
		if c.json() {
			return writeJSON(w, map[string]any{"plan": plan, "changed": false})
		}
		_, err := fmt.Fprintln(w, "nothing was changed")
		return err
	}
	done, err := ops.RollBack(ctx, db, o)
	if err != nil {
		return err
	}
	status := exitFine
	if done.Left > 0 || len(done.Behind) > 0 {
		status = exitFound
	}
	if c.json() {
		if err := writeJSON(w, map[string]any{"plan": plan, "result": done}); err != nil {
			return err
		}
		return quiet(status)
	}
	printRollback(w, done)
	return quiet(status)
}

func printRollbackPlan(w io.Writer, p ops.RollbackPlan, o ops.RollbackOptions) {
	off := make([]string, len(p.SwitchOff))
	for i, t := range p.SwitchOff {
		off[i] = string(t)
	}
	fmt.Fprintf(w, "plan: switch off %s\n", or(strings.Join(off, ", "), "nothing, all are off"))
	if len(p.Services) > 0 {
		t := newTable(w, "SERVICE", "TYPE", "PENDING", "RETRYING", "RUNNING")
		for _, s := range p.Services {
			t.row(s.Service, string(s.Type), fmt.Sprint(s.Pending), fmt.Sprint(s.Retrying), fmt.Sprint(s.Running))
		}
		t.flush()
	}
	what := "held, unchanged"
	if o.Cancel {
		what = "cancelled"
	}
	fmt.Fprintf(w, "plan: %s will be %s; %s waited for, at most %s\n", count(p.Waiting(), "waiting job"), what, count(p.Running, "running job"), o.Grace)
	if r := p.Registry; r != nil {
		fmt.Fprintf(w, "plan: %s returns to %s (%s → %s): %s\n", clean(r.File), clean(r.Source), shorten(r.From, 12), shorten(r.To, 12), clean(or(r.Changes, "the same services")))
	}
}

func printRollback(w io.Writer, r ops.RollbackResult) {
	if r.Already {
		fmt.Fprint(w, "nothing to do: it is http-only already")
		if r.ID > 0 {
			fmt.Fprintf(w, ", rolled back by %s at %s", clean(r.Actor), when(r.BeganAt))
		}
		fmt.Fprintln(w)
		return
	}
	if r.Resumed {
		fmt.Fprintf(w, "brought the rollback of %s to its end, which had been interrupted\n", clean(r.Actor))
	}
	fmt.Fprintf(w, "http-only: %s held, %s cancelled; of %s %d finished, %d stopped, %d left running\n", count(r.Held, "waiting job"),
		fmt.Sprint(r.Cancelled), count(r.Running, "running job"), r.Finished, r.Stopped, r.Left)
	if r.RegistryAfter != "" {
		fmt.Fprintf(w, "the registry is %s; the text from before is in %s\n", shorten(r.RegistryAfter, 12), clean(or(r.Backup, "place: it was the same")))
	}
	printBehind(w, r)
	fmt.Fprintln(w, "specql-tui rollback --undo takes it back")
}

func printBehind(w io.Writer, r ops.RollbackResult) {
	for _, b := range r.Behind {
		fmt.Fprintf(w, "▲ agent %s\n", clean(b))
	}
}

func undoRollback(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, o ops.RollbackOptions) error {
	done, err := ops.UndoRollback(ctx, db, o.By, o.Progress)
	if err != nil {
		return err
	}
	status := exitFine
	if len(done.Behind) > 0 {
		status = exitFound
	}
	if c.json() {
		if err := writeJSON(w, done); err != nil {
			return err
		}
		return quiet(status)
	}
	on := make([]string, len(done.SwitchedOff))
	for i, t := range done.SwitchedOff {
		on[i] = string(t)
	}
	fmt.Fprintf(w, "the rollback of %s at %s is undone: %s switched on, %s wait again\n", clean(done.Actor), when(done.BeganAt),
		or(strings.Join(on, ", "), "nothing"), count(done.Restored, "cancelled job"))
	printBehind(w, done)
	return quiet(status)
}
