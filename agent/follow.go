package agent

import (
	"context"
	"fmt"

	"github.com/specql/specql-ops/registry"
)

// Follow applies what the watcher finds until ctx ends: a good file is
// applied whole, a bad one changes nothing and its reason becomes visible.
func (a *Agent) Follow(ctx context.Context, w *registry.Watcher) {
	a.mu.Lock()
	a.reload = w.Reload
	a.mu.Unlock()
	go w.Run(ctx)
	for e := range w.Events() {
		switch {
		case e.Config != nil:
			a.log.Info("registry changed", "changes", registry.Diff(a.config(), e.Config).String())
			a.Apply(e.Config)
		case e.Err != nil:
			a.Reject(e.Err.Error())
		case e.Diags.HasErrors():
			a.Reject(firstError(e.Diags))
		}
		if e.Asked {
			a.answerReload()
		}
	}
}

func firstError(ds registry.Diagnostics) string {
	for _, d := range ds {
		if d.Severity == registry.Error {
			if more := ds.Errors() - 1; more > 0 {
				return fmt.Sprintf("%s:%d:%d: %s (and %d more)", d.File, d.Line, d.Column, d.Message, more)
			}
			return fmt.Sprintf("%s:%d:%d: %s", d.File, d.Line, d.Column, d.Message)
		}
	}
	return "the file has faults"
}
