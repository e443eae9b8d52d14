package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/ops"
)

func createTheRoles(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, dryRun bool) error {
	if dryRun {
		if c.json() {
			return writeJSON(w, map[string]any{"would_run": migrations.RolesSQL()})
		}
		_, err := fmt.Fprintf(w, "%s\nnothing was changed\n", migrations.RolesSQL())
		return err
	}
	if err := ops.CreateRoles(ctx, db); err != nil {
		return err
	}
	if c.json() {
		return writeLine(w, map[string]any{"roles": []string{migrations.AgentRole.Name(), migrations.OperatorRole.Name(), migrations.ViewerRole.Name()}})
	}
	_, err := fmt.Fprintf(w, "%s, %s and %s have exactly what they need; give a login one of them: GRANT %s TO LOGIN;\n",
		migrations.AgentRole.Name(), migrations.OperatorRole.Name(), migrations.ViewerRole.Name(), migrations.AgentRole.Name())
	return err
}

func checkPermissions(c *common) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "check-permissions",
		Short: "Check what agents, operators and viewers need of the database, with the GRANT that is missing",
		Long: "Looks at each privilege of the roles specql_agent, specql_operator and specql_viewer, which\n" +
			"migrate-schema --create-roles makes, and says which of them the present connection can serve as.\n" +
			"Ends with 1 when one of these roles lacks something, or the connection can serve as none (with --as: not as that one).",
		Example: "  specql-tui check-permissions\n  specql-tui check-permissions --as agent",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if as != "" && !slices.Contains(migrations.Roles, migrations.Role(as)) {
				return usageError("--as %q is unknown: use agent, operator or viewer", as)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), readTimeout)
			defer cancel()
			return c.session(ctx, func(db *pgxpool.Pool) error {
				p, err := ops.CheckPermissions(ctx, db)
				if err != nil {
					return err
				}
				if err := printPermissions(cmd.OutOrStdout(), c, p, migrations.Role(as)); err != nil {
					return err
				}
				if !permitted(p, migrations.Role(as)) {
					return quiet(exitFound)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&as, "as", "", "ask whether the connection can serve as this one: agent, operator or viewer")
	return cmd
}

func permitted(p migrations.Permissions, as migrations.Role) bool {
	if as != "" {
		return slices.Contains(p.Serves(), as)
	}
	for _, r := range p.Roles {
		if r.Exists && !r.OK() {
			return false
		}
	}
	return len(p.Serves()) > 0
}

func printPermissions(w io.Writer, c *common, p migrations.Permissions, as migrations.Role) error {
	if c.json() {
		serves := p.Serves()
		if serves == nil {
			serves = []migrations.Role{}
		}
		return writeJSON(w, map[string]any{"ok": permitted(p, as), "serves_as": serves, "permissions": p})
	}
	t := newTable(w, "ROLE", "OBJECT", "PRIVILEGE", "STATE", "GRANT")
	for _, r := range p.Roles {
		if !r.Exists {
			t.row(r.Subject, "", "", "missing", "specql-tui migrate-schema --create-roles")
			continue
		}
		for _, i := range r.Items {
			printItem(t, r.Subject, i)
		}
	}
	for _, r := range p.Connection {
		for _, i := range r.Lacking() {
			if as == "" || r.Role == as {
				printItem(t, fmt.Sprintf("%s as %s", p.User, r.Role), i)
			}
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = newTable(w, "THE CONNECTION CAN", "STATE", "OTHERWISE")
	for _, a := range p.Abilities {
		t.row(a.Name, yesNo(a.OK), a.Hint)
	}
	if err := t.flush(); err != nil {
		return err
	}
	var serves []string
	for _, r := range p.Serves() {
		serves = append(serves, string(r))
	}
	_, err := fmt.Fprintf(w, "\n%s can serve as: %s\n", clean(p.User), or(strings.Join(serves, ", "), "none of the roles"))
	return err
}

func printItem(t *table, subject string, i migrations.CheckItem) {
	state := "ok"
	if !i.OK {
		state = "missing"
	}
	privilege := i.Privilege
	if len(i.Columns) > 0 {
		privilege += fmt.Sprintf(" (%d columns)", len(i.Columns))
	}
	t.row(subject, i.Object, privilege, state, i.Grant)
}
