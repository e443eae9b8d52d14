package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

const commandsDoc = "../../docs/commands.md"

func TestCommandsPageSaysWhatTheCommandsDo(t *testing.T) {
	want := commandsPage()
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(commandsDoc, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(commandsDoc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs/commands.md is not what the commands say: run go test ./cmd/specql-tui -run CommandsPage -update")
	}
}

func commandsPage() []byte {
	var b bytes.Buffer
	root := newRoot()
	root.InitDefaultCompletionCmd()
	fmt.Fprintf(&b, "# Commands\n\nGenerated from the program's own help; do not edit.\n\n%s\n", root.Long)
	fmt.Fprintf(&b, "\nFlags of every command:\n\n```\n%s```\n", root.PersistentFlags().FlagUsages())
	var write func(cmd *cobra.Command)
	write = func(cmd *cobra.Command) {
		if cmd.Annotations[onlyGroups] == "" {
			fmt.Fprintf(&b, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
			if cmd.Long != "" && cmd != root {
				fmt.Fprintf(&b, "\n%s\n", cmd.Long)
			}
			fmt.Fprintf(&b, "\n```\n%s\n", cmd.UseLine())
			if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
				fmt.Fprintf(&b, "\n%s", flags)
			}
			fmt.Fprint(&b, "```\n")
			if cmd.Example != "" {
				fmt.Fprintf(&b, "\n```\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(cmd.Example, "  "), "\n  ", "\n"))
			}
		}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "completion" {
				write(sub)
			}
		}
	}
	write(root)
	return b.Bytes()
}
