package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/ops"
)

// session runs f on a connection of its own, as migrations need it.
func (c *common) session(ctx context.Context, f func(conn *pgx.Conn) error) error {
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	pooled, err := db.Acquire(ctx)
	if err != nil {
		return ops.Explain(err)
	}
	conn := pooled.Hijack()
	defer conn.Close(context.WithoutCancel(ctx))
	err = f(conn)
	if partial := (*migrations.PartialError)(nil); errors.As(err, &partial) {
		return err // its text says how far it came, which matters more
	}
	return ops.Explain(err)
}

func migrateSchema(c *common) *cobra.Command {
	var dryRun, down, printSQL, force bool
	var to int
	cmd := &cobra.Command{
		Use:   "migrate-schema",
		Short: "Bring the jobs schema to multi-execution, while the application goes on working",
		Long: "Adds what is missing and nothing else; it may be run again at any time, also after an interruption,\n" +
			"and after psql -f migrations/001_multi_execution.sql. --down returns to the application's own schema.",
		Example: "  specql-tui migrate-schema --dry-run\n  specql-tui migrate-schema",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := migrations.List()
			newest := all[len(all)-1].Version
			if to < 0 || to > newest {
				return usageError("--to %d is not a version: give 0 to %d", to, newest)
			}
			if force && !down {
				return usageError("--force has a meaning with --down only")
			}
			out := cmd.OutOrStdout()
			if printSQL {
				return printMigrations(out, to, down)
			}
			return c.session(cmd.Context(), func(conn *pgx.Conn) error {
				if dryRun {
					return planMigrations(cmd.Context(), out, c, conn, to, down)
				}
				return migrate(cmd.Context(), out, c, conn, migrations.Options{To: to, Force: force}, down)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would run and change nothing")
	cmd.Flags().BoolVar(&down, "down", false, "take the migrations back; the jobs stay")
	cmd.Flags().BoolVar(&printSQL, "print-sql", false, "print the SQL and connect to nothing")
	cmd.Flags().IntVar(&to, "to", 0, "end at this version (default: the newest; with --down the application's own schema)")
	cmd.Flags().BoolVar(&force, "force", false, "with --down: also when jobs of other types than http lose their type")
	return cmd
}

func migrate(ctx context.Context, w io.Writer, c *common, conn *pgx.Conn, opts migrations.Options, down bool) error {
	run, done := migrations.Apply, "applied"
	if down {
		run, done = migrations.Down, "taken back"
	}
	if !c.json() {
		opts.Progress = (&progress{w: w}).tell
	}
	result, err := run(ctx, conn, opts)
	if err != nil {
		return err
	}
	if c.json() {
		if result.Applied == nil {
			result.Applied = []string{}
		}
		return writeJSON(w, result)
	}
	if len(result.Applied) == 0 {
		_, err = fmt.Fprintln(w, "nothing to do: the schema is as it should be")
		return err
	}
	_, err = fmt.Fprintf(w, "%s %s in %.1f s\n", strings.Join(result.Applied, ", "), done, result.Seconds)
	return err
}

// progress writes a line for each step that ends, for whom one waits, and
// every few seconds of a long one.
type progress struct {
	w       io.Writer
	waiting string
	told    time.Duration
}

const progressEvery = 5 * time.Second

func (p *progress) tell(r migrations.Progress) {
	at := ""
	if r.Migration != "" {
		at = fmt.Sprintf("%s %d/%d %s: ", r.Migration, r.Index, r.Count, r.Step)
	}
	switch r.State {
	case migrations.Done:
		fmt.Fprintf(p.w, "%sdone in %.2f s\n", at, r.Elapsed.Seconds())
		p.waiting, p.told = "", 0
	case migrations.Waiting, migrations.Retrying:
		if r.Waiting != p.waiting {
			fmt.Fprintf(p.w, "%s%s for %s\n", at, r.State, clean(or(r.Waiting, "its lock")))
			p.waiting = r.Waiting
		}
	case migrations.Running:
		if r.Elapsed-p.told >= progressEvery {
			p.told = r.Elapsed
			percent := ""
			if r.Percent > 0 {
				percent = fmt.Sprintf(" (%.0f %%)", r.Percent)
			}
			fmt.Fprintf(p.w, "%sat work for %.0f s%s\n", at, r.Elapsed.Seconds(), percent)
		}
	}
}

// chosen are the migrations that a run to a version concerns, in its order,
// each with the steps that it takes.
func chosen(all []migrations.Migration, to int, down bool) []migrations.Migration {
	all = slices.DeleteFunc(slices.Clone(all), func(m migrations.Migration) bool {
		if down {
			return m.Version <= to
		}
		return to > 0 && m.Version > to
	})
	if down {
		slices.Reverse(all)
	}
	return all
}

func stepsOf(m migrations.Migration, down bool) []migrations.Step {
	if down {
		return m.Down
	}
	return m.Steps
}

func printMigrations(w io.Writer, to int, down bool) error {
	for _, m := range chosen(migrations.List(), to, down) {
		for _, s := range stepsOf(m, down) {
			if _, err := fmt.Fprintf(w, "-- %s, step: %s\n%s\n\n", m, s.Name, s.SQL); err != nil {
				return err
			}
		}
	}
	return nil
}

func planMigrations(ctx context.Context, w io.Writer, c *common, conn *pgx.Conn, to int, down bool) error {
	plan, err := migrations.MakePlan(ctx, conn)
	if err != nil {
		return err
	}
	pending := plan.Pending()
	if down {
		pending = nil
		for _, m := range plan.Migrations {
			if m.Recorded {
				pending = append(pending, m.Migration)
			}
		}
	}
	pending = chosen(pending, to, down)
	if c.json() {
		names := []string{}
		for _, m := range pending {
			names = append(names, m.String())
		}
		return writeJSON(w, map[string]any{"would_run": names, "down": down, "plan": plan})
	}
	fmt.Fprintf(w, "database %s, PostgreSQL %s, role %s\n", clean(plan.Database), plan.Server, clean(plan.Role))
	if len(pending) == 0 {
		_, err = fmt.Fprintln(w, "nothing to do")
		return err
	}
	for _, m := range pending {
		steps := stepsOf(m, down)
		fmt.Fprintf(w, "%s would run, %s:\n", m, count(int64(len(steps)), "step"))
		for _, s := range steps {
			fmt.Fprintf(w, "  %s\n", s.Name)
		}
	}
	_, err = fmt.Fprintln(w, "nothing was changed")
	return err
}

func validateSchema(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "validate-schema",
		Short: "Check every column, constraint, index, view, function and trigger of the jobs schema",
		Long:  "Ends with 4 when something is missing, different or invalid.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			return c.session(ctx, func(conn *pgx.Conn) error {
				found, err := migrations.Validate(ctx, conn)
				if err != nil {
					return err
				}
				if err := printFindings(cmd.OutOrStdout(), c, found); err != nil {
					return err
				}
				if !found.OK() {
					return quiet(exitInvalid)
				}
				return nil
			})
		},
	}
}

func printFindings(w io.Writer, c *common, r migrations.Report) error {
	if c.json() {
		return writeJSON(w, map[string]any{"ok": r.OK(), "findings": r.Findings})
	}
	t := newTable(w, "STATE", "KIND", "NAME", "NOTE")
	for _, f := range r.Findings {
		note := ""
		switch f.State {
		case migrations.Different:
			note = fmt.Sprintf("is %s, should be %s", shorten(f.Have, 80), shorten(f.Want, 80))
		case migrations.Invalid:
			note = "there, but not at work"
		}
		t.row(string(f.State), f.Kind, f.Name, note)
	}
	if err := t.flush(); err != nil {
		return err
	}
	faults := len(r.Faults())
	if faults == 0 {
		_, err := fmt.Fprintf(w, "all %d objects are as they should be\n", len(r.Findings))
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d objects are not as they should be: run specql-tui migrate-schema\n", faults, len(r.Findings))
	return err
}
