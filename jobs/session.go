package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// PoolerError says that a connection pooler hands each transaction to another
// session of the server, where one session is needed throughout.
type PoolerError struct {
	Address string // of the pooler, as it was connected to
}

func (e *PoolerError) Error() string {
	return fmt.Sprintf("%s is a connection pooler that keeps no session for this connection (transaction mode), and this needs one "+
		"(LISTEN, advisory locks, settings): connect to PostgreSQL itself", e.Address)
}

// RefusedByPooler turns a pooler's refusal of a session's settings, which comes
// when one connects, into a *PoolerError; other errors come back as they are.
func RefusedByPooler(err error, config *pgx.ConnConfig) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "08P01" && strings.Contains(pg.Message, "unsupported startup parameter") {
		return &PoolerError{Address: fmt.Sprintf("%s:%d", config.Host, config.Port)}
	}
	return err
}

// ThroughPooler tells whether a pooler stands before the server, of whatever
// mode: one gives out process ids of its own.
func ThroughPooler(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var pid uint32
	err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	if err != nil {
		return false, fmt.Errorf("ask for the session's process id: %w", err)
	}
	return pid != conn.PgConn().PID(), nil
}

// poolerPatience is how long a second session may take; a pool of one session
// never gives a second one.
const poolerPatience = 3 * time.Second

// CheckOwnSession answers *PoolerError unless conn keeps one session of the
// server to itself. conn must be in no transaction.
func CheckOwnSession(ctx context.Context, conn *pgx.Conn) error {
	pooled, err := ThroughPooler(ctx, conn)
	if err != nil || !pooled {
		return err
	}
	// A pooler in session mode keeps conn's session for conn. One in transaction
	// mode gives it to whoever comes next.
	within, cancel := context.WithTimeout(ctx, poolerPatience)
	defer cancel()
	other, err := pgx.ConnectConfig(within, conn.Config())
	if err != nil {
		if ctx.Err() == nil && errors.Is(within.Err(), context.DeadlineExceeded) {
			return nil // conn has the pool's only session
		}
		return fmt.Errorf("open a second connection through the pooler: %w", err)
	}
	defer other.Close(context.WithoutCancel(ctx))
	address := fmt.Sprintf("%s:%d", conn.Config().Host, conn.Config().Port)
	for range 5 {
		var mine, theirs uint32
		if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&mine); err != nil {
			return fmt.Errorf("ask for the session's process id: %w", err)
		}
		err := other.QueryRow(within, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&theirs)
		if err != nil && ctx.Err() == nil && within.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ask for a second session's process id: %w", err)
		}
		if mine == theirs {
			return &PoolerError{Address: address}
		}
	}
	return nil
}
