package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
)

func jobsEnqueue(c *common) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "enqueue SERVICE OPERATION [FIELD=VALUE…]",
		Short: actions.Does(actions.JobsEnqueue),
		Long: "The fields are those of the operation's input_schema in the registry that agents applied last; objects\n" +
			"and arrays are written as JSON. Ends with 4 when there is no such operation, or a field is not as its\n" +
			"schema wants it.",
		Example: "  specql-tui jobs enqueue stripe_api create_charge amount=12.50 customer=c_81 --reason \"try again by hand\"",
		Args:    usage(cobra.MinimumNArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.reading(cmd.Context(), func(ctx context.Context, db *pgxpool.Pool) error {
				operations, err := ops.ListOperations(ctx, db)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(operations, func(o ops.Operation) bool { return o.Service == args[0] && o.Name == args[1] })
				if i < 0 {
					return &statusError{exitInvalid, fmt.Errorf("no agent's registry has operation %s of service %s: see registry show latest", args[1], args[0])}
				}
				o := operations[i]
				typed := map[string]string{}
				for _, a := range args[2:] {
					name, value, ok := strings.Cut(a, "=")
					known := slices.ContainsFunc(o.Fields, func(f ops.OperationField) bool { return f.Name == name })
					if !ok || !known {
						return &statusError{exitInvalid, fmt.Errorf("%q is no field of %s.%s: write FIELD=VALUE", a, o.Service, o.Name)}
					}
					typed[name] = value
				}
				input, err := o.Input(typed)
				if err != nil {
					return &statusError{exitInvalid, err}
				}
				by := ops.Self(program)
				by.Reason = reason
				id, err := ops.Enqueue(ctx, db, o, input, by)
				if err != nil {
					return err
				}
				if c.json() {
					return writeJSON(cmd.OutOrStdout(), map[string]any{"id": id})
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is in the queue\n", id)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}
