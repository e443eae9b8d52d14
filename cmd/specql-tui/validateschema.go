package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/ops"
)

func validateSchema(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "validate-schema",
		Short: "Check every column, constraint, index, view, function and trigger of the jobs schema, and its rows",
		Long:  "Ends with 4 when something is missing, different or invalid, or rows break the contract. What is extra is shown and no fault.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			return c.session(ctx, func(db *pgxpool.Pool) error {
				found, err := ops.ValidateSchema(ctx, db)
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
		return writeJSON(w, map[string]any{"ok": r.OK(), "findings": r.Findings, "rows": r.Rows})
	}
	t := newTable(w, "STATE", "KIND", "NAME", "NOTE")
	for _, f := range r.Findings {
		note := ""
		switch f.State {
		case migrations.Different:
			note = fmt.Sprintf("is %s, should be %s", shorten(f.Have, 80), shorten(f.Want, 80))
		case migrations.Invalid:
			note = "there, but not at work: " + shorten(f.Have, 120)
		case migrations.Extra:
			note = "no migration's; left alone"
		}
		t.row(string(f.State), f.Kind, f.Name, note)
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if _, err := fmt.Fprintf(w, "%s of jobs.tb_job_run, such as %s, break the contract: %s\n", count(row.Rows, "row"), clean(row.Example), row.Rule); err != nil {
			return err
		}
	}
	faults, all := len(r.Faults()), len(r.Findings)-r.Count(migrations.Extra)
	if faults == 0 {
		_, err := fmt.Fprintf(w, "all %d objects are as they should be\n", all)
		return err
	}
	_, err := fmt.Fprintf(w, "%d of %d objects are not as they should be: run specql-tui migrate-schema\n", faults, all)
	return err
}
