package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// Options are what a runner is made with. The zero value is ready.
type Options struct {
	Log   *slog.Logger // slog.Default() when nil
	Agent string       // the agent's name, for the containers' labels
	Host  string       // the engine; DOCKER_HOST, else the local socket, when empty

	// LookupEnv finds the credentials that registry_auth names; os.LookupEnv
	// when nil.
	LookupEnv func(string) (string, bool)

	// Grace is how long a container has between its stop signal and SIGKILL
	// when its time is up or it is cancelled, in whole seconds; 2 s when zero.
	Grace time.Duration

	// SweepEvery is how often containers of dead agents are looked for; 30 s
	// when zero.
	SweepEvery time.Duration

	// AheadMB bounds the memory of all containers that wait for jobs, in MiB;
	// 0: none is started ahead.
	AheadMB int
	// Waiter is the static program for the engine's platform that waits in
	// them, which calls waiter.Main first; this program when empty.
	Waiter string
}

// Runner runs docker jobs. Make it with New.
type Runner struct {
	opts   Options
	engine *engine
	images *images
	ahead  *pool

	mu     sync.Mutex
	closed bool
	live   map[string]bool // names of the containers that somebody of this process minds
	groups *cgroups        // nil: usage is sampled

	running sync.WaitGroup // attempts
	side    sync.WaitGroup // removals and the keeper
	ctx     context.Context
	stop    context.CancelFunc
}

// busyFor is how long a lane waits for an engine that is away.
const busyFor = 2 * time.Second

var errClosed = errors.New("the docker runner is closed: the agent is shutting down")

// New makes a runner. An engine that does not answer is no error: jobs wait
// until it does. A DOCKER_HOST that cannot be read is one.
func New(opts Options) (*Runner, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.LookupEnv == nil {
		opts.LookupEnv = os.LookupEnv
	}
	if opts.Grace == 0 {
		opts.Grace = 2 * time.Second
	}
	if opts.SweepEvery == 0 {
		opts.SweepEvery = 30 * time.Second
	}
	e, err := connect(opts.Host)
	if err != nil {
		return nil, fmt.Errorf("docker runner: %w", err)
	}
	r := &Runner{opts: opts, engine: e, images: &images{engine: e, lookup: opts.LookupEnv}, live: map[string]bool{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.ahead = newPool(r)
	came := make(chan struct{}, 1)
	e.came = func(f facts) {
		r.account(f)
		select {
		case came <- struct{}{}:
		default:
		}
	}
	f, err := e.ready(r.ctx)
	if err != nil {
		opts.Log.Warn("docker jobs wait: the engine is not there", "engine", e.host, "error", err)
	} else {
		opts.Log.Info("Docker engine found", "engine", e.host, "version", f.version, "api", f.api)
	}
	r.side.Go(func() { r.keep(came, err != nil) })
	return r, nil
}

// Type returns jobs.Docker.
func (r *Runner) Type() jobs.ExecutionType { return jobs.Docker }

// Close waits for the attempts that run, removes their containers and those
// that wait for jobs. Later calls of Run return an error.
func (r *Runner) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	r.running.Wait()
	if again {
		return nil
	}
	r.ahead.close()
	r.stop()
	r.side.Wait()
	if r.ahead.waiter != nil {
		r.ahead.waiter.remove()
		r.side.Wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.groups != nil {
		(&group{c: r.groups, path: r.groups.dir}).remove()
	}
	return r.engine.Close()
}

// enter counts an attempt, unless the runner is closed.
func (r *Runner) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.running.Add(1)
	}
	return !r.closed
}

// Run runs one attempt. Besides the errors that every runner has it returns a
// *runners.ConfigError where the registry or the row cannot be run, a
// *runners.PolicyError where the policy does not permit it, a
// *runners.LimitError where the attempt broke a limit, and a
// *runners.BusyError where the engine is away.
func (r *Runner) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	if err := ctx.Err(); err != nil {
		return runners.Result{}, fmt.Errorf("job %s was not started: %w", call.Job.ID, err)
	}
	if !r.enter() {
		return runners.Result{}, errClosed
	}
	defer r.running.Done()
	p, err := effectivePolicy(call)
	if err != nil {
		return runners.Result{}, err
	}
	if row := time.Duration(p.timeout) * time.Second; row > 0 && (call.Timeout <= 0 || row < call.Timeout) {
		call.Timeout = row
	}
	if call.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, call.Timeout)
		defer cancel()
	}
	a := &attempt{r: r, call: call, policy: p}
	if err := a.prepare(ctx); err != nil {
		return runners.Result{Security: a.security()}, a.explain(ctx, err)
	}
	b, err := a.container(ctx)
	if err != nil {
		return runners.Result{Security: a.security()}, a.explain(ctx, err)
	}
	defer r.discard(b)
	ended := make(chan struct{})
	r.ahead.tendSoon(a, b, ended)
	o := a.attend(ctx, b)
	close(ended)
	return a.result(o)
}

// attempt is one call on its way.
type attempt struct {
	r      *Runner
	call   runners.Call
	policy policy

	facts   facts
	ref     string // of the image
	image   picture
	spec    *spec
	command []string // what runs; empty: what the image says
	env     []string
	streams *program.Streams
	sampled bool // usage was, for want of a cgroup that can be read
	ahead   bool // the container was started before the job came
}

// prepare checks the call against the policy, and makes everything ready but
// the container. Only the image is asked of the engine.
func (a *attempt) prepare(ctx context.Context) (err error) {
	config := a.call.Service.RunnerConfig
	if a.ref, err = a.policy.permitImage(config.Image); err != nil {
		return err
	}
	command := a.call.Operation.Command
	if len(command) == 0 {
		command = config.Command
	}
	if a.command, err = program.Fill(a.policy.service, command, a.call.Job.Input); err != nil {
		return err
	}
	if a.env, err = program.Variables(ctx, a.call, nil); err != nil {
		return err
	}
	if a.facts, err = a.r.engine.ready(ctx); err != nil {
		if ctx.Err() == nil {
			return &runners.BusyError{Service: a.policy.service, Reason: err.Error(), After: busyFor}
		}
		return err
	}
	mounts, err := a.policy.mounts(config.Volumes, a.facts, a.r.engine.socket())
	if err != nil {
		return err
	}
	if a.image, err = a.r.images.have(ctx, a.call, a.ref); err != nil {
		return err
	}
	a.streams = program.NewStreams(program.Usual, program.SecretsOf(config.Environment), a.call.Log)
	a.spec, err = newSpec(a.policy, config, a.image, mounts)
	return err
}

// explain words an error of what comes before the program runs.
func (a *attempt) explain(ctx context.Context, err error) error {
	var busy *runners.BusyError
	var policy *runners.PolicyError
	var config *runners.ConfigError
	switch {
	case errors.As(err, &busy) || errors.As(err, &policy) || errors.As(err, &config):
		return err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return a.timedOut()
	case ctx.Err() != nil:
		return fmt.Errorf("job %s was stopped before its container ran: %w", a.call.Job.ID, context.Cause(ctx))
	case a.r.engine.isGone(err):
		return a.engineLost("before the job's container ran", err)
	}
	return err
}

func (a *attempt) timedOut() error {
	return &runners.LimitError{Limit: "timeout_seconds", Allowed: a.call.Timeout.String()}
}

// engineLost is an attempt whose engine went away: nothing is known of what
// it did, so it goes back to its place and does not count.
func (a *attempt) engineLost(when string, err error) error {
	return &runners.BusyError{Service: a.policy.service, After: busyFor,
		Reason: fmt.Sprintf("the Docker engine at %s went away %s: %v", a.r.engine.host, when, plainly(err))}
}

// input is what the program reads: input_data, or an empty object where the
// row has none, so that reading JSON always works.
func (a *attempt) input() []byte {
	if len(a.call.Job.Input) == 0 {
		return []byte("{}")
	}
	return a.call.Job.Input
}

// security says what held for the attempt.
func (a *attempt) security() map[string]any {
	if a.spec == nil {
		return nil
	}
	s := map[string]any{
		"image":         a.ref,
		"image_id":      strings.TrimPrefix(a.image.id, "sha256:"),
		"network":       a.policy.network,
		"user":          orElse(a.spec.user, orElse(a.image.user, "root")),
		"read_only":     a.spec.host.ReadonlyRootfs,
		"capabilities":  "none",
		"new_privilege": "none",
		"usage":         "cgroup",
		"started":       "for the job",
	}
	if a.sampled {
		s["usage"] = "sampled"
	}
	if a.ahead {
		s["started"] = "ahead"
	}
	if len(a.spec.host.Mounts) > 0 {
		var volumes []string
		for _, m := range a.spec.host.Mounts {
			mode := "rw"
			if m.ReadOnly {
				mode = "ro"
			}
			volumes = append(volumes, m.Source+":"+m.Target+":"+mode)
		}
		s["volumes"] = volumes
		if !a.facts.local {
			s["volumes_checked"] = "by name: the engine is on another host, where links cannot be seen"
		}
	}
	return s
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
