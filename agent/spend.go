package agent

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// spender counts what attempts ask for beyond their claim, on a connection of
// its own that is opened when the first one asks.
type spender struct {
	turn chan struct{} // one at a time
	conn *pgx.Conn     // nil: none is open
}

func newSpender() *spender { return &spender{turn: make(chan struct{}, 1)} }

// again is what runners ask before they make another request within an
// attempt; nil: nothing bounds the service's requests.
func (a *Agent) again(s *registry.Service) func(context.Context) (time.Duration, error) {
	gates := gatesOf(s)
	if gates.PerMinute == 0 && gates.PerHour == 0 {
		return nil
	}
	return func(ctx context.Context) (opens time.Duration, err error) {
		ctx, cancel := context.WithTimeout(ctx, a.opt.Lease)
		defer cancel()
		select {
		case a.spender.turn <- struct{}{}:
			defer func() { <-a.spender.turn }()
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if a.spender.conn == nil {
			if a.spender.conn, err = a.connect(ctx, forUpkeep); err != nil {
				return 0, err
			}
		}
		if opens, err = jobs.SpendAgain(ctx, a.spender.conn, s.Name, gates); err != nil {
			a.spender.drop()
		}
		return opens, err
	}
}

func (s *spender) drop() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.conn.Close(ctx)
		s.conn = nil
	}
}

// close ends the connection when no attempt runs any more.
func (s *spender) close() {
	s.turn <- struct{}{}
	s.drop()
	<-s.turn
}
