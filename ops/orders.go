package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// Order is what an operator wants of an agent.
type Order string

// The orders. A paused agent claims nothing and lets its jobs run; a drained
// one has let them end, or handed them back after its drain timeout, and stays
// until it is resumed. A reload makes it look at its registry file.
const (
	Pause  Order = "pause"
	Resume Order = "resume"
	Drain  Order = "drain"
	Reload Order = "reload"
)

// Orders lists every order.
func Orders() []Order { return []Order{Pause, Resume, Drain, Reload} }

// wanted is the order as jobs.tb_agent has it; empty for a reload.
func (o Order) wanted() string {
	switch o {
	case Pause:
		return jobs.AgentPaused
	case Resume:
		return jobs.AgentRunning
	case Drain:
		return jobs.AgentDrained
	}
	return ""
}

// Obeyed tells whether an agent shows that it has carried the order out.
func (o Order) Obeyed(a AgentRow) bool {
	if o == Reload {
		return a.ReloadAskedAt == nil
	}
	return a.State == o.wanted()
}

// Alive tells whether the agent holds its lease.
func (a AgentRow) Alive() bool { return a.State != "lost" && a.State != jobs.AgentStopped }

// ErrNoAgents says that an order names no agent.
var ErrNoAgents = errors.New("no agent is named: give names, ids or --all")

// NameError says that a name stands for nothing, or for several.
type NameError struct {
	What  string // "agent", "registry version"
	Name  string
	Many  bool     // it stands for several
	Known []string // what it may be: the several, or all there are
}

// Error names what there is.
func (e *NameError) Error() string {
	known := strings.Join(e.Known, ", ")
	switch {
	case e.Many:
		return fmt.Sprintf("%q stands for several %ss: %s", e.Name, e.What, known)
	case len(e.Known) == 0:
		return fmt.Sprintf("there is no %s %q: there is none at all", e.What, e.Name)
	}
	return fmt.Sprintf("there is no %s %q: there are %s", e.What, e.Name, known)
}

// FindAgents returns the live agents that the names stand for, each once: all
// agents of that name, or the one whose id begins so. Without names it returns
// every live agent. A *NameError says which name stands for none.
func FindAgents(ctx context.Context, db jobs.Querier, names []string) ([]AgentRow, error) {
	list, err := ListAgents(ctx, db)
	if err != nil {
		return nil, err
	}
	var live []AgentRow
	for _, a := range list {
		if a.Alive() {
			live = append(live, a)
		}
	}
	if len(names) == 0 {
		return live, nil
	}
	chosen := map[jobs.ID]bool{}
	for _, name := range names {
		found, err := chooseAgents(live, name)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			chosen[a.ID] = true
		}
	}
	var out []AgentRow
	for _, a := range live {
		if chosen[a.ID] {
			out = append(out, a)
		}
	}
	return out, nil
}

func chooseAgents(live []AgentRow, name string) ([]AgentRow, error) {
	var named, byID []AgentRow
	fault := &NameError{What: "live agent", Name: name}
	for _, a := range live {
		if a.Name == name {
			named = append(named, a)
		}
		if name != "" && strings.HasPrefix(a.ID.String(), strings.ToLower(name)) {
			byID = append(byID, a)
		}
		fault.Known = append(fault.Known, fmt.Sprintf("%s (%s)", a.Name, a.ID))
	}
	switch {
	case len(named) > 0:
		return named, nil
	case len(byID) == 1:
		return byID, nil
	case len(byID) > 1:
		fault.Many, fault.Known = true, nil
		for _, a := range byID {
			fault.Known = append(fault.Known, fmt.Sprintf("%s (%s)", a.Name, a.ID))
		}
	}
	return nil, fault
}

// An agent that left meanwhile is not ordered any more.
const orderSQL = `
UPDATE jobs.tb_agent SET wanted = coalesce(nullif($2, ''), wanted),
       reload_asked_at = CASE WHEN $2 = '' THEN now() ELSE reload_asked_at END
 WHERE id = ANY ($1) AND lease_expires_at > now() AND state <> 'stopped' AND ($2 = '' OR wanted <> $2)
RETURNING id`

// Ordered is what became of an order.
type Ordered struct {
	Order   Order
	Changed []jobs.ID // agents that did not want so already
}

// OrderAgents tells the agents what is wanted of them and leaves a row for
// each in the audit log. They obey with their next heartbeat, which the order
// brings about at once. Agents of which the same is wanted already are left
// alone.
func OrderAgents(ctx context.Context, db jobs.Beginner, agents []AgentRow, order Order, by jobs.By) (Ordered, error) {
	out := Ordered{Order: order}
	if len(agents) == 0 {
		return out, ErrNoAgents
	}
	ids := make([]jobs.ID, len(agents))
	for i, a := range agents {
		ids[i] = a.ID
	}
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, orderSQL, ids, order.wanted())
		if err != nil {
			return err
		}
		if out.Changed, err = pgx.CollectRows(rows, pgx.RowTo[jobs.ID]); err != nil {
			return err
		}
		changed := map[jobs.ID]bool{}
		for _, id := range out.Changed {
			changed[id] = true
		}
		for _, a := range agents {
			if !changed[a.ID] {
				continue
			}
			before, after := map[string]string{"wanted": a.Wanted}, map[string]string{"wanted": cmp.Or(order.wanted(), a.Wanted)}
			if order == Reload {
				before, after = map[string]string{"registry": a.RegistryHash}, nil
			}
			if err := jobs.Audit(ctx, tx, by, string(order)+"-agent", fmt.Sprintf("%s %s", a.Name, a.ID), before, after); err != nil {
				return err
			}
		}
		return nil
	})
	return out, Explain(err)
}

// askEvery is how often AwaitAgents looks.
const askEvery = 200 * time.Millisecond

// AwaitAgents waits until each of the agents has obeyed, or is gone, or ctx
// ends. It returns how they stand then; tell is called whenever that changed,
// and may be nil.
func AwaitAgents(ctx context.Context, db jobs.Querier, agents []AgentRow, order Order, tell func(AgentRow)) ([]AgentRow, error) {
	shown := map[jobs.ID]string{}
	for {
		list, err := ListAgents(ctx, db)
		if err != nil {
			if ctx.Err() != nil {
				return agents, nil
			}
			return agents, err
		}
		now := map[jobs.ID]AgentRow{}
		for _, a := range list {
			now[a.ID] = a
		}
		waiting := false
		for i := range agents {
			a, there := now[agents[i].ID]
			if !there {
				a = agents[i]
				a.State = "lost"
			}
			agents[i] = a
			waiting = waiting || a.Alive() && !order.Obeyed(a)
			if state := fmt.Sprint(a.State, a.Running, a.ReloadAskedAt != nil); tell != nil && shown[a.ID] != state {
				shown[a.ID] = state
				tell(a)
			}
		}
		if !waiting || ctx.Err() != nil {
			return agents, nil
		}
		pause(ctx, askEvery)
	}
}
