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
	"github.com/specql/specql-ops/registry"
)

const versionHelp = "VERSION is latest, previous (the one before it, of the same environment) or the beginning of a hash. Ends\n" +
	"with 4 when it stands for no version or for several, and names those that there are."

func registryCommand(c *common) *cobra.Command {
	cmd := group("registry", "See which registries agents applied, what changed, and what a file comes to", "history, show, diff, render or schema")
	cmd.AddCommand(registryHistory(c), registryShow(c), registryDiff(c), registryRender(c), registrySchema())
	return cmd
}

// environment adds --env; the function returns nil where it was not given.
func environment(cmd *cobra.Command) func() *string {
	env := cmd.Flags().String("env", "", "of this environment only; \"\" is the base (default: of all)")
	return func() *string {
		if cmd.Flags().Changed("env") {
			return env
		}
		return nil
	}
}

type versionReport struct {
	ID          int64     `json:"id"`
	Hash        string    `json:"hash"`
	Environment string    `json:"environment"`
	File        string    `json:"file"`
	Services    int       `json:"services"`
	AppliedAt   time.Time `json:"applied_at"`
	Agent       string    `json:"agent"`
	Host        string    `json:"host"`
}

func registryHistory(c *common) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the registry versions that agents applied, newest first",
		Long: "A version is listed once for each time that it took the place of another one, however many agents\n" +
			"applied it. The audit log says what each changed.",
		Args: usage(cobra.NoArgs),
	}
	env := environment(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many versions, 1 to 1000")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > ops.MaxHistory {
			return usageError("--limit %d is out of range: give 1 to %d", limit, ops.MaxHistory)
		}
		return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
			list, err := ops.ListVersions(ctx, db, env(), limit)
			if err != nil {
				return err
			}
			return printHistory(cmd.OutOrStdout(), c, list)
		})
	}
	return cmd
}

func printHistory(w io.Writer, c *common, list []ops.VersionRow) error {
	if c.json() {
		out := []versionReport{}
		for _, v := range list {
			out = append(out, versionReport(v))
		}
		return writeJSON(w, out)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no agent has applied a registry yet")
		return err
	}
	t := newTable(w, "APPLIED", "HASH", "ENVIRONMENT", "SERVICES", "AGENT", "HOST", "FILE")
	for _, v := range list {
		t.row(when(v.AppliedAt), v.Short(), or(v.Environment, none), fmt.Sprint(v.Services), v.Agent, v.Host, v.File)
	}
	return t.flush()
}

func registryShow(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show VERSION",
		Short:   "Show a registry version's text, without its secrets",
		Long:    "The text is the file's own, comments included, but secrets are masked: agents never store them.\n" + versionHelp,
		Example: "  specql-tui registry show previous",
		Args:    usage(cobra.ExactArgs(1)),
	}
	env := environment(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
			v, err := ops.GetVersion(ctx, db, env(), args[0])
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(cmd.OutOrStdout(), struct {
					versionReport
					Document string `json:"document"`
				}{versionReport(v.VersionRow), v.Document})
			}
			return printLines(cmd.OutOrStdout(), v.Document)
		})
	}
	return cmd
}

func registryDiff(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show what differs between two registry versions",
		Long: "Prints the services and fields that differ and a unified diff of the texts. Secrets are masked in both,\n" +
			"so one that changed does not show. Ends with 0 whether they differ or not.\n" + strings.Replace(versionHelp, "VERSION is", "A and B are each", 1),
		Example: "  specql-tui registry diff previous latest",
		Args:    usage(cobra.ExactArgs(2)),
	}
	env := environment(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
			from, err := ops.GetVersion(ctx, db, env(), args[0])
			if err != nil {
				return err
			}
			to, err := ops.GetVersion(ctx, db, env(), args[1])
			if err != nil {
				return err
			}
			return printDiff(cmd.OutOrStdout(), c, ops.DiffVersions(from, to))
		})
	}
	return cmd
}

func printDiff(w io.Writer, c *common, d ops.VersionDiff) error {
	if c.json() {
		return writeJSON(w, struct {
			From    versionReport     `json:"from"`
			To      versionReport     `json:"to"`
			Changes *registry.Changes `json:"changes"`
			Diff    string            `json:"diff"`
		}{versionReport(d.From), versionReport(d.To), d.Changes, d.Text})
	}
	if d.Text == "" {
		_, err := fmt.Fprintf(w, "%s and %s have the same text\n", d.From.Short(), d.To.Short())
		return err
	}
	if d.Changes != nil {
		if _, err := fmt.Fprintln(w, clean(d.Changes.String())); err != nil {
			return err
		}
	}
	return printLines(w, d.Text)
}

// printLines prints a text of several lines; what could move the cursor is
// taken out of each.
func printLines(w io.Writer, text string) error {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(clean(strings.TrimRight(line, "\r\n")) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
