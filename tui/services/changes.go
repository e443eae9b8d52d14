package services

import (
	"context"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// versionsMost is how many versions the page offers to compare.
const versionsMost = 30

type diffMsg struct {
	versions []ops.VersionRow
	err      error
}

// changes reads which versions there are.
func (p *Page) changes() tea.Cmd {
	read := p.source.Versions
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), parts.ReadDeadline)
		defer cancel()
		list, err := read(ctx)
		return diffMsg{list, err}
	}
}

// showChanges offers each version beside the one before it.
func (p *Page) showChanges(msg diffMsg) tea.Cmd {
	switch {
	case msg.err != nil:
		return parts.Toast("The registry's history could not be read: "+msg.err.Error(), true)
	case len(msg.versions) < 2:
		return parts.Toast("The registry has not changed since the first version was applied.", false)
	}
	ask := parts.Ask{Title: "What did which registry version change?"}
	for i, v := range msg.versions[:min(len(msg.versions)-1, versionsMost)] {
		before := msg.versions[i+1]
		ask.Choices = append(ask.Choices, parts.Choice{
			Text: v.Short() + "  " + parts.Since(p.env.Now, v.AppliedAt) + " ago by " + parts.Clean(v.Agent) + ", after " + before.Short(),
			Ask:  p.comparing(before, v)})
	}
	return p.env.Ask(ask)
}

func (p *Page) comparing(from, to ops.VersionRow) parts.Ask {
	diff := p.source.Diff
	return parts.Ask{Title: "Registry " + from.Short() + " → " + to.Short(), Shows: func(ctx context.Context) ([]string, error) {
		d, err := diff(ctx, from.Hash, to.Hash)
		if err != nil {
			return nil, err
		}
		if d.Text == "" {
			return []string{"The texts are the same. Secrets are masked in both, so one that changed does not show."}, nil
		}
		return strings.Split(strings.TrimRight(d.Text, "\n"), "\n"), nil
	}}
}
