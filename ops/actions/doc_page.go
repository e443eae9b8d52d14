package actions

import (
	"fmt"
	"strings"
)

var placeTitles = map[Place]string{Everywhere: "Everywhere", Migrate: "Migrate", Live: "Live", Jobs: "Jobs: the list",
	Job: "Jobs: one job", Services: "Services", Agents: "Agents", Audit: "Audit"}

// Title is a place's name for people.
func (p Place) Title() string { return placeTitles[p] }

// Page is docs/keys.md.
func Page() []byte {
	var b strings.Builder
	b.WriteString(`# Keys

Generated from the console's own list of actions; do not edit.

Arrows, ` + "`j` `k` `g` `G`" + `, page up and page down move the cursor, ` + "`ctrl+c`" + ` leaves at once, and the
mouse's wheel and clicks work. ` + "`:`" + ` finds any action by its words. An action marked ● changes something: in a
read-only console it is greyed, and help says why.
A dialog takes keys as soon as the bottom line shows them: what was typed before is no answer to it.

To bind other keys, write the actions' names into ` + "`~/.config/specql/keys.yaml`" + ` (or the file that SPECQL_KEYS
names); an empty list takes an action's key away:

` + "```yaml\njobs.retry: R\njobs.cancel: [x, ctrl+k]\nundo: []\n```\n")
	for _, p := range Places() {
		if len(Of(p)) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| key | action | does | command |\n|---|---|---|---|\n", p.Title())
		for _, a := range Of(p) {
			mark, command := "", ""
			if a.Changes {
				mark = " ●"
			}
			if a.Command != "" {
				command = "`specql-tui " + a.Command + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s%s | %s | %s |\n", strings.Join(a.Keys, "` `"), a.ID, mark, a.Does, command)
		}
	}
	return []byte(b.String())
}
