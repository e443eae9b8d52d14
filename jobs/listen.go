package jobs

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// The channels that the table's triggers notify.
const (
	jobsChannel    = "specql_jobs"
	controlChannel = "specql_control"
)

// Signal is one notification of the database.
type Signal struct {
	Kind    SignalKind
	Place   Place         // of JobsWaiting: where in their lanes they stand, at the earliest
	Job     ID            // of a Cancel or a Follow
	Type    ExecutionType // of a Switch
	Agent   ID            // of an Order
	Service string        // of a Tripping
}

// SignalKind tells what a Signal is about.
type SignalKind int

// The kinds of signals.
const (
	JobsWaiting SignalKind = iota // jobs were inserted or put back to pending
	Switched                      // a type was switched on or off
	Cancel                        // a running job was cancelled
	Order                         // an agent is to pause, drain, resume or reload
	Tripping                      // a service's circuit was opened or closed, or an operator switched it
	Follow                        // somebody wants to see a running job's log
)

// Subscription is a connection that hears the signals.
type Subscription struct {
	ctx     context.Context
	conn    *pgx.Conn
	unwatch func() bool // the end of ctx is no longer waited for
}

// Subscribe has conn hear signals until ctx ends or the connection is lost. What
// was committed before is not signalled, so the caller looks for itself once the
// subscription stands. Between two calls of Next conn may be used for other
// statements, which then keep it from hearing for as long as they take.
func Subscribe(ctx context.Context, conn *pgx.Conn) (*Subscription, error) {
	if _, err := conn.Exec(ctx, "LISTEN "+jobsChannel+"; LISTEN "+controlChannel); err != nil {
		return nil, err
	}
	// A context that each wait watched would cost every signal a switch of goroutines.
	raw := conn.PgConn().Conn()
	unwatch := context.AfterFunc(ctx, func() { raw.SetReadDeadline(time.Unix(1, 0)) })
	return &Subscription{ctx, conn, unwatch}, nil
}

// Close lets go of the subscription's context; the connection, which still
// subscribes, is the caller's to close.
func (s *Subscription) Close() { s.unwatch() }

// Next waits for a signal. Its error is that of the connection, which is of no
// more use then, or of the subscription's context.
func (s *Subscription) Next() (Signal, error) {
	for {
		// Asked each time: another statement may have set deadlines of its own.
		if err := s.ctx.Err(); err != nil {
			return Signal{}, err
		}
		n, err := s.conn.WaitForNotification(context.Background())
		if err != nil {
			return Signal{}, errors.Join(s.ctx.Err(), err)
		}
		if signal, ok := parseSignal(n.Channel, n.Payload); ok {
			return signal, nil
		}
	}
}

func parseSignal(channel, payload string) (Signal, bool) {
	if channel == jobsChannel {
		micros, err := strconv.ParseInt(payload, 10, 64)
		if err != nil {
			return Signal{Kind: JobsWaiting, Place: First}, true
		}
		// Rows that wait since that very moment stand behind this place.
		return Signal{Kind: JobsWaiting, Place: Place{Micros: micros}}, true
	}
	verb, rest, _ := strings.Cut(payload, " ")
	switch verb {
	case "switch":
		t, err := ParseExecutionType(rest)
		return Signal{Kind: Switched, Type: t}, err == nil
	case "cancel":
		id, err := ParseID(rest)
		return Signal{Kind: Cancel, Job: id}, err == nil
	case "agent":
		id, err := ParseID(rest)
		return Signal{Kind: Order, Agent: id}, err == nil
	case "log":
		id, err := ParseID(rest)
		return Signal{Kind: Follow, Job: id}, err == nil
	case "lane":
		return Signal{Kind: Tripping, Service: rest}, true
	}
	return Signal{}, false
}
