package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Options configures an Agent. Zero values mean the defaults given.
type Options struct {
	DatabaseURL string           // as pgx reads it; empty: libpq's PG* variables
	Config      *registry.Config // the first snapshot; required
	Runners     []runners.Runner // one a type that this agent takes, or several Selective ones; at least one

	Name        string        // host name
	Version     string        // shown in jobs.tb_agent
	Isolation   string        // what the host's shell jobs get; shown in jobs.tb_agent
	Abilities   Abilities     // what the host can run; shown in jobs.tb_agent
	Slots       int           // jobs at once; 100, at most 100,000
	Connections int           // that exchange with the queue: 1 up to 32 slots, else 2
	Lease       time.Duration // without a heartbeat for so long the jobs are taken over; 15 s, at least 1 s
	Drain       time.Duration // running jobs get so long when the agent stops; 30 s
	RetryBase   time.Duration // backoff before the first retry, doubled each time; 1 s
	RetryCap    time.Duration // longest backoff; 10 min
	Log         *slog.Logger  // discarded when nil
	Tracer      trace.Tracer  // makes a span an attempt; nil: none

	// Retention is how long jobs are kept after they ended: completed,
	// cancelled, or failed without attempts left. At least 1 h; zero keeps
	// them for good.
	Retention time.Duration
}

// GCPercent is what a program whose work is an agent sets the collector to
// (runtime/debug.SetGCPercent). Few megabytes live and each job leaves some
// kilobytes behind: at Go's default of 100 a busy agent collects all the time.
const GCPercent = 400

func (o *Options) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if o.Name == "" {
		o.Name, _ = os.Hostname()
	}
	o.Slots = defaulted(o.Slots, 100)
	if o.Connections == 0 {
		o.Connections = 1
		if o.Slots > 32 {
			o.Connections = 2
		}
	}
	o.Lease = defaulted(o.Lease, 15*time.Second)
	o.Drain = defaulted(o.Drain, 30*time.Second)
	o.RetryBase = defaulted(o.RetryBase, time.Second)
	o.RetryCap = defaulted(o.RetryCap, 10*time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	check(o.Config != nil, "no registry: give Config")
	check(len(o.Runners) > 0, "no runner: give at least one execution type")
	check(o.distinct(), "two runners of one type: only those may share it that say which services they serve")
	check(o.Slots >= 1 && o.Slots <= 100_000, "slots: %d is not between 1 and 100000", o.Slots)
	check(o.Connections >= 1 && o.Connections <= 16, "connections: %d is not between 1 and 16", o.Connections)
	check(o.Lease >= time.Second, "lease: %s is shorter than 1s", o.Lease)
	check(o.Retention == 0 || o.Retention >= time.Hour, "retention: %s is shorter than 1h; 0 keeps all jobs", o.Retention)
	check(o.Drain >= 0, "drain timeout: %s is negative", o.Drain)
	return errors.Join(errs...)
}

func defaulted[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (o *Options) types() []jobs.ExecutionType {
	var types []jobs.ExecutionType
	for _, r := range o.Runners {
		if !slices.Contains(types, r.Type()) {
			types = append(types, r.Type())
		}
	}
	return types
}

// distinct tells whether it is clear which runner runs a service.
func (o *Options) distinct() bool {
	whole := map[jobs.ExecutionType]bool{} // by whether one runs all of the type
	for _, r := range o.Runners {
		_, selective := r.(runners.Selective)
		if before, there := whole[r.Type()]; there && (before || !selective) {
			return false
		}
		whole[r.Type()] = !selective
	}
	return true
}
