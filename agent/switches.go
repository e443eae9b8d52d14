package agent

import (
	"context"
	"os"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// follow makes config, with the services that operators sent to their http
// fallback, what the next claims go by.
func (a *Agent) follow(config *registry.Config) {
	a.following.Lock()
	defer a.following.Unlock()
	config = config.FallBack(a.fallbacks)
	a.ledger.apply(config, a.cannot(config))
	a.tellRunners(config)
}

// obeySwitches reads which services operators switched, where any may have
// changed. That a service is off, or is to run by another type, the claim sees
// for itself: this only says what may be claimed again, and how.
func (a *Agent) obeySwitches(ctx context.Context, conn *pgx.Conn) error {
	if !a.switches.Swap(false) {
		return nil
	}
	fallbacks, err := jobs.Fallbacks(ctx, conn)
	if err != nil {
		a.switches.Store(true)
		return err
	}
	a.following.Lock()
	changed := !slices.Equal(a.fallbacks, fallbacks)
	a.fallbacks = fallbacks
	a.following.Unlock()
	if changed {
		a.log.Info("services run by their http fallback", "services", fallbacks)
		a.follow(a.config())
	}
	a.ledger.reopen()
	return nil
}

// variables says which of the variables that services' secrets come from are
// set here.
func variables(config *registry.Config) map[string]bool {
	all := map[string]bool{}
	for _, s := range config.Services {
		for _, name := range s.Variables() {
			_, all[name] = os.LookupEnv(name)
		}
	}
	return all
}
