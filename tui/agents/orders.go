package agents

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

var orders = map[actions.ID]ops.Order{actions.AgentsPause: ops.Pause, actions.AgentsDrain: ops.Drain,
	actions.AgentsResume: ops.Resume, actions.AgentsReload: ops.Reload}

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	if _, isOrder := orders[id]; isOrder && len(p.alive()) == 0 {
		return "no agent is alive"
	}
	return ""
}

// alive lists the agents that can be ordered about.
func (p *Page) alive() []ops.AgentRow {
	var out []ops.AgentRow
	for _, a := range p.feed.Value {
		if a.Alive() {
			out = append(out, a)
		}
	}
	return out
}

// Do gives an order to the agent under the cursor, or to all of them.
func (p *Page) Do(id actions.ID) tea.Cmd {
	order, ok := orders[id]
	alive := p.alive()
	if !ok || len(alive) == 0 {
		return nil
	}
	title := actions.Must(id).Title
	title = strings.ToUpper(title[:1]) + title[1:]
	all := p.ordering(order, title+" all "+strconv.Itoa(len(alive))+" agents", alive)
	if p.table.Cursor < len(p.feed.Value) && p.feed.Value[p.table.Cursor].Alive() {
		a := p.feed.Value[p.table.Cursor]
		one := p.ordering(order, title+" "+parts.Clean(a.Name), []ops.AgentRow{a})
		if len(alive) == 1 {
			return p.env.Ask(one)
		}
		return p.env.Ask(parts.Ask{Title: title + " agents", Choices: []parts.Choice{
			{Key: "o", Text: one.Title, Ask: one}, {Key: "a", Text: all.Title, Ask: all}}})
	}
	return p.env.Ask(all)
}

func (p *Page) ordering(order ops.Order, title string, list []ops.AgentRow) parts.Ask {
	do := p.source.Order
	return parts.Ask{Title: title,
		Plan: func(context.Context) (parts.Plan, error) {
			return parts.Plan{Effects: effects(order, list, len(p.alive()) == len(list)), Reason: order == ops.Drain || order == ops.Pause}, nil
		},
		Do: func(ctx context.Context, said parts.Said, _ func(int64)) parts.Outcome {
			done, err := do(ctx, list, order, said.Reason)
			if err != nil {
				return parts.Failed("The order was not given.", err)
			}
			out := parts.Outcome{Lines: []string{"● " + agentsText(len(done.Changed)) + " told; the State column shows when they have obeyed.", "The order is in the audit log."}}
			if len(done.Changed) == 0 {
				return parts.Outcome{Lines: []string{"○ Nothing to do: it is wanted of them already."}}
			}
			if order == ops.Drain || order == ops.Pause {
				back := p.ordering(ops.Resume, "Resume "+agentsText(len(list)), list)
				out.Undo = &parts.Undo{Title: back.Title, Plan: back.Plan, Do: back.Do}
			}
			return out
		}}
}

func agentsText(n int) string {
	if n == 1 {
		return "1 agent"
	}
	return strconv.Itoa(n) + " agents"
}

// effects says in sentences what an order does.
func effects(order ops.Order, list []ops.AgentRow, all bool) []string {
	running := 0
	for _, a := range list {
		running += a.Running
	}
	out := map[ops.Order][]string{
		ops.Pause:  {"They claim no more jobs; what they run goes on to its end."},
		ops.Drain:  {"They claim no more jobs, and let those that run end or hand them back after their drain timeout.", "They stay until they are resumed or stopped."},
		ops.Resume: {"They claim jobs again at once."},
		ops.Reload: {"They look at their registry file now. A faulty one changes nothing and is reported here."},
	}[order]
	if order == ops.Pause || order == ops.Drain {
		out = append(out, fmt.Sprintf("Now running on them: %d jobs.", running))
		if all {
			out = append(out, "These are all agents that are alive: jobs wait until one is resumed.")
		}
	}
	return out
}

// Copy is the agent under the cursor as JSON.
func (p *Page) Copy() (what, text string) {
	if p.table.Cursor >= len(p.feed.Value) {
		return "", ""
	}
	out, err := json.MarshalIndent(p.feed.Value[p.table.Cursor], "", "  ")
	if err != nil {
		return "", ""
	}
	return "the agent as JSON", string(out)
}

// Export writes the list.
func (p *Page) Export() (string, func(context.Context, io.Writer, bool, func(int64)) (int64, error)) {
	list := slices.Clone(p.feed.Value)
	return "agents", func(_ context.Context, w io.Writer, asJSON bool, _ func(int64)) (int64, error) {
		sheet, err := parts.NewSheet(w, asJSON, "id", "name", "host", "version", "environment", "types", "slots", "running", "state", "registry_hash", "registry_error")
		if err != nil {
			return 0, err
		}
		for i := range list {
			a := &list[i]
			if err := sheet.Row(a.ID.String(), a.Name, a.Host, a.Version, a.Environment, types(a), strconv.Itoa(a.Slots), strconv.Itoa(a.Running),
				a.State, a.RegistryHash, a.RegistryError); err != nil {
				return 0, err
			}
		}
		return sheet.End()
	}
}
