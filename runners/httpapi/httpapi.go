// Package httpapi runs http jobs: it sends a job's input to the service's API
// and brings the answer back.
//
// The job's row is untrusted. Where a request may go is the registry's
// decision alone (allowed_domains, allowed_networks), and it is checked three
// times: on the first URL, on every redirect, and on the address that a name
// resolved to, in the moment before the connection is made. Whatever is not
// permitted is a [runners.PolicyError], and no byte of that request was sent.
// A row may narrow what the registry grants; it can never widen it.
//
// Secrets are read from the environment when they are needed. They are kept
// from other hosts, from errors and logs, and masked in answers that echo
// them.
//
// Within an attempt, a request is repeated only where that is safe: the
// method is idempotent, or the row gave an idempotency key, or no connection
// was ever made. The header Idempotency-Key is always sent (the job's id where
// the row has no key), so that a service can make later attempts safe too; but
// the agent does not count on a service honouring a key that the application
// never chose.
//
// The package uses a proxy only where the registry names one, never one from
// the environment, never follows a redirect that the policy does not permit, and never measures CPU or memory:
// the work is done elsewhere.
package httpapi

import (
	"context"
	"crypto/x509"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Options are a Runner's seams to the outside world. The zero value is ready
// for production.
type Options struct {
	// LookupEnv finds what auth_config names; registry.LookupSecret when
	// nil. It is called for every attempt, so a changed value needs no
	// restart where the lookup can see it.
	LookupEnv func(string) (string, bool)
	// Version goes into the User-Agent, specql-agent/VERSION; "dev" when empty.
	Version string
	// Log gets a debug line per retry within an attempt; none when nil.
	Log *slog.Logger

	// RootCAs are the authorities that services' certificates are checked
	// against; the host's when nil.
	RootCAs *x509.CertPool
	// Resolver finds the addresses of names; the host's when nil.
	Resolver *net.Resolver

	// RetryBase is what the first wait between tries is drawn from; 500 ms
	// when 0.
	RetryBase time.Duration
	// Jitter draws from [0, 1); math/rand/v2's Float64 when nil.
	Jitter func() float64
	// Now is the clock that a Retry-After date is compared with; time.Now
	// when nil.
	Now func() time.Time
	// Sleep waits for d or until ctx ends, and then returns ctx's error; a
	// timer when nil.
	Sleep func(ctx context.Context, d time.Duration) error

	// MaxRoutes bounds how many services' connection pools are kept; 256
	// when 0. The least recently used one is closed to make room.
	MaxRoutes int
}

// Runner runs http jobs. It holds keep-alive connections, which stay across
// reloads of the registry; Close ends the idle ones.
type Runner struct {
	opts      Options
	userAgent string
	routes    *routes
	tokens    *tokens
	spellings spellings
}

var _ runners.Runner = (*Runner)(nil)

// New makes a Runner. It opens nothing; connections are made by Run.
func New(opts Options) *Runner {
	if opts.LookupEnv == nil {
		opts.LookupEnv = registry.LookupSecret
	}
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.RetryBase <= 0 {
		opts.RetryBase = 500 * time.Millisecond
	}
	if opts.Jitter == nil {
		opts.Jitter = rand.Float64
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Sleep == nil {
		opts.Sleep = sleep
	}
	if opts.MaxRoutes <= 0 {
		opts.MaxRoutes = 256
	}
	return &Runner{
		opts:      opts,
		userAgent: "specql-agent/" + opts.Version,
		routes:    newRoutes(opts),
		tokens:    newTokens(opts.MaxRoutes),
	}
}

// Type returns jobs.HTTP.
func (r *Runner) Type() jobs.ExecutionType { return jobs.HTTP }

// Close closes the idle connections of every service. Attempts that are still
// running finish, and close theirs.
func (r *Runner) Close() { r.routes.close() }

// Run sends one attempt's request and waits for its answer, with the retries
// that retry_config permits. Its errors are, by what they mean for the job:
//
//   - *runners.PolicyError: the policy refused the URL, a redirect, an address
//     or the request's size
//   - *runners.ConfigError: the registry or the row does not make a request
//   - *runners.FinalError: the service refused the request for good
//   - *runners.RetryAfterError: the service failed and said when to come again
//   - *runners.LimitError: the answer is larger than max_response_size
//   - an error that wraps context.DeadlineExceeded or context.Canceled
//   - any other: the service failed, or could not be reached
//
// Result.Output and Result.Security may be set beside an error.
func (r *Runner) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	a := attempt{runner: r, call: call}
	if err := ctx.Err(); err != nil {
		return a.result, a.ended(err)
	}
	if err := a.prepare(); err != nil {
		return a.result, err
	}
	if a.timeout < call.Timeout || call.Timeout == 0 && a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	err := a.runWithRetries(ctx)
	return a.result, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
