package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/registry"
)

// The exit statuses, the same for every command.
const (
	exitFine        = 0
	exitFound       = 1 // it ran and found something, or did not come through
	exitUsage       = 2 // usage, or no such file
	exitUnreadable  = 3 // not YAML
	exitInvalid     = 4 // invalid configuration, schema or name
	exitDatabase    = 5 // database unreachable or not permitted
	exitInterrupted = 130
)

var errInterrupted = &statusError{exitInterrupted, errors.New("interrupted")}

// statusError is an error with the status that the program ends with.
type statusError struct {
	status int
	err    error // nil: all has been said already
}

func (e *statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &statusError{exitUsage, fmt.Errorf(format, args...)}
}

// quiet ends with a status after the command has printed what it found.
func quiet(status int) error {
	if status == exitFine {
		return nil
	}
	return &statusError{status: status}
}

// usage makes a validator's error one of usage.
func usage(validate cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := validate(cmd, args); err != nil {
			return usageError("%v: see %s --help", err, cmd.CommandPath())
		}
		return nil
	}
}

// statusOf maps an error to the status that scripts rely on.
func statusOf(err error) int {
	var status *statusError
	var db *ops.DatabaseError
	switch {
	case err == nil:
		return exitFine
	case errors.As(err, &status):
		return status.status
	case errors.As(err, &db):
		switch db.Kind {
		case ops.BadURL:
			return exitUsage
		case ops.NoSchema:
			return exitInvalid
		}
		return exitDatabase
	case errors.Is(err, ops.ErrNeedsForce), errors.Is(err, ops.ErrNoTypes), errors.Is(err, ops.ErrAllJobs), errors.Is(err, ops.ErrNoAgents):
		return exitUsage
	case isA[*ops.NameError](err), isA[*ops.RegistryRestoreError](err), isA[*ops.UnknownStepError](err):
		return exitInvalid
	case isA[*ops.RollbackBusyError](err), errors.Is(err, ops.ErrNoRollback):
		return exitFound
	case errors.Is(err, registry.ErrEmpty), errors.Is(err, registry.ErrTooLarge):
		return exitUnreadable
	case isA[*registry.FileError](err):
		return exitUsage
	case isA[*migrations.PrivilegeError](err):
		return exitDatabase
	case isA[*migrations.TypedJobsError](err), isA[*migrations.AgentsError](err):
		return exitFound
	case isA[*jobs.PoolerError](err):
		return exitDatabase
	case isA[*migrations.VersionError](err), isA[*migrations.PartitionedError](err), isA[*migrations.ForeignTableError](err):
		return exitInvalid
	}
	// Inside of an error that says how far something came.
	if db, ok := errors.AsType[*ops.DatabaseError](ops.Explain(err)); ok && db.Kind != ops.NoSchema {
		return exitDatabase
	}
	return exitFound
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// report writes the error to w, one line or one JSON object, and returns the
// exit status.
func report(w io.Writer, err error, asJSON bool) int {
	status := statusOf(err)
	if err == nil || err.Error() == "" {
		return status
	}
	text := strings.Join(strings.Fields(clean(err.Error())), " ")
	if !asJSON {
		fmt.Fprintln(w, "specql-tui:", text)
		return status
	}
	out := struct {
		Error  string                `json:"error"`
		Kind   ops.DatabaseErrorKind `json:"kind,omitempty"`
		Status int                   `json:"exit_status"`
	}{Error: text, Status: status}
	if db, ok := errors.AsType[*ops.DatabaseError](err); ok {
		out.Kind = db.Kind
	}
	json.NewEncoder(w).Encode(out)
	return status
}

// asksJSON tells whether errors, those of usage too, are to be JSON.
func asksJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	i := slices.Index(args, "--output")
	return slices.Contains(args, "--output=json") || i >= 0 && i+1 < len(args) && args[i+1] == "json"
}
