package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
)

func agents(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "List the agents that live, and those that stopped or were lost within a day",
		Long:  "Ends with 1 when no agent lives. Its commands tell agents what is wanted of them.",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				list, err := ops.ListAgents(ctx, db)
				if err != nil {
					return err
				}
				if err := printAgents(cmd.OutOrStdout(), c, list); err != nil {
					return err
				}
				if !slices.ContainsFunc(list, ops.AgentRow.Alive) {
					return quiet(exitFound)
				}
				return nil
			})
		},
	}
	for _, o := range []struct {
		order       ops.Order
		short, long string
	}{
		{ops.Pause, actions.Does(actions.AgentsPause), ""},
		{ops.Resume, actions.Does(actions.AgentsResume), ""},
		{ops.Drain, actions.Does(actions.AgentsDrain),
			"What has not ended by itself after the agent's --drain-timeout is stopped and handed back. The agent\n" +
				"stays, and claims again after resume.\n\n"},
		{ops.Reload, actions.Does(actions.AgentsReload),
			"A bad file changes nothing; its fault is shown by agents. With --wait it ends with 1 then.\n\n"},
	} {
		cmd.AddCommand(order(c, o.order, o.short, o.long))
	}
	return cmd
}

// order is the command that tells agents one thing.
func order(c *common, order ops.Order, short, long string) *cobra.Command {
	var all, wait bool
	var reason string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   string(order) + " NAME…",
		Short: short,
		Long: long + "NAME is an agent's name, which stands for all agents of that name, or the beginning of an id. Each\n" +
			"change is written to the audit log. Ends with 4 when a name stands for no live agent; with --wait it\n" +
			"ends with 1 when an agent has not obeyed within --timeout, or is gone.",
		Example: "  specql-tui agents " + string(order) + " worker-1 --reason \"new kernel\" --wait",
		RunE: func(cmd *cobra.Command, names []string) error {
			switch {
			case all && len(names) > 0:
				return usageError("names and --all together: give one of them")
			case !all && len(names) == 0:
				return ops.ErrNoAgents
			case timeout <= 0:
				return usageError("--timeout %s is not a time: give 1s or more", timeout)
			}
			by := ops.Self(program)
			by.Reason = reason
			return c.working(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				found, err := ops.FindAgents(ctx, db, names)
				if err != nil {
					return err
				}
				if len(found) == 0 {
					return &statusError{exitFound, fmt.Errorf("no agent lives: start specql-agent")}
				}
				done, err := ops.OrderAgents(ctx, db, found, order, by)
				if err != nil {
					return err
				}
				if wait {
					found, err = await(ctx, cmd.ErrOrStderr(), db, found, order, timeout)
					if err != nil {
						return err
					}
				}
				return printOrder(cmd.OutOrStdout(), c, done, found, wait)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every live agent")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the agents show that they obeyed")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait at most")
	return cmd
}

// await waits for the agents and tells a terminal how they come along.
func await(ctx context.Context, w io.Writer, db *pgxpool.Pool, list []ops.AgentRow, order ops.Order, timeout time.Duration) ([]ops.AgentRow, error) {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var tell func(ops.AgentRow)
	if isTerminal(w) {
		tell = func(a ops.AgentRow) {
			fmt.Fprintf(w, "%s is %s, %d running\n", clean(a.Name), clean(a.State), a.Running)
		}
	}
	list, err := ops.AwaitAgents(waiting, db, list, order, tell)
	if ctx.Err() != nil {
		return list, ctx.Err()
	}
	return list, err
}

func printOrder(w io.Writer, c *common, done ops.Ordered, list []ops.AgentRow, waited bool) error {
	type report struct {
		agentReport
		Changed bool `json:"changed"`
		Obeyed  bool `json:"obeyed"`
	}
	status, out := exitFine, []report{}
	for _, a := range list {
		r := report{agentReport(a), slices.Contains(done.Changed, a.ID), waited && a.Alive() && done.Order.Obeyed(a)}
		out = append(out, r)
		if waited && (!r.Obeyed || done.Order == ops.Reload && a.RegistryError != "") {
			status = exitFound
		}
		if !c.json() {
			fmt.Fprintf(w, "%s (%s): %s\n", clean(a.Name), a.ID, outcome(done.Order, a, r.Changed, waited))
		}
	}
	if c.json() {
		if err := writeJSON(w, map[string]any{"order": done.Order, "waited": waited, "agents": out}); err != nil {
			return err
		}
	}
	return quiet(status)
}

// outcome words what became of an order to one agent.
func outcome(order ops.Order, a ops.AgentRow, changed, waited bool) string {
	switch {
	case waited && !a.Alive():
		return "gone: it is " + clean(a.State)
	case waited && !order.Obeyed(a):
		return fmt.Sprintf("has not obeyed yet: it is %s, %d running", clean(a.State), a.Running)
	case waited && order == ops.Reload && a.RegistryError != "":
		return "goes on with the registry " + shorten(a.RegistryHash, 12) + ", as the file is not good: " + clean(a.RegistryError)
	case waited && order == ops.Reload:
		return "has the registry " + shorten(a.RegistryHash, 12)
	case waited:
		return "is " + clean(a.State)
	case !changed:
		return string(order) + " was ordered already"
	}
	return string(order) + " is ordered"
}

type agentReport struct {
	ID            jobs.ID              `json:"id"`
	Name          string               `json:"name"`
	Host          string               `json:"host"`
	PID           int                  `json:"pid"`
	Version       string               `json:"version"`
	Environment   string               `json:"environment"`
	Types         []jobs.ExecutionType `json:"execution_types"`
	Slots         int                  `json:"slots"`
	Running       int                  `json:"running"`
	Isolation     string               `json:"isolation"`
	RegistryHash  string               `json:"registry_hash"`
	RegistryError string               `json:"registry_error,omitempty"`
	State         string               `json:"state"`
	Wanted        string               `json:"wanted"`
	ReloadAskedAt *time.Time           `json:"reload_asked_at,omitempty"`
	StartedAt     time.Time            `json:"started_at"`
	HeartbeatAt   time.Time            `json:"heartbeat_at"`

	Abilities map[jobs.ExecutionType][]ops.HostCheck `json:"abilities"`
	Cannot    map[string]string                      `json:"cannot,omitempty"`
}

func printAgents(w io.Writer, c *common, list []ops.AgentRow) error {
	if c.json() {
		out := []agentReport{}
		for _, a := range list {
			out = append(out, agentReport(a))
		}
		return writeJSON(w, out)
	}
	if len(list) == 0 {
		fmt.Fprintln(w, "no agent has been here within a day: start specql-agent")
		return nil
	}
	t := newTable(w, "NAME", "STATE", "WANTED", "HOST", "PID", "TYPES", "RUNNING", "SLOTS", "REGISTRY", "HEARTBEAT")
	for _, a := range list {
		types := make([]string, len(a.Types))
		for i, x := range a.Types {
			types[i] = string(x)
		}
		reg := or(shorten(a.RegistryHash, 8), none)
		if a.RegistryError != "" {
			reg += " (" + shorten(withoutFolder(a.RegistryError), 60) + ")"
		}
		t.row(a.Name, a.State, wanted(a), a.Host, fmt.Sprint(a.PID), strings.Join(types, ","), fmt.Sprint(a.Running),
			fmt.Sprint(a.Slots), reg, when(a.HeartbeatAt))
	}
	return t.flush()
}

// withoutFolder shortens the path that a fault begins with.
func withoutFolder(fault string) string {
	path, rest, _ := strings.Cut(fault, ":")
	return filepath.Base(path) + ":" + rest
}

// wanted is what operators want of a live agent that it does not show yet.
func wanted(a ops.AgentRow) string {
	var list []string
	if a.Alive() && a.Wanted != a.State {
		list = append(list, a.Wanted)
	}
	if a.Alive() && a.ReloadAskedAt != nil {
		list = append(list, "reload")
	}
	return or(strings.Join(list, ", "), none)
}
