package registry

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const page = "../docs/registry.md"

// The page's table of codes is the code's own.
func TestTheRegistryPageListsEveryCode(t *testing.T) {
	data, err := os.ReadFile(page)
	must(t, err)
	const begin, end = "<!-- codes: begin -->\n", "<!-- codes: end -->\n"
	head, rest, ok := strings.Cut(string(data), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("the page has no place for the table")
	}
	var table strings.Builder
	table.WriteString("| code | means |\n|---|---|\n")
	for _, e := range Explanations() {
		fmt.Fprintf(&table, "| `%s` | %s |\n", e.Code, e.Title)
	}
	golden(t, page, head+begin+table.String()+end+tail)
}

// What the page shows as the form is valid.
func TestTheRegistryPagesFormIsValid(t *testing.T) {
	data, err := os.ReadFile(page)
	must(t, err)
	blocks := 0
	for _, block := range strings.Split(string(data), "```yaml\n")[1:] {
		text, _, _ := strings.Cut(block, "```")
		if !strings.HasPrefix(text, "services:") {
			continue
		}
		blocks++
		text = strings.ReplaceAll(text, "runner_config: { … }", "runner_config: { base_url: 'https://h' }")
		text = strings.ReplaceAll(text, "security_policy: { … }", "security_policy: {}")
		if c, diags := Parse("f", []byte(text), Options{LookupEnv: noEnv}); c == nil || len(diags) > 0 {
			t.Errorf("%v", diags)
		}
	}
	if blocks == 0 {
		t.Error("the page shows no form")
	}
}
