package ops

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// watchEvery is the shortest time between two pieces of news, and between two
// tries to listen again.
const watchEvery = 500 * time.Millisecond

// Watch tells whenever jobs came to wait, were cancelled or switched, so that
// a screen need not ask while nothing happens. Whoever listens looks once more
// some seconds later, since figures follow what they count. While the database
// cannot be listened to there is news all the time: nobody may rest then. It
// ends with ctx.
func Watch(ctx context.Context, pool *pgxpool.Pool) <-chan struct{} {
	news := make(chan struct{}, 1)
	tell := func() {
		select {
		case news <- struct{}{}:
		default: // not taken yet
		}
	}
	heard := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			conn, err := pgx.ConnectConfig(ctx, pool.Config().ConnConfig)
			if err == nil && jobs.CheckOwnSession(ctx, conn) == nil { // else nothing is ever heard
				hear(ctx, conn, tell, heard)
			}
			if err == nil {
				conn.Close(context.WithoutCancel(ctx))
			}
			tell()
			pause(ctx, watchEvery)
		}
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-heard:
				tell()
				pause(ctx, watchEvery)
			}
		}
	}()
	return news
}

// hear passes on that there are signals until the connection is lost or ctx ends.
// ready is called once none is missed.
func hear(ctx context.Context, conn *pgx.Conn, ready func(), heard chan<- struct{}) {
	signals, err := jobs.Subscribe(ctx, conn)
	if err == nil {
		defer signals.Close()
		ready()
	}
	for err == nil {
		if _, err = signals.Next(); err == nil {
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
