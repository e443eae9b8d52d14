package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/docker"
	"github.com/specql/specql-ops/runners/serverless"
	"github.com/specql/specql-ops/runners/shell"
)

// exitFound says that the doctor found something amiss.
const exitFound = 1

// examinations look at what the host gives to each type. A type without one
// is not built into this program.
var examinations = []struct {
	typ     jobs.ExecutionType
	examine func(context.Context) []runners.Check
}{
	{jobs.HTTP, examineHTTP},
	{jobs.Shell, shell.Examine},
	{jobs.Docker, docker.Examine},
	{jobs.Serverless, serverless.Examine},
}

// examineHTTP needs nothing of the host.
func examineHTTP(context.Context) []runners.Check {
	return []runners.Check{{Name: "client", OK: true, Found: "built in"}}
}

// examine is what an agent finds of its host at its start; what does not answer
// soon is found missing.
func examine(look func(context.Context) []runners.Check) []runners.Check {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return look(ctx)
}

// examined is what the doctor says of a type.
type examined struct {
	Type   jobs.ExecutionType `json:"execution_type"`
	Runs   bool               `json:"runs"` // jobs of the type can be run here
	Checks []runners.Check    `json:"checks"`
}

func doctor() *cobra.Command {
	var output string
	var types []string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host can run, at which isolation, and what to change to get more",
		Long: "doctor tries what each execution type needs of this host, as the user that it is run by: run it as\n" +
			"the agent's. It ends with 0 when nothing is amiss, else with 1.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is not text or json", output)
			}
			chosen := map[jobs.ExecutionType]bool{}
			for _, word := range types {
				t, err := jobs.ParseExecutionType(word)
				if err != nil {
					return fmt.Errorf("--types: %w", err)
				}
				chosen[t] = true
			}
			var list []examined
			for _, e := range examinations {
				if len(chosen) == 0 || chosen[e.typ] {
					checks := e.examine(cmd.Context())
					list = append(list, examined{e.typ, checks[0].OK, checks})
				}
			}
			if output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				if err := encoder.Encode(list); err != nil {
					return err
				}
			} else if err := printExamined(cmd.OutOrStdout(), list); err != nil {
				return err
			}
			if n := amiss(list); n > 0 {
				return &exitError{exitFound, fmt.Errorf("%d findings are amiss: see what is advised", n)}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	cmd.Flags().StringSliceVar(&types, "types", nil, "look at these execution types only")
	return cmd
}

func amiss(list []examined) (n int) {
	for _, e := range list {
		for _, c := range e.Checks {
			if !c.OK {
				n++
			}
		}
	}
	return n
}

func printExamined(out io.Writer, list []examined) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, e := range list {
		runs := "can be run"
		if !e.Runs {
			runs = "cannot be run"
		}
		fmt.Fprintf(w, "%s\t%s\t\n", e.Type, runs)
		for _, c := range e.Checks {
			mark := "ok"
			if !c.OK {
				mark = "--"
			}
			fmt.Fprintf(w, "  %s %s\t%s\t\n", mark, c.Name, c.Found)
			if c.Advice != "" {
				fmt.Fprintf(w, "\t→ %s\t\n", c.Advice)
			}
		}
	}
	return w.Flush()
}

// agentFiles are files of the agent's that no job is to see: the registry, and
// what holds credentials of the database, of container engines and of clouds.
func agentFiles(registry string, env func(string) string) []string {
	files := []string{"/etc/specql"}
	if path, err := filepath.Abs(registry); err == nil {
		files = append(files, path)
	}
	for _, name := range []string{"PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY", "DOCKER_CERT_PATH", "DOCKER_CONFIG",
		"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "CREDENTIALS_DIRECTORY"} {
		if path := env(name); path != "" {
			files = append(files, path)
		}
	}
	if socket, ok := strings.CutPrefix(env("DOCKER_HOST"), "unix://"); ok {
		files = append(files, socket)
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, name := range []string{".pgpass", ".pg_service.conf", ".postgresql", ".docker", ".aws", ".ssh"} {
			files = append(files, filepath.Join(cmp.Or(home, "/"), name))
		}
	}
	return files
}
