package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/registry"
)

// wider marks commands whose --output takes more than text and json: the
// annotation holds the other words.
const wider = "output"

// overlayFlag adds --env, which chooses the file's overlay.
func overlayFlag(cmd *cobra.Command) func() string {
	env := cmd.Flags().String("env", "", "the overlay to merge: development, staging, production … (else SPECQL_ENV)")
	return func() string {
		if cmd.Flags().Changed("env") {
			return *env
		}
		return os.Getenv("SPECQL_ENV")
	}
}

func validateConfig(c *common) *cobra.Command {
	var verbose, strict bool
	cmd := &cobra.Command{
		Use:   "validate-config FILE",
		Short: "Check a service registry and report every fault with its line",
		Long: "Reads the registry as agents do and reports every fault at once: file, line, column, the offending\n" +
			"line and what to do; explain CODE says more. --output github prints annotations for GitHub Actions,\n" +
			"sarif a SARIF 2.1.0 log for code scanning. Needs no database. Warnings do not count unless --strict is\n" +
			"given. Ends with 3 when the file is not YAML, 4 when it is invalid.",
		Example: "  specql-tui validate-config registry/service_registry.yaml --verbose --env production\n" +
			"  specql-tui validate-config registry/service_registry.yaml --strict --output sarif > registry.sarif",
		Args:        usage(cobra.ExactArgs(1)),
		Annotations: map[string]string{wider: "github sarif"},
	}
	env := overlayFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v := registry.Validate(args[0], registry.Options{Env: env()})
		if v.Err != nil {
			return &statusError{v.ExitCode(strict), v.Err}
		}
		var err error
		switch w := cmd.OutOrStdout(); c.output {
		case "json":
			err = writeJSON(w, v)
		case "github":
			err = v.Diagnostics.WriteGitHub(w)
		case "sarif":
			err = v.Diagnostics.WriteSARIF(w, version.Short())
		default:
			err = v.WriteText(w, verbose)
		}
		if err != nil {
			return err
		}
		return quiet(v.ExitCode(strict))
	}
	cmd.Flags().BoolVar(&verbose, "verbose", false, "show each resolved value and where it comes from; secrets are masked")
	cmd.Flags().BoolVar(&strict, "strict", false, "a warning counts as an error")
	return cmd
}

func explainCommand(c *common) *cobra.Command {
	return &cobra.Command{
		Use:   "explain [CODE]",
		Short: "Say what a code of validate-config or migration-check means, with an example",
		Long:  "Without a code it lists them all. Needs no database. Ends with 4 when there is no such code.",
		Example: "  specql-tui explain unknown-field\n" +
			"  specql-tui explain string-volume",
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			if len(args) == 0 {
				return listCodes(w, c)
			}
			e, ok := registry.Explain(args[0])
			if !ok {
				hint := "explain alone lists the codes"
				if near := registry.NearestCode(args[0]); near != "" {
					hint = "did you mean " + near + "?"
				}
				return &statusError{exitInvalid, fmt.Errorf("there is no code %q: %s", args[0], hint)}
			}
			if c.json() {
				return writeJSON(w, e)
			}
			return printLines(w, e.String())
		},
	}
}

func listCodes(w io.Writer, c *common) error {
	if c.json() {
		return writeJSON(w, registry.Explanations())
	}
	t := newTable(w, "CODE", "MEANS")
	for _, e := range registry.Explanations() {
		t.row(string(e.Code), e.Title)
	}
	return t.flush()
}

func registryRender(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "render FILE",
		Short: "Print a registry as one environment's agents see it, as YAML",
		Long: "Overlays are merged and variables are in place; secrets are masked. What it prints can be compared\n" +
			"between environments. Needs no database. Ends with 3 or 4 when the file is not valid.",
		Example: "  specql-tui registry render registry/service_registry.yaml --env production",
		Args:    usage(cobra.ExactArgs(1)),
	}
	env := overlayFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		v := registry.Validate(args[0], registry.Options{Env: env()})
		if v.Err != nil {
			return &statusError{v.ExitCode(false), v.Err}
		}
		if v.Config == nil {
			if err := v.WriteText(cmd.ErrOrStderr(), false); err != nil {
				return err
			}
			return quiet(v.ExitCode(false))
		}
		if !c.json() {
			return v.Config.WriteYAML(cmd.OutOrStdout())
		}
		var b strings.Builder
		if err := v.Config.WriteYAML(&b); err != nil {
			return err
		}
		return writeJSON(cmd.OutOrStdout(), map[string]string{"file": args[0], "env": env(), "document": b.String()})
	}
	return cmd
}

func registrySchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of registry files, for editors",
		Long: "Editors complete and check a registry whose first line is\n" +
			"  # yaml-language-server: $schema=PATH-OR-URL\n" +
			"It knows fields, types, words and bounds; validate-config knows all the rest.",
		Example: "  specql-tui registry schema > registry.schema.json",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(registry.JSONSchema())
			return err
		},
	}
}

// outputWords are what --output takes for a command.
func outputWords(cmd *cobra.Command) []string {
	return append([]string{"text", "json"}, strings.Fields(cmd.Annotations[wider])...)
}

func checkOutput(cmd *cobra.Command, word string) error {
	words := outputWords(cmd)
	if slices.Contains(words, word) {
		return nil
	}
	last := len(words) - 1
	return usageError("--output %q is unknown: use %s or %s", word, strings.Join(words[:last], ", "), words[last])
}
