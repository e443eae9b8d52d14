package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/ops"
)

// session runs f on a database that need not be migrated.
func (c *common) session(ctx context.Context, f func(db *pgxpool.Pool) error) error {
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	return f(db)
}

func migrateSchema(c *common) *cobra.Command {
	var dryRun, printSQL, watch, createRoles bool
	var opts ops.MigrationOptions
	var typed string
	cmd := &cobra.Command{
		Use:   "migrate-schema",
		Short: "Bring the jobs schema to multi-execution, while the application goes on working",
		Long: "Adds what is missing and nothing else; it may be run again at any time, also after an interruption,\n" +
			"and after psql -f migrations/001_multi_execution.sql. Of two at once one works and the other watches.\n" +
			"--down returns to the application's own schema. With --output json it prints an event a line.",
		Example: "  specql-tui migrate-schema --dry-run\n  specql-tui migrate-schema\n  specql-tui migrate-schema --watch\n" +
			"  specql-tui migrate-schema --create-roles",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := migrations.List()
			newest := all[len(all)-1].Version
			if opts.To < 0 || opts.To > newest {
				return usageError("--to %d is not a version: give 0 to %d", opts.To, newest)
			}
			switch opts.Typed = migrations.Typed(typed); {
			case !slices.Contains([]string{"", "keep", "cancel", "delete"}, typed):
				return usageError("--typed-jobs %q is unknown: use keep, cancel or delete", typed)
			case typed != "" && !opts.Down:
				return usageError("--typed-jobs has a meaning with --down only")
			case createRoles && (opts.Down || watch):
				return usageError("--create-roles goes with neither --down nor --watch")
			}
			out := cmd.OutOrStdout()
			switch {
			case printSQL && createRoles:
				_, err := io.WriteString(out, migrations.RolesSQL())
				return err
			case printSQL:
				return printMigrations(out, opts.To, opts.Down)
			}
			return c.session(cmd.Context(), func(db *pgxpool.Pool) error {
				switch {
				case createRoles:
					return createTheRoles(cmd.Context(), out, c, db, dryRun)
				case watch:
					return watchMigration(cmd.Context(), out, c, db)
				case dryRun:
					return planMigration(cmd.Context(), out, c, db, opts)
				}
				return migrate(cmd.Context(), out, c, db, opts)
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would run, with locks and estimates, and change nothing")
	cmd.Flags().BoolVar(&opts.Down, "down", false, "take the migrations back; the jobs stay")
	cmd.Flags().BoolVar(&printSQL, "print-sql", false, "print the SQL and connect to nothing")
	cmd.Flags().BoolVar(&watch, "watch", false, "follow a migration that runs elsewhere; leaving does nothing to it")
	cmd.Flags().BoolVar(&createRoles, "create-roles", false, "make the roles of agents, operators and viewers, with what each needs")
	cmd.Flags().IntVar(&opts.To, "to", 0, "end at this version (default: the newest; with --down the application's own schema)")
	cmd.Flags().StringVar(&typed, "typed-jobs", "", "with --down, jobs of other types than http: keep, cancel or delete (default: refuse while there are any)")
	return cmd
}

// migrationResult is the last event of a run with --output json.
type migrationResult struct {
	State migrations.RunState `json:"state"`
	migrations.Result
}

func migrate(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, opts ops.MigrationOptions) error {
	show := newProgress(w, c.json())
	result, err := ops.RunMigration(ctx, db, ops.Self(program), opts, show.tell)
	show.end()
	if err != nil {
		return err
	}
	if c.json() {
		if result.Applied == nil {
			result.Applied = []string{}
		}
		return writeLine(w, migrationResult{migrations.Finished, result})
	}
	done := "applied"
	if opts.Down {
		done = "taken back"
	}
	if len(result.Applied) == 0 {
		_, err = fmt.Fprintln(w, "nothing to do: the schema is as it should be")
		return err
	}
	_, err = fmt.Fprintf(w, "%s %s in %.1f s\n", strings.Join(result.Applied, ", "), done, result.Seconds)
	return err
}

func watchMigration(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool) error {
	show := newProgress(w, c.json())
	var last migrations.Status
	err := ops.WatchMigration(ctx, db, true, func(s migrations.Status) {
		last = s
		if s.State == migrations.AtWork {
			show.tell(s.Progress)
		}
	})
	show.end()
	if err != nil {
		return err
	}
	if c.json() {
		err = writeLine(w, last)
	} else {
		err = printStatus(w, last)
	}
	if err == nil && (last.State == migrations.Failed || last.State == migrations.Interrupted) {
		return quiet(exitFound)
	}
	return err
}

func printStatus(w io.Writer, s migrations.Status) (err error) {
	switch s.State {
	case migrations.NeverRun:
		_, err = fmt.Fprintln(w, "no migration is at work, and none is recorded")
	case migrations.AtWork:
		_, err = fmt.Fprintf(w, "left; the migration by %s goes on\n", clean(s.Actor))
	case migrations.Interrupted:
		_, err = fmt.Fprintf(w, "the migration by %s was interrupted at %s in %q: run specql-tui migrate-schema again\n",
			clean(s.Actor), when(s.BeatAt), clean(s.Progress.Step))
	case migrations.Failed:
		_, err = fmt.Fprintf(w, "the migration by %s failed at %s: %s\n", clean(s.Actor), when(s.BeatAt), clean(s.Error))
	case migrations.Finished:
		_, err = fmt.Fprintf(w, "the migration by %s was done at %s, in %s\n", clean(s.Actor), when(s.BeatAt), brief(s.BeatAt.Sub(s.StartedAt)))
	}
	return err
}

func printMigrations(w io.Writer, to int, down bool) error {
	all := slices.DeleteFunc(migrations.List(), func(m migrations.Migration) bool {
		return down && m.Version <= to || !down && to > 0 && m.Version > to
	})
	if down {
		slices.Reverse(all)
	}
	for _, m := range all {
		steps := m.Steps
		if down {
			steps = m.Down
		}
		for _, s := range steps {
			if _, err := fmt.Fprintf(w, "-- %s, step: %s\n-- %s\n%s\n\n", m, s.Name, expectation(s), withoutNotes(s.SQL)); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutNotes leaves out the lines that expectation has said.
func withoutNotes(sql string) string {
	for strings.HasPrefix(sql, "-- lock: ") || strings.HasPrefix(sql, "-- work: ") || strings.HasPrefix(sql, "-- when: ") {
		_, sql, _ = strings.Cut(sql, "\n")
	}
	return sql
}

// expectation words what a step does to the jobs table.
func expectation(s migrations.Step) string {
	lock := or(s.Lock, "no lock that the application meets")
	switch {
	case s.Work == migrations.Fill:
		return lock + " on the rows of a batch, some milliseconds each; no rewrite"
	case s.Lock == "":
		return lock + "; no rewrite"
	case s.Work != migrations.Instant:
		return lock + " (reads and writes go on) during " + string(s.Work) + " of the table; no rewrite"
	case s.Lock == "SHARE UPDATE EXCLUSIVE":
		return lock + " (reads and writes go on), for an instant; no rewrite"
	}
	return lock + ", for an instant; no rewrite"
}

func planMigration(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, opts ops.MigrationOptions) error {
	plan, err := ops.PlanMigration(ctx, db, opts)
	if err != nil {
		return err
	}
	pending := plan.Pending()
	if c.json() {
		names := []string{}
		for _, m := range pending {
			names = append(names, m.String())
		}
		return writeJSON(w, map[string]any{"would_run": names, "down": opts.Down, "plan": plan})
	}
	fmt.Fprintf(w, "database %s, PostgreSQL %s, role %s; about %d jobs, %.0f MiB\n",
		clean(plan.Database), plan.Server, clean(plan.Role), plan.Rows, float64(plan.Bytes)/(1<<20))
	if len(pending) == 0 {
		_, err = fmt.Fprintln(w, "nothing to do")
		return err
	}
	var names []string
	for _, m := range pending {
		names = append(names, m.String())
	}
	steps := plan.Steps()
	fmt.Fprintf(w, "%s would run, %s:\n", strings.Join(names, ", "), count(int64(len(steps)), "step"))
	t := newTable(w, "STEP", "LOCK ON JOBS", "ESTIMATE", "REWRITES")
	var total time.Duration
	for _, s := range steps {
		total += s.Estimate
		t.row(s.Name, or(s.Lock, none), estimate(s), yesNo(s.Rewrites))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "in all about %s on a machine at rest; a lock that anybody would wait for is given up after 50 ms and asked for again\n", estimate(migrations.PlannedStep{Estimate: total}))
	printLosses(w, plan)
	_, err = fmt.Fprintln(w, "nothing was changed")
	return err
}

func estimate(s migrations.PlannedStep) string {
	if s.Estimate < 100*time.Millisecond {
		return "instant"
	}
	return "~" + brief(s.Estimate)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func printLosses(w io.Writer, plan migrations.Plan) {
	for _, l := range plan.Losses {
		fmt.Fprintf(w, "lost: %d %s\n", l.Rows, l.What)
	}
	for _, j := range plan.Typed {
		fmt.Fprintf(w, "not http: %d %s jobs (%s): refused without --typed-jobs\n", j.Jobs, clean(j.Type), clean(j.Status))
	}
	for _, a := range plan.Agents {
		fmt.Fprintf(w, "agent %s is at work: refused until it is stopped\n", clean(a))
	}
}
