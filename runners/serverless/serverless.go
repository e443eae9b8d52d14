package serverless

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// Options are a Runner's seams to the outside world. The zero value is ready for
// production.
type Options struct {
	// Version goes into the User-Agent as specql-agent/VERSION; "dev" when empty.
	Version string
	// Log gets a warning when a function is configured otherwise than the registry
	// says; none when nil.
	Log *slog.Logger
	// Prices are what is paid; DefaultPrices when zero.
	Prices Prices
	// Credentials sign calls of services without role_arn; the usual chain when nil:
	// variables, the shared files, a web identity, the container's or the machine's
	// role.
	Credentials aws.CredentialsProvider
	// Now is the clock by which what is known of functions grows old; time.Now when
	// nil.
	Now func() time.Time
}

// Runner runs serverless jobs. It keeps connections and credentials for each
// region, endpoint and role that services use; Close ends the idle ones.
type Runner struct {
	opts    Options
	clients *clients
	facts   *factBook
	looking sync.WaitGroup // after functions, in the background
	ctx     context.Context
	stop    context.CancelFunc
}

var (
	_ runners.Runner    = (*Runner)(nil)
	_ runners.Selective = (*Runner)(nil)
	_ runners.Reloader  = (*Runner)(nil)
	_ runners.Priced    = (*Runner)(nil)
)

// New makes a Runner. It connects to nothing.
func New(opts Options) *Runner {
	if opts.Version == "" {
		opts.Version = "dev"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Prices.isZero() {
		opts.Prices = DefaultPrices
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	r := &Runner{opts: opts, clients: newClients(opts.Version, opts.Credentials), facts: newFactBook(opts.Now)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Type returns jobs.Serverless.
func (r *Runner) Type() jobs.ExecutionType { return jobs.Serverless }

// Serves implements runners.Selective: AWS is the provider where none is named.
func (r *Runner) Serves(s *registry.Service) bool { return providerOf(s) == provider }

// Close ends what looks after functions, and the idle connections.
func (r *Runner) Close() {
	r.stop()
	r.facts.mu.Lock()
	r.facts.closed = true
	r.facts.mu.Unlock()
	r.looking.Wait()
	r.clients.close()
}

// Reload lets go of clients that the registry no longer needs, and looks up how
// its functions are configured, in the background. A new region, endpoint or role
// counts from the next attempt on.
func (r *Runner) Reload(config *registry.Config) {
	var wanted []*registry.Service
	for _, s := range config.Services {
		if s.ExecutionType == jobs.Serverless && r.Serves(s) {
			wanted = append(wanted, s)
		}
	}
	r.clients.retain(wanted)
	for _, s := range wanted {
		for _, qualifier := range qualifiersOf(s) {
			r.lookLater(s, qualifier)
		}
	}
}

// Run makes one attempt. Beside a failed or cancelled call it returns
//
//   - *runners.PolicyError: provider or region are not allowed
//   - *runners.ConfigError: the function does not exist, or may not be called
//   - *runners.LimitError: a payload is too large, or the function has used up its
//     memory or its time
//   - *runners.BusyError: it was throttled
//   - *FunctionError: the function itself failed
func (r *Runner) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	result := runners.Result{Usage: runners.Usage{CostUSD: new(float64)}} // nothing was started yet
	if err := ctx.Err(); err != nil {
		return result, stopped(ctx, call, false, err)
	}
	service := call.Service
	if err := permit(call); err != nil {
		return result, err
	}
	in, err := newInvocation(ctx, call)
	if err != nil {
		return result, err
	}
	client, err := r.clients.get(ctx, service)
	if err != nil {
		return result, stopped(ctx, call, false, fmt.Errorf("set up access to AWS for service %s: %w", service.Name, err))
	}
	known := r.look(ctx, service, in.qualifier)
	warnings := known.warnings(service)
	for _, w := range warnings {
		call.Log.Note(w)
	}
	result.Security = security(service, in, known, warnings)
	if most := r.mostOf(service, call.Operation); call.ReservedUSD > 0 && most > call.ReservedUSD*(1+1e-9) {
		return result, &runners.BusyError{Service: service.Name, After: time.Second, Reason: fmt.Sprintf(
			"%s may cost up to $%.6f, more than was set aside; its budget is counted anew", service.RunnerConfig.FunctionName, most)}
	}
	said, err := client.invoke(ctx, in)
	if err != nil {
		result.Usage.CostUSD = costOfRefusal(in, err)
		err = r.explain(ctx, call, in, err)
		if busy := (*runners.BusyError)(nil); errors.As(err, &busy) {
			result.Usage.CostUSD = new(float64) // it was not started
		}
		return result, err
	}
	return r.settle(call, in, known, said, result)
}

// stopped words the end of an attempt from outside, of which the call may have
// been sent.
func stopped(ctx context.Context, call runners.Call, sent bool, err error) error {
	then := "the function was not called yet"
	if sent {
		then = "the function goes on until its own timeout"
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("timed out after %s; %s", call.Timeout, then)
	case ctx.Err() != nil:
		return fmt.Errorf("gave the call up; %s: %w", then, context.Canceled)
	}
	return err
}

// settle makes a result of what an invocation answered.
func (r *Runner) settle(call runners.Call, in *invocation, known facts, said *answer, result runners.Result) (runners.Result, error) {
	result.Usage.CostUSD = nil
	result.Security["executed_version"], result.Security["request_id"] = said.version, said.requestID
	if in.kind == event {
		result.Output = encode(map[string]any{"body": "", "status_code": said.status})
		return result, nil
	}
	report, found := parseReport(said.log)
	noteLog(call.Log, said.log)
	if found {
		r.facts.reported(call.Service, in.qualifier, int(report.memoryMB))
		cost := r.price(call.Service, known.arch).of(report.memoryMB, report.billedMS)
		billed, used := float64(report.billedMS), float64(report.usedMB)
		result.Usage.CostUSD, result.Usage.BilledMS = &cost, &billed
		result.Usage.MemoryMB, result.Usage.PeakMemoryMB = &used, &used
		if report.initMS > 0 {
			result.Usage.InitMS = &report.initMS
		}
	}
	if said.functionError != "" {
		result.Output = output(said.payload, said.status)
		return result, functionError(call.Service, said, report)
	}
	if said.cut > 0 {
		result.Output = encode(map[string]any{"body": fmt.Sprintf("%s\n[%d more bytes were cut off]", said.payload, said.cut),
			"status_code": said.status, "body_truncated_bytes": said.cut})
		return result, &runners.FinalError{Err: &runners.LimitError{Limit: "max_response_size",
			Used: fmt.Sprintf("%d bytes", int64(len(said.payload))+said.cut), Allowed: fmt.Sprintf("%d bytes", in.maxAnswer)}}
	}
	result.Output = output(said.payload, said.status)
	return result, nil
}

// noteLog passes the function's own lines on.
func noteLog(log *runners.Log, text string) {
	if log == nil || text == "" {
		return
	}
	w := log.Stream("stdout")
	fmt.Fprint(w, strings.TrimRight(text, "\n"))
	w.Close()
}

// qualifiersOf are the qualifiers that a service's operations call.
func qualifiersOf(s *registry.Service) []string {
	var all []string
	for i := range s.Operations {
		if q := qualifierOf(s, &s.Operations[i]); !slices.Contains(all, q) {
			all = append(all, q)
		}
	}
	return all
}

// security is what held for the attempt, for security_context.
func security(s *registry.Service, in *invocation, known facts, warnings []string) map[string]any {
	held := map[string]any{"provider": provider, "region": s.RunnerConfig.Region, "function": s.RunnerConfig.FunctionName}
	if in.qualifier != "" {
		held["qualifier"] = in.qualifier
	}
	if s.RunnerConfig.RoleARN != "" {
		held["role_arn"] = s.RunnerConfig.RoleARN
	}
	if known.found {
		held["memory_mb"], held["timeout_seconds"], held["architecture"] = known.memoryMB, int(known.timeout.Seconds()), known.arch
	}
	if len(warnings) > 0 {
		held["warnings"] = warnings
	}
	return held
}
