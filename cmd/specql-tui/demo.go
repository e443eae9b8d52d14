package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/internal/demo"
)

func demoCommand(c *common) *cobra.Command {
	var headless, untouched bool
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Try it: a private PostgreSQL, an application's jobs, sample services, an agent and the console",
		Long: "Everything runs on this machine, in a temporary folder, and is gone afterwards. Without a terminal,\n" +
			"or with --headless, it runs for --duration and reports. Ends with 1 when a job was lost.\n" +
			"With --untouched the application is still HTTP-only: the console's page Migrate leads from there.",
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if duration < time.Second {
				return usageError("--duration %s is too short: give 1s or more", duration)
			}
			terminal := term.IsTerminal(os.Stdin.Fd()) && term.IsTerminal(os.Stdout.Fd())
			headless = headless || c.json() || !terminal
			if untouched && headless {
				return usageError("--untouched needs a terminal: in its console the migration is walked")
			}
			result, err := demo.Run(cmd.Context(), demo.Options{
				Headless:  headless,
				Duration:  duration,
				Untouched: untouched,
				Console:   func(ctx context.Context, url string) error { return console(ctx, url, false) },
				Log:       cmd.ErrOrStderr(),
			})
			if err != nil || !headless {
				return err
			}
			if err := printDemo(cmd.OutOrStdout(), c, result); err != nil {
				return err
			}
			if result.Lost > 0 {
				return quiet(exitFound)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&headless, "headless", false, "no console: run for --duration, report, end")
	cmd.Flags().BoolVar(&untouched, "untouched", false, "begin before the migration, and walk it in the console; the agent starts once the schema is there")
	cmd.Flags().DurationVar(&duration, "duration", 20*time.Second, "how long a headless run takes new jobs")
	return cmd
}

func printDemo(w io.Writer, c *common, r demo.Result) error {
	if c.json() {
		return writeJSON(w, r)
	}
	t := newTable(w, "TYPE", "COMPLETED", "FAILED", "P50", "P95")
	names := make([]string, 0, len(r.Types))
	for name := range r.Types {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		x := r.Types[name]
		t.row(name, fmt.Sprint(x.Completed), fmt.Sprint(x.Failed), fmt.Sprintf("%.1fms", x.P50), fmt.Sprintf("%.1fms", x.P95))
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d jobs lost\n", r.Lost)
	return err
}
