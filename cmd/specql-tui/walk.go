package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
)

func migrateWalk(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate [STEP]",
		Short: "Show the migration's phases and steps with their evidence, or one step in full",
		Long: "The state of a step comes from evidence that is looked at anew each time: the catalog, the applied registry,\n" +
			"the agents, and jobs that ended. It can go back. What no program can check is signed off by a person. The\n" +
			"console's page 1 shows the same. Ends with 1 when a step failed.",
		Example: "  specql-tui migrate\n  specql-tui migrate schema",
		Args:    usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.walking(cmd.Context(), func(ctx context.Context, _ *pgxpool.Pool, w ops.Walk) error {
				return showWalk(cmd.OutOrStdout(), c, w, args)
			})
		},
	}
	cmd.AddCommand(signStep(c, false), signStep(c, true), unsignStep(c), rolloutCommand(c))
	return cmd
}

// walking runs f with the walk, on any database.
func (c *common) walking(ctx context.Context, f func(ctx context.Context, db *pgxpool.Pool, w ops.Walk) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	w, err := ops.GetWalk(ctx, db, version.Short())
	if err != nil {
		return err
	}
	return f(ctx, db, w)
}

var stepSymbols = map[ops.StepState]string{ops.StepDone: "●", ops.StepNext: "▸", ops.StepBlocked: "○", ops.StepFailed: "✕", ops.StepWaived: "–"}

func showWalk(w io.Writer, c *common, walk ops.Walk, args []string) error {
	failed := false
	for _, p := range walk.Phases {
		for _, s := range p.Steps {
			failed = failed || s.State == ops.StepFailed
		}
	}
	status := exitFine
	if failed {
		status = exitFound
	}
	if len(args) == 1 {
		step, ok := walk.Find(args[0])
		if !ok {
			return &ops.UnknownStepError{ID: args[0], Known: stepIDs(walk)}
		}
		if c.json() {
			return writeJSON(w, step)
		}
		printStep(w, step)
		return nil
	}
	if c.json() {
		if err := writeJSON(w, walk); err != nil {
			return err
		}
		return quiet(status)
	}
	for i, p := range walk.Phases {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Phase %d: %s (%d of %d)\n", p.Number, p.Name, p.Settled(), len(p.Steps))
		t := newTable(w)
		for _, s := range p.Steps {
			t.row("  "+stepSymbols[s.State]+" "+string(s.State), s.ID, shorten(firstEvidence(s), 90))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return quiet(status)
}

func stepIDs(w ops.Walk) (all []string) {
	for _, p := range w.Phases {
		for _, s := range p.Steps {
			all = append(all, s.ID)
		}
	}
	return all
}

// firstEvidence is what matters most of a step: what is wrong or missing.
func firstEvidence(s ops.WalkStep) string {
	switch {
	case s.Signed != nil:
		return fmt.Sprintf("%s: %s", s.Signed.Name, s.Signed.Note)
	case len(s.BlockedBy) > 0:
		return "first: " + strings.Join(s.BlockedBy, ", ")
	}
	for _, e := range s.Evidence {
		if !e.OK && !e.Note {
			return e.Text
		}
	}
	if len(s.Evidence) > 0 {
		return s.Evidence[0].Text
	}
	return "to be signed off by a person"
}

func printStep(w io.Writer, s ops.WalkStep) {
	fmt.Fprintf(w, "%s %s (%s): %s\n%s\n", stepSymbols[s.State], s.Title, s.ID, s.State, s.Why)
	for _, g := range s.Guide {
		fmt.Fprintf(w, "guide: %s\n", g)
	}
	for _, e := range s.Evidence {
		symbol := "●"
		switch {
		case e.Bad:
			symbol = "✕"
		case !e.OK:
			symbol = "○"
		case e.Note:
			symbol = "·"
		}
		at := ""
		if e.At != nil {
			at = ", " + when(*e.At)
		}
		fmt.Fprintf(w, "%s %s%s\n", symbol, clean(e.Text), at)
		for _, l := range e.Lines {
			fmt.Fprintf(w, "    %s\n", clean(l))
		}
		if e.Advice != "" {
			fmt.Fprintf(w, "    do: %s\n", clean(e.Advice))
		}
	}
	if s.Signed != nil {
		fmt.Fprintf(w, "● %s, %s: %s\n", clean(s.Signed.Name), when(s.Signed.At), clean(s.Signed.Note))
	}
	if len(s.BlockedBy) > 0 {
		fmt.Fprintf(w, "first: %s\n", strings.Join(s.BlockedBy, ", "))
	}
	if s.Will != "" {
		fmt.Fprintf(w, "will: %s\n", s.Will)
	}
	if s.Command != "" {
		fmt.Fprintf(w, "command: %s\n", s.Command)
	}
}

func signStep(c *common, waive bool) *cobra.Command {
	var name, note string
	verb, short := "sign", "Sign a step off that no program can check"
	if waive {
		verb, short = "waive", actions.Must(actions.MigrateWaive).Does
	}
	cmd := &cobra.Command{
		Use:   verb + " STEP --note TEXT [--name NAME]",
		Short: short,
		Long:  "Name, note and time are kept in the database, for everybody; the audit log has them too. migrate unsign takes it back.",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(note) == "" {
				return usageError("--note is missing: say for those who read it later why step %s is %s", args[0], map[bool]string{true: "waived", false: "done"}[waive])
			}
			return c.walking(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool, w ops.Walk) error {
				if err := ops.SignStep(ctx, db, w, args[0], waive, name, note, ops.Self(program)); err != nil {
					return err
				}
				return tellSigned(cmd.OutOrStdout(), c, args[0], map[bool]string{true: "waived", false: "signed"}[waive], name)
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for those who read it later")
	cmd.Flags().StringVar(&name, "name", ops.Signer(), "who signs")
	cmd.Flags().Lookup("name").DefValue = "" // it differs from user to user
	return cmd
}

func tellSigned(w io.Writer, c *common, step, state, name string) error {
	if c.json() {
		return writeJSON(w, map[string]string{"step": step, "state": state, "name": name})
	}
	_, err := fmt.Fprintf(w, "%s is %s by %s\n", step, state, clean(name))
	return err
}

func unsignStep(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "unsign STEP",
		Short: actions.Must(actions.MigrateUnsign).Does,
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				changed, err := ops.UnsignStep(ctx, db, args[0], ops.Self(program))
				if err != nil {
					return err
				}
				state := "judged by its evidence again"
				if !changed {
					state = "neither signed nor waived"
				}
				return tellSigned(cmd.OutOrStdout(), c, args[0], state, ops.Signer())
			})
		},
	}
}

func rolloutCommand(c *common) *cobra.Command {
	var o ops.RolloutOptions
	var input, reason string
	var end bool
	cmd := &cobra.Command{
		Use:   "rollout TYPE (--service NAME --operation NAME | --end)",
		Short: "Roll an execution type out step by step, and stop when jobs fail",
		Long: "Enables the type with one service alone and enqueues a canary job of it. When that has completed, the service\n" +
			"goes on alone until --jobs have ended, then all services of the type. When less than --least-success of them\n" +
			"end well, or their p95 is above --most-p95, the type is switched off and the roll-out ends with 1. It is\n" +
			"watched for as long as this command runs, or a console shows its page 1.",
		Example: "  specql-tui migrate rollout shell --service data_processor --operation process_data --input '{\"records\": 5}'",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			types, err := parseTypes(args)
			if err != nil {
				return err
			}
			o.Type, o.By, o.Input = types[0], ops.Self(program), json.RawMessage(input)
			o.By.Reason = reason
			switch {
			case o.Type == jobs.HTTP:
				return usageError("http is what an application has already: roll out shell, docker or serverless")
			case !end && (o.Service == "" || o.Operation == ""):
				return usageError("--service and --operation are missing: they say whose job is the canary")
			case o.LeastSuccess < 0 || o.LeastSuccess > 1:
				return usageError("--least-success %v is out of range: give 0 to 1", o.LeastSuccess)
			case o.Jobs < 1:
				return usageError("--jobs %d is out of range: give 1 or more", o.Jobs)
			}
			return c.working(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				if end {
					ended, err := ops.EndRollout(ctx, db, o.Type, o.By)
					if err == nil && !ended {
						err = fmt.Errorf("%s is not being rolled out", o.Type)
					}
					return err
				}
				return rollOut(ctx, cmd.OutOrStdout(), c, db, o)
			})
		},
	}
	cmd.Flags().StringVar(&o.Service, "service", "", "whose job is the canary")
	cmd.Flags().StringVar(&o.Operation, "operation", "", "of the canary")
	cmd.Flags().StringVar(&input, "input", "{}", "of the canary, a JSON object")
	cmd.Flags().Float64Var(&o.LeastSuccess, "least-success", 0.95, "the share of jobs that must end well, 0 to 1")
	cmd.Flags().DurationVar(&o.MostP95, "most-p95", 0, "how long jobs may take at the 95th percentile; 0: no bound")
	cmd.Flags().IntVar(&o.Jobs, "jobs", 100, "how many jobs of each stage are waited for")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	cmd.Flags().BoolVar(&end, "end", false, "end the roll-out where it stands")
	return cmd
}

// rolloutEvery is how often a roll-out is looked at.
const rolloutEvery = time.Second

func rollOut(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, o ops.RolloutOptions) error {
	r, err := ops.StartRollout(ctx, db, o)
	if err != nil {
		return err
	}
	say := func(r ops.Rollout) {
		if c.json() {
			return
		}
		if r.State == "running" {
			fmt.Fprintf(w, "%s: stage %s\n", r.Type, r.Stage)
		} else {
			fmt.Fprintf(w, "%s: %s at stage %s: %s\n", r.Type, r.State, r.Stage, clean(r.Outcome))
		}
	}
	say(r)
	tick := time.NewTicker(rolloutEvery)
	defer tick.Stop()
	for stage := r.Stage; r.State == "running"; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if _, err := ops.AdvanceRollouts(ctx, db, o.By); err != nil {
			return err
		}
		last, err := ops.LastRollout(ctx, db, o.Type)
		if err != nil {
			return err
		}
		if r = *last; r.Stage != stage || r.State != "running" {
			stage = r.Stage
			say(r)
		}
	}
	if c.json() {
		if err := writeJSON(w, r); err != nil {
			return err
		}
	}
	if r.State == "passed" {
		return nil
	}
	if !c.json() {
		fmt.Fprintln(w, "specql-tui rollback --to http-only goes back altogether")
	}
	return quiet(exitFound)
}
