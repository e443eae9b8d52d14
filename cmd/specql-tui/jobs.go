package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

func jobsCommand(c *common) *cobra.Command {
	cmd := group("jobs", "List jobs, show one, retry, cancel and enqueue them", "list, show, retry, cancel or enqueue")
	cmd.AddCommand(jobsList(c), jobsShow(c), jobsRetry(c), jobsCancel(c), jobsEnqueue(c))
	return cmd
}

func jobsList(c *common) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list [FILTER…]",
		Short:   "List jobs, newest first",
		Long:    "Of jobs that wait the last column says what holds them, if anything does.\n\n" + filterHelp,
		Example: "  specql-tui jobs list status:failed type:shell 'age<1h'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > ops.MaxPage {
				return usageError("--limit %d is out of range: give 1 to %d", limit, ops.MaxPage)
			}
			f, err := ops.ParseFilter(strings.Join(args, " "))
			if err != nil {
				return &statusError{exitUsage, err}
			}
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				rows, err := ops.ListJobs(ctx, db, f, ops.Page{Size: limit})
				if err != nil {
					return err
				}
				n, more, err := ops.CountJobs(ctx, db, f)
				if err != nil {
					return err
				}
				return printJobs(cmd.OutOrStdout(), c, rows, n, more)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many jobs, 1 to 1000")
	return cmd
}

func printJobs(w io.Writer, c *common, rows []ops.JobRow, n int64, more bool) error {
	if c.json() {
		return writeJSON(w, map[string]any{"count": n, "count_capped": more, "jobs": jobReports(rows)})
	}
	t := newTable(w, "ID", "CREATED", "TYPE", "SERVICE", "OPERATION", "STATUS", "ATTEMPT", "DURATION", "ERROR OR HOLD")
	for _, r := range rows {
		note := r.Error
		if r.HeldReason != "" {
			note = "held: " + r.HeldReason
		}
		t.row(r.ID.String(), when(r.CreatedAt), string(r.Type), shorten(r.Service, 40), shorten(r.Operation, 40), string(r.Status),
			fmt.Sprintf("%d/%d", r.Attempts, r.MaxAttempts), seconds(r.DurationSeconds), or(shorten(note, 80), none))
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %s jobs\n", len(rows), capped(n, more))
	return err
}

func seconds(s *float64) string {
	if s == nil {
		return none
	}
	return brief(time.Duration(*s * float64(time.Second)))
}

func jobsShow(c *common) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything about one job, with its failed attempts, their logs and why it waits",
		Long: "Of each attempt that failed, or wrote more than its output, the end of its log is shown. With --follow the\n" +
			"log of a running job is shown as it is written, until the job ends.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobs.ParseID(args[0])
			if err != nil {
				return &statusError{exitUsage, err}
			}
			run := c.reading
			if follow {
				run = c.working
			}
			return run(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				if follow {
					return known(followJob(ctx, cmd.OutOrStdout(), c, db, id))
				}
				d, err := ops.GetJob(ctx, db, id)
				if err != nil {
					return known(err)
				}
				return printJob(cmd.OutOrStdout(), c, d)
			})
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "show a running job's log as it is written")
	return cmd
}

// known gives the error of a job that is not there its status.
func known(err error) error {
	if errors.Is(err, ops.ErrNoJob) {
		return &statusError{exitInvalid, err}
	}
	return err
}

type attemptReport struct {
	Attempt         int        `json:"attempt"`
	Agent           string     `json:"agent"`
	StartedAt       *time.Time `json:"started_at"`
	FinishedAt      time.Time  `json:"finished_at"`
	DurationSeconds *float64   `json:"duration_seconds"`
	Error           string     `json:"error_message"`
	Violation       string     `json:"violation,omitempty"`
}

type jobDetailReport struct {
	jobReport
	Input           json.RawMessage `json:"input_data"`
	Output          json.RawMessage `json:"output_data"`
	RunnerConfig    json.RawMessage `json:"runner_config"`
	ResourceUsage   json.RawMessage `json:"resource_usage"`
	SecurityContext json.RawMessage `json:"security_context"`
	TimeoutSeconds  *int            `json:"timeout_seconds"`
	TenantID        string          `json:"tenant_id"`
	TriggeredBy     string          `json:"triggered_by"`
	CorrelationID   string          `json:"correlation_id"`
	IdempotencyKey  string          `json:"idempotency_key"`
	EntityType      string          `json:"entity_type"`
	EntityPK        string          `json:"entity_pk"`
	UpdatedAt       time.Time       `json:"updated_at"`
	Agent           string          `json:"agent"`
	History         []attemptReport `json:"history"`
	Logs            []logReport     `json:"logs"`
}

func printJob(w io.Writer, c *common, d ops.JobDetail) error {
	if c.json() {
		out := jobDetailReport{jobReport(d.JobRow), d.Input, d.Output, d.RunnerConfig, d.ResourceUsage, d.SecurityContext,
			d.TimeoutSeconds, d.TenantID, d.TriggeredBy, d.CorrelationID, d.IdempotencyKey, d.EntityType, d.EntityPK,
			d.UpdatedAt, d.Agent, []attemptReport{}, []logReport{}}
		for _, a := range d.History {
			out.History = append(out.History, attemptReport(a))
		}
		for _, l := range d.Logs {
			out.Logs = append(out.Logs, logReport{l.Attempt, l.Agent, l.Dropped, l.Lines})
		}
		return writeJSON(w, out)
	}
	t := newTable(w, "job", d.ID.String())
	line := func(name, value string) {
		if value != "" {
			t.row(name, value)
		}
	}
	line("identifier", d.Identifier)
	line("service", d.Service+"."+d.Operation)
	line("type", string(d.Type))
	line("status", string(d.Status))
	line("held", d.HeldReason)
	line("attempt", fmt.Sprintf("%d of %d", d.Attempts, d.MaxAttempts))
	line("created", when(d.CreatedAt))
	line("started", moment(d.StartedAt))
	line("completed", moment(d.CompletedAt))
	line("retry at", moment(d.RetryAt))
	if d.DurationSeconds != nil {
		line("duration", seconds(d.DurationSeconds))
	}
	line("agent", d.Agent)
	line("error", d.Error)
	line("tenant", d.TenantID)
	line("triggered by", d.TriggeredBy)
	line("correlation", d.CorrelationID)
	line("idempotency key", d.IdempotencyKey)
	line("entity", strings.Trim(d.EntityType+" "+d.EntityPK, " "))
	if d.TimeoutSeconds != nil {
		line("timeout", fmt.Sprintf("%ds", *d.TimeoutSeconds))
	}
	for _, j := range []struct {
		name string
		raw  json.RawMessage
	}{{"input", d.Input}, {"output", d.Output}, {"runner config", d.RunnerConfig}, {"resource usage", d.ResourceUsage},
		{"security context", d.SecurityContext}} {
		line(j.name, compact(j.raw))
	}
	for _, a := range d.History {
		line(fmt.Sprintf("attempt %d", a.Attempt), fmt.Sprintf("%s %s %s", when(a.FinishedAt), or(a.Agent, none), a.Error))
	}
	if err := t.flush(); err != nil {
		return err
	}
	return printLogs(w, d.Logs)
}

func moment(t *time.Time) string {
	if t == nil {
		return ""
	}
	return when(*t)
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}
