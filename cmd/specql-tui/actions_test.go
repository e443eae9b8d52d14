package main

import (
	"strings"
	"testing"

	"github.com/specql/specql-ops/ops/actions"
)

func TestCommandsThatDoWhatAKeyDoesAreThereAndSayTheSame(t *testing.T) {
	for _, a := range actions.All() {
		if a.Command == "" {
			continue
		}
		cmd, rest, err := newRoot().Find(strings.Fields(a.Command))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s names the command %q, which is not there", a.ID, a.Command)
			continue
		}
		if a.Changes && a.Place != actions.Job && a.ID != actions.LiveSwitch && cmd.Short != a.Does {
			t.Errorf("%s says %q, the command %s says %q", a.ID, a.Does, a.Command, cmd.Short)
		}
	}
}
