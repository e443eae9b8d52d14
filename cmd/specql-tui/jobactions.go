package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
)

const filterHelp = "FILTER words: type:shell,docker status:failed dead service:stripe_api id:UUID age>1h age<5m; dead (or\n" +
	"status:dead) is the dead letters: failed without attempts left. Any other word is looked for in service,\n" +
	"operation and identifier. Quote age>1h for your shell."

const actionHelp = "IDs are acted on at once. A FILTER only shows how many jobs it would change, and some of them, until\n" +
	"--yes is given; then they are changed 1,000 in a transaction. Each call leaves a row in the audit log.\n" +
	"Ends with 1 when some jobs were left alone, 4 when an id is unknown.\n\n" + filterHelp

func jobsRetry(c *common) *cobra.Command {
	var attempts int
	cmd := jobsAction(c, ops.RetryJobs, &attempts,
		actions.Does(actions.JobsRetry),
		"Dead letters and cancelled jobs get --attempts more attempts; what waits for its retry goes at once. The\n"+
			"error stays until the next attempt ends.\n\n"+actionHelp,
		"  specql-tui jobs retry 9aa260a2-3c55-4d7e-803b-9e8657e0f636\n  specql-tui jobs retry dead service:stripe_api 'age<1d' --reason \"their outage\" --yes")
	cmd.Flags().IntVar(&attempts, "attempts", 1, "how many attempts they get at least, 1 to 100")
	return cmd
}

func jobsCancel(c *common) *cobra.Command {
	return jobsAction(c, ops.CancelJobs, new(1), actions.Does(actions.JobsCancel),
		"Running ones are stopped by their agent within a second. Ended ones are left alone.\n\n"+actionHelp,
		"  specql-tui jobs cancel type:shell status:pending --reason \"wrong script\" --yes")
}

func jobsAction(c *common, action ops.JobAction, attempts *int, short, long, example string) *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:     string(action) + " ID…|FILTER…",
		Short:   short,
		Long:    long,
		Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			if *attempts < 1 || *attempts > 100 {
				return usageError("--attempts %d is out of range: give 1 to 100", *attempts)
			}
			f, named, err := whichJobs(args)
			if err != nil {
				return err
			}
			change := ops.JobChange{Attempts: *attempts, By: ops.Self(program)}
			change.By.Reason = reason
			return c.working(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				plan, err := ops.PlanJobs(ctx, db, action, f)
				switch {
				case err != nil:
					return err
				case len(plan.Missing) > 0 && named:
					return &statusError{exitInvalid, fmt.Errorf("%w: %s: nothing was changed", ops.ErrNoJob, idList(plan.Missing))}
				case !yes && !named:
					return printJobPlan(cmd.OutOrStdout(), c, plan)
				}
				if w := cmd.ErrOrStderr(); isTerminal(w) && plan.Count > ops.MaxPage {
					change.Progress = func(done int64) {
						fmt.Fprintf(w, "%d of %s jobs %s\n", done, capped(plan.Count, plan.Capped), action.Done())
					}
				}
				done, err := ops.ChangeJobs(ctx, db, action, f, change)
				if err != nil {
					if done.Changed > 0 {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s %s before this:\n", count(done.Changed, "job"), action.Done())
					}
					return err
				}
				return printJobResult(cmd.OutOrStdout(), c, plan, done)
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "change what the FILTER selects")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

// whichJobs reads ids or filter words; named says that they are ids.
func whichJobs(args []string) (f ops.Filter, named bool, err error) {
	for _, a := range args {
		id, err := jobs.ParseID(a)
		if err != nil {
			continue
		}
		f.IDs = append(f.IDs, id)
	}
	switch {
	case len(args) == 0:
		return f, false, ops.ErrAllJobs
	case len(f.IDs) == len(args):
		return f, true, nil
	case len(f.IDs) > 0:
		return f, false, usageError("ids and filter words together: give one of them, or write ids as id:UUID")
	}
	f, err = ops.ParseFilter(strings.Join(args, " "))
	if err != nil {
		return f, false, &statusError{exitUsage, err}
	}
	return f, false, nil
}

func idList(ids []jobs.ID) string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	return strings.Join(list, ", ")
}

func printJobPlan(w io.Writer, c *common, p ops.JobPlan) error {
	if c.json() {
		return writeJSON(w, map[string]any{"action": p.Action, "changed": 0, "would_change": p.Count, "would_change_capped": p.Capped,
			"running": p.Running, "sample": jobReports(p.Sample)})
	}
	if p.Count == 0 {
		_, err := fmt.Fprintf(w, "no job is selected that %s takes\n", p.Action)
		return err
	}
	t := newTable(w, "ID", "CREATED", "SERVICE", "OPERATION", "STATUS", "ATTEMPT")
	for _, r := range p.Sample {
		t.row(r.ID.String(), when(r.CreatedAt), shorten(r.Service, 40), shorten(r.Operation, 40), string(r.Status), fmt.Sprintf("%d/%d", r.Attempts, r.MaxAttempts))
	}
	if err := t.flush(); err != nil {
		return err
	}
	running := ""
	if p.Running > 0 {
		running = fmt.Sprintf(", %d of them running", p.Running)
	}
	_, err := fmt.Fprintf(w, "%s would be %s%s; nothing was changed: add --yes\n", jobCount(p.Count, p.Capped), p.Action.Done(), running)
	return err
}

func jobCount(n int64, more bool) string {
	if more {
		return capped(n, true) + " jobs"
	}
	return count(n, "job")
}

func printJobResult(w io.Writer, c *common, p ops.JobPlan, r ops.JobResult) error {
	status := exitFine
	if r.Locked > 0 || len(p.Unfit) > 0 {
		status = exitFound
	}
	if c.json() {
		if err := writeJSON(w, map[string]any{"action": r.Action, "changed": r.Changed, "locked": r.Locked, "left_alone": jobReports(p.Unfit)}); err != nil {
			return err
		}
		return quiet(status)
	}
	for _, u := range p.Unfit {
		fmt.Fprintf(w, "%s (%s) is %s: left alone\n", u.ID, clean(u.Identifier), u.Status)
	}
	if r.Locked > 0 {
		fmt.Fprintf(w, "%s left alone: somebody else's transaction has locked them\n", count(r.Locked, "job"))
	}
	if _, err := fmt.Fprintf(w, "%s %s\n", count(r.Changed, "job"), r.Action.Done()); err != nil {
		return err
	}
	return quiet(status)
}

type jobReport struct {
	ID              jobs.ID            `json:"id"`
	Identifier      string             `json:"identifier"`
	Service         string             `json:"service_name"`
	Operation       string             `json:"operation"`
	Type            jobs.ExecutionType `json:"execution_type"`
	Status          jobs.Status        `json:"status"`
	Attempts        int                `json:"attempts"`
	MaxAttempts     int                `json:"max_attempts"`
	CreatedAt       time.Time          `json:"created_at"`
	StartedAt       *time.Time         `json:"started_at"`
	CompletedAt     *time.Time         `json:"completed_at"`
	RetryAt         *time.Time         `json:"retry_at"`
	DurationSeconds *float64           `json:"duration_seconds"`
	Error           string             `json:"error_message"`
	HeldReason      string             `json:"held_reason,omitempty"`
}

func jobReports(rows []ops.JobRow) []jobReport {
	list := []jobReport{}
	for _, r := range rows {
		list = append(list, jobReport(r))
	}
	return list
}
