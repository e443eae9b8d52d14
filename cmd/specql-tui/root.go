package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/x/term"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui"
)

const program = "specql-tui"

// readTimeout bounds a command that only reads.
const readTimeout = 30 * time.Second

// common are the flags that every command takes.
type common struct {
	databaseURL string
	output      string
}

func (c *common) json() bool { return c.output == "json" }

// connect opens the database that the flags and the environment name.
func (c *common) connect(ctx context.Context) (*pgxpool.Pool, error) {
	return ops.Connect(ctx, ops.DatabaseURL(c.databaseURL, os.Getenv), program)
}

// reading runs f on a migrated database, with a deadline.
func (c *common) reading(ctx context.Context, f func(ctx context.Context, db *pgxpool.Pool) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return c.working(ctx, f)
}

// working runs f on a migrated database for as long as it takes.
func (c *common) working(ctx context.Context, f func(ctx context.Context, db *pgxpool.Pool) error) error {
	db, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := ops.CheckMigrated(ctx, db); err != nil {
		return err
	}
	return f(ctx, db)
}

// group is a command that only holds others.
func group(name, short, commands string) *cobra.Command {
	return &cobra.Command{
		Use:         name,
		Short:       short,
		Args:        usage(cobra.NoArgs),
		Annotations: map[string]string{onlyGroups: "true"},
		RunE: func(*cobra.Command, []string) error {
			return usageError("%s needs a command: %s", name, commands)
		},
	}
}

// onlyGroups marks commands that do nothing by themselves.
const onlyGroups = "only-groups"

func newRoot() *cobra.Command {
	c := &common{}
	var readOnly bool
	root := &cobra.Command{
		Use:   program,
		Short: "Console and commands to operate SpecQL's jobs",
		Long: "Without a command " + program + " opens the console. Every command prints text, or JSON with\n" +
			"--output json, and ends with 0 when all is fine, 1 when it found something, 2 for wrong usage or a\n" +
			"file that does not exist, 3 for unreadable YAML, 4 for an invalid configuration, schema or name,\n" +
			"5 when the database is unreachable or does not permit it.",
		Version:           version.String(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return checkOutput(cmd, c.output) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.json() || !term.IsTerminal(os.Stdin.Fd()) || !term.IsTerminal(os.Stdout.Fd()) {
				return usageError("the console needs a terminal: run it in one, or use a command such as queue-status, " +
					"jobs list, agents, execution-types, validate-schema or validate-config (see " + program + " --help)")
			}
			return console(cmd.Context(), ops.DatabaseURL(c.databaseURL, os.Getenv), readOnly)
		},
	}
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := "see " + program + " --help"
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "?"
		}
		return usageError("unknown command %q: %s", args[0], hint)
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate(program + " {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%v: see %s --help", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVar(&c.databaseURL, "database-url", "",
		"PostgreSQL, such as postgres://user@host/db (else SPECQL_DATABASE_URL, DATABASE_URL, then PG* and ~/.pgpass)")
	root.PersistentFlags().StringVar(&c.output, "output", "text", "text or json")
	root.Flags().BoolVar(&readOnly, "read-only", false, "open the console without its actions")
	root.AddCommand(migrateSchema(c), validateSchema(c), checkPermissions(c), validateConfig(c), migrationCheck(c), explainCommand(c),
		executionTypes(c), services(c), rollback(c), emergencyStop(c), resume(c), queueStatus(c),
		agents(c), jobsCommand(c), registryCommand(c), demoCommand(c))
	return root
}

// console opens the console on the database at url until it is left.
func console(ctx context.Context, url string, readOnly bool) error {
	db, err := ops.Connect(ctx, url, program)
	if err != nil {
		return err
	}
	defer db.Close()
	return tui.Run(ctx, tui.Options{Pool: db, By: ops.Self(program), ReadOnly: readOnly})
}
