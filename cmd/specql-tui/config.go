package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/registry"
)

func validateConfig(c *common) *cobra.Command {
	var verbose bool
	var env string
	cmd := &cobra.Command{
		Use:   "validate-config FILE",
		Short: "Check a service registry and report every fault with its line",
		Long: "Reads the registry as agents do and reports every fault at once: file, line, column, the offending\n" +
			"line and what to do. Needs no database. Ends with 3 when the file is not YAML, 4 when it is invalid.",
		Example: "  specql-tui validate-config registry/service_registry.yaml --verbose --env production",
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("env") {
				env = os.Getenv("SPECQL_ENV")
			}
			v := registry.Validate(args[0], registry.Options{Env: env})
			if v.Err != nil {
				return &statusError{v.ExitCode(false), v.Err}
			}
			var err error
			if c.json() {
				err = writeJSON(cmd.OutOrStdout(), v)
			} else {
				err = v.WriteText(cmd.OutOrStdout(), verbose)
			}
			if err != nil {
				return err
			}
			return quiet(v.ExitCode(false))
		},
	}
	cmd.Flags().BoolVar(&verbose, "verbose", false, "show each resolved value and where it comes from; secrets are masked")
	cmd.Flags().StringVar(&env, "env", "", "the overlay to merge: development, staging, production … (else SPECQL_ENV)")
	return cmd
}
