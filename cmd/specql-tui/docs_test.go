package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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

// TestEveryCommandThatIsNamedIsThere looks through what people are told: the
// programs' own texts, and the pages.
func TestEveryCommandThatIsNamedIsThere(t *testing.T) {
	named := regexp.MustCompile("[\"`$] ?specql-tui ([a-z][a-z-]+)")
	seen := 0
	for _, dir := range []string{"../../ops", "../../registry", "../../migrations", "../../jobs", "../../agent", "../../runners", "../../tui", "../../cmd", "../../docs", "../../examples", "../../deploy"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") || !strings.Contains(".go .md .yaml .yml .json .service", filepath.Ext(path)) {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range named.FindAllStringSubmatch(string(text), -1) {
				seen++
				if cmd, _, err := newRoot().Find(m[1:]); err != nil || cmd.Name() != m[1] {
					t.Errorf("%s names specql-tui %s, which is not there", path, m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 50 {
		t.Errorf("only %d commands were found", seen)
	}
}
