package agent

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// askAgain is when an agent looks whether another one is done with what only
// one does.
const askAgain = 3 * time.Second

// unhurried is how many times longer an agent rests that exchanges jobs and has
// found no wrong type: what it claims gets its type anyway.
const unhurried = 20

// alignTypes gives waiting jobs the types that the newest registry has for
// their services, once for all agents that apply it. It goes in small steps
// with rests between; a newer registry ends it. When another agent is at it,
// it asks to be called again: that one may not come to the end.
func (a *Agent) alignTypes(ctx context.Context, conn *pgx.Conn) (again time.Duration, err error) {
	config := a.chronicle.newest
	if config == nil || config == a.chronicle.aligned {
		return 0, nil
	}
	mine, err := jobs.Alone(ctx, conn, jobs.RegistryTypes)
	if err != nil {
		return 0, err
	}
	switch done, err := jobs.Outcome(ctx, conn, jobs.RegistryTypes); {
	case err != nil:
		return 0, err
	case done == config.Hash:
		a.chronicle.aligned = config
		return 0, nil
	case !mine:
		return askAgain, nil
	}
	waiting, err := jobs.WaitingAmong(ctx, conn, serviceNames(config))
	if err != nil {
		return 0, err
	}
	total := 0
	for _, name := range waiting {
		service, _ := config.Service(name)
		for at := jobs.First; at != jobs.Last; {
			if a.config() != config {
				return 0, nil // the newer one's turn comes with its news
			}
			began := time.Now()
			n, next, err := jobs.AlignTypes(ctx, conn, name, service.ExecutionType, at)
			if err != nil {
				return 0, err
			}
			total, at = total+n, next
			if at != jobs.Last {
				took := time.Since(began)
				if n == 0 && a.ledger.exchanging() {
					took *= unhurried
				}
				rest(ctx, took)
			}
		}
	}
	a.chronicle.aligned = config
	if total > 0 {
		a.log.Info("waiting jobs got the registry's execution types", "jobs", total, "hash", config.Hash)
	}
	return 0, jobs.Done(ctx, conn, jobs.RegistryTypes, a.opt.Name, config.Hash)
}
