package shell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// Options are what a runner is made with. The zero value is ready.
type Options struct {
	Log *slog.Logger // slog.Default() when nil

	// TempDir holds the attempts' private temporary directories;
	// os.TempDir() when empty.
	TempDir string

	// Grace is how long a tree has between SIGTERM and SIGKILL when its time
	// is up or it is cancelled; 2 s when zero.
	Grace time.Duration

	// Hide lists files and directories of the agent's own that jobs with
	// mounts of their own do not see, beside /run. Those that do not exist
	// are left out.
	Hide []string
}

// attempts numbers those of all runners of the process: their cgroups are in the
// same directories.
var attempts atomic.Uint64

// Runner runs shell jobs. Make it with New.
type Runner struct {
	opts Options
	host Host
	base string // of the temporary directories
	sys  system

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup

	// beforeStart, where a test sets it, is called between the check of an
	// attempt and its start.
	beforeStart func()
}

// errClosed says that Close was called.
var errClosed = errors.New("the shell runner is closed: the agent is shutting down")

// New makes a runner, after it took away what an agent left that was killed
// on this host. The program's main must have called ShimMain.
func New(opts Options) (*Runner, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.TempDir == "" {
		opts.TempDir = os.TempDir()
	}
	if opts.Grace == 0 {
		opts.Grace = 2 * time.Second
	}
	tempDir, err := filepath.Abs(opts.TempDir)
	if err != nil {
		return nil, fmt.Errorf("shell runner: %w", err)
	}
	opts.TempDir = tempDir
	r := &Runner{opts: opts}
	if err := r.sys.open(r); err != nil {
		return nil, fmt.Errorf("shell runner: %w", err)
	}
	return r, nil
}

// Type returns jobs.Shell.
func (r *Runner) Type() jobs.ExecutionType { return jobs.Shell }

// Host is what this machine gives to the runner's jobs.
func (r *Runner) Host() Host { return r.host }

// Close waits for the attempts that run and removes the runner's directories.
// Later calls of Run return an error.
func (r *Runner) Close() error {
	r.mu.Lock()
	again := r.closed
	r.closed = true
	r.mu.Unlock()
	r.running.Wait()
	if again {
		return nil
	}
	r.sys.close()
	return removeTree(r.base)
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
// *runners.PolicyError where the policy or the host does not permit it, and a
// *runners.LimitError where the attempt broke a limit; nothing was started
// with the first two.
func (r *Runner) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	if err := ctx.Err(); err != nil {
		return runners.Result{}, fmt.Errorf("job %s was not started: %w", call.Job.ID, err)
	}
	if !r.enter() {
		return runners.Result{}, errClosed
	}
	defer r.running.Done()

	a, err := r.prepare(ctx, call)
	if err != nil {
		return runners.Result{}, err
	}
	defer a.close()
	if a.call.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.call.Timeout)
		defer cancel()
	}
	if r.beforeStart != nil {
		r.beforeStart()
	}
	o, err := r.sys.run(ctx, r, a)
	if err != nil {
		return runners.Result{Security: a.security()}, err
	}
	return a.result(o)
}

// attempt is everything about one call that was decided before it starts.
type attempt struct {
	call    runners.Call
	name    string // unique within the process
	policy  policy
	plan    plan
	host    Host
	account account
	dir     workDir
	command *command
	tmp     string   // the private temporary directory, as the job knows it
	made    string   // the one on the host that is to be removed; empty: none
	lent    *os.File // the working directory's mount, where it is lent to the job's account
	env     []string
	streams *program.Streams
}

func (a *attempt) close() {
	if a.command != nil {
		a.command.close()
	}
	if a.dir.File != nil {
		a.dir.Close()
	}
	if a.lent != nil {
		a.lent.Close()
	}
	if a.made != "" {
		_ = removeTree(a.made)
	}
}

// prepare checks a call against the policy and the host. It starts nothing.
func (r *Runner) prepare(ctx context.Context, call runners.Call) (_ *attempt, err error) {
	a := &attempt{call: call, host: r.host, name: strconv.FormatUint(attempts.Add(1), 10)}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.policy, err = effectivePolicy(call); err != nil {
		return nil, err
	}
	if row := time.Duration(a.policy.timeoutFromRow) * time.Second; row > 0 && (call.Timeout <= 0 || row < call.Timeout) {
		a.call.Timeout = row
	}
	if a.plan, err = planFor(r.host, a.policy); err != nil {
		return nil, err
	}
	config := call.Service.RunnerConfig
	if a.dir, err = openWorkDir(a.policy, config.WorkingDirectory); err != nil {
		return nil, err
	}
	if err = r.sys.identify(a, config.User); err != nil {
		return nil, err
	}
	if a.command, err = findCommand(call, a.policy, a.dir); err != nil {
		return nil, err
	}
	if err = r.makeTmp(a); err != nil {
		return nil, err
	}
	if a.env, err = program.Variables(ctx, a.call, map[string]string{"PATH": defaultPath, "HOME": a.tmp, "TMPDIR": a.tmp}); err != nil {
		return nil, err
	}
	a.streams = program.NewStreams(a.policy.output, program.SecretsOf(config.Environment), call.Log)
	return a, nil
}

// makeTmp gives the attempt temporary files of its own: with mounts of its own
// a private /tmp, else a directory.
func (r *Runner) makeTmp(a *attempt) error {
	if a.plan.namespaces {
		a.tmp = privateTmp
		return nil
	}
	a.tmp = filepath.Join(r.base, a.name)
	if err := os.Mkdir(a.tmp, 0o700); err != nil {
		return fmt.Errorf("make the job's temporary directory: %w", err)
	}
	a.made = a.tmp
	if a.account.change {
		if err := os.Chown(a.tmp, int(a.account.uid), int(a.account.gid)); err != nil {
			return fmt.Errorf("give the temporary directory to the job's user: %w", err)
		}
	}
	return nil
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
	s := map[string]any{
		"isolation":   a.plan.isolation,
		"network":     a.plan.network,
		"file_access": a.plan.files,
		"user":        a.account.name,
		"cgroup":      a.host.Cgroup,
		"seccomp":     a.plan.seccomp,
		"landlock":    0,
		"command":     a.command.path,
	}
	if a.plan.landlock {
		s["landlock"] = a.host.Landlock
	}
	if a.command.scriptPath != "" {
		s["script"] = a.command.scriptPath
	}
	if len(a.plan.notEnforced) > 0 {
		s["not_enforced"] = a.plan.notEnforced
	}
	return s
}
