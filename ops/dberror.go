package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// DatabaseErrorKind tells what is wrong with the database, as far as an
// operator has to do something different about it.
type DatabaseErrorKind string

// The kinds of database errors.
const (
	BadURL        DatabaseErrorKind = "bad-url"        // the connection string cannot be read
	Unreachable   DatabaseErrorKind = "unreachable"    // nobody answers, or not any more
	TooSlow       DatabaseErrorKind = "too-slow"       // no answer within the deadline
	WrongPassword DatabaseErrorKind = "wrong-password" // the server refuses the login
	NoDatabase    DatabaseErrorKind = "no-database"    // the server has no such database
	NoSchema      DatabaseErrorKind = "no-schema"      // no jobs schema, or an older one
	NotPermitted  DatabaseErrorKind = "not-permitted"  // the role lacks a privilege
	ReadOnly      DatabaseErrorKind = "read-only"      // a standby, or a read-only session
	Full          DatabaseErrorKind = "full"           // no connection is free
)

// DatabaseError is a database that cannot be used for an action. Its text
// says what to do next and never holds a password.
type DatabaseError struct {
	Kind   DatabaseErrorKind
	Target string // "database app on db.example:5432 as ops"; empty: unknown
	Detail string // the server's or the system's words
	Cause  error
}

// Error is one line for the operator.
func (e *DatabaseError) Error() string {
	target := e.Target
	if target == "" {
		target = "the database"
	}
	switch e.Kind {
	case BadURL:
		return "the database URL cannot be read: write postgres://USER@HOST:PORT/DATABASE (percent-encode special characters in a password, or keep it in ~/.pgpass)"
	case WrongPassword:
		return fmt.Sprintf("%s refuses the login: %s: check user and password (--database-url, PGPASSWORD or ~/.pgpass)", target, e.Detail)
	case NoDatabase:
		return fmt.Sprintf("%s: %s: check the name in --database-url or PGDATABASE", target, e.Detail)
	case NoSchema:
		return fmt.Sprintf("%s lacks what this needs (%s): run specql-tui migrate-schema", target, e.Detail)
	case NotPermitted:
		return fmt.Sprintf("%s: %s: have its owner grant this role what is missing, such as "+
			"GRANT USAGE ON SCHEMA jobs and GRANT SELECT ON ALL TABLES IN SCHEMA jobs (operators also UPDATE and INSERT)", target, e.Detail)
	case ReadOnly:
		return fmt.Sprintf("%s is read-only: %s: connect to the primary server", target, e.Detail)
	case Full:
		return fmt.Sprintf("%s has no connection left: %s: try again, or raise max_connections", target, e.Detail)
	case TooSlow:
		return fmt.Sprintf("%s did not answer in time: see what it is busy with in pg_stat_activity, then try again", target)
	default:
		return fmt.Sprintf("%s is unreachable: %s: check host and port (--database-url, PGHOST, PGPORT) and that PostgreSQL runs", target, e.Detail)
	}
}

// Unwrap returns the driver's error.
func (e *DatabaseError) Unwrap() error { return e.Cause }

// kinds by SQLSTATE (PostgreSQL manual, appendix A).
var kindBySQLState = map[string]DatabaseErrorKind{
	"28P01": WrongPassword, "28000": WrongPassword,
	"3D000": NoDatabase,
	"3F000": NoSchema, "42P01": NoSchema, "42703": NoSchema, "42883": NoSchema,
	"42501": NotPermitted,
	"25006": ReadOnly,
	"53300": Full,
	"57014": TooSlow,
	"57P01": Unreachable, "57P02": Unreachable, "57P03": Unreachable,
}

// Explain turns a driver's error into a *DatabaseError where it is about the
// database as a whole; other errors, also nil, come back as they are.
func Explain(err error) error { return explainFor("", err) }

func explainFor(target string, err error) error {
	var known *DatabaseError
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	e := &DatabaseError{Target: target, Cause: err}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		kind, ok := kindBySQLState[pg.Code]
		if !ok && strings.HasPrefix(pg.Code, "08") {
			kind, ok = Unreachable, true
		}
		if !ok {
			return err
		}
		e.Kind, e.Detail = kind, pg.Message
		return e
	}
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &connect):
		e.Kind = TooSlow
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		e.Kind, e.Detail = Unreachable, systemWords(err)
	default:
		return err
	}
	return e
}

// systemWords takes the innermost reason out of a connection error, which
// repeats user, host and every address that was tried.
func systemWords(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return dns.Err + " " + dns.Name
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &op):
		if op.Timeout() {
			return "no answer in time"
		}
		return op.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "the connection was closed"
	}
	return err.Error()
}
