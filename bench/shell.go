package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/shell"
)

const (
	// nothing is the program whose start is measured.
	nothing = "/bin/true"
	// heapMB is what a grown agent holds.
	heapMB = 100
	// shortJobs is how long short jobs are run one after another, on every core.
	shortJobs = 3 * time.Second
)

// startOfShellJobs measures a shell job that does nothing, from Run to its
// result, at full isolation, against the same program started by os/exec with
// its output read. Each start of the one is followed by one of the other.
func startOfShellJobs(ctx context.Context, l *lab) error {
	s, err := newShellBench()
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	defer s.close()
	if host := s.runner.Host(); host.Isolation != "full" {
		l.note("shell: left out, this host gives isolation %s: %v", host.Isolation, host.Lacks)
		return nil
	}
	fresh, err := s.starts(ctx, l.sizes.singles, false)
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	grown, err := s.starts(ctx, l.sizes.singles, true)
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	job, jobCPU, err := perSecondOf(ctx, s.job)
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	bare, bareCPU, err := perSecondOf(ctx, s.bare)
	if err != nil {
		return fmt.Errorf("shell: %w", err)
	}
	l.table.heading("Shell: " + nothing + " at full isolation, against os/exec")
	l.table.ratio("start to result, median", fresh["job"], fresh["bare"], milliseconds, atMost(2))
	l.table.ratio(fmt.Sprintf("start to result beside %d MB of heap, against bare there", heapMB), grown["job"]/grown["bare"], fresh["job"]/fresh["bare"], plain, atMost(1.25))
	l.table.figure(fmt.Sprintf("jobs on %d cores", runtime.NumCPU()), job, perSecond, atLeast(500))
	l.table.ratio("the same against bare", job, bare, perSecond, none)
	l.table.ratio("processor time of each of these", jobCPU, bareCPU, milliseconds, none)
	return nil
}

type shellBench struct {
	runner *shell.Runner
	call   runners.Call
	dir    string
}

func newShellBench() (s *shellBench, err error) {
	s = &shellBench{}
	if s.dir, err = os.MkdirTemp("/var/tmp", "specql-bench-shell-"); err != nil {
		return nil, err
	}
	if s.runner, err = shell.New(shell.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	service := &registry.Service{
		Name: "nothing", ExecutionType: jobs.Shell,
		RunnerConfig: registry.RunnerConfig{WorkingDirectory: s.dir},
		SecurityPolicy: registry.SecurityPolicy{Isolation: "full", AllowedCommands: []string{nothing},
			ResourceLimits: registry.ResourceLimits{MemoryMB: 256, CPUCores: 1}},
		Operations: []registry.Operation{{Name: "run", Command: []string{nothing}}},
	}
	s.call = runners.Call{Job: &jobs.Job{ID: jobs.NewID(), Identifier: "nothing", Service: "nothing", Operation: "run", Attempt: 1, MaxAttempts: 1},
		Service: service, Operation: &service.Operations[0], Timeout: time.Minute}
	return s, nil
}

func (s *shellBench) close() {
	s.runner.Close()
	os.RemoveAll(s.dir)
}

func (s *shellBench) job(ctx context.Context) error {
	call := s.call
	call.Log = runners.NewLog()
	_, err := s.runner.Run(ctx, call)
	return err
}

func (s *shellBench) bare(ctx context.Context) error {
	_, err := exec.CommandContext(ctx, nothing).Output()
	return err
}

// starts measures single starts, in seconds, medians by side; heavy beside a
// heap that a busy agent may have.
func (s *shellBench) starts(ctx context.Context, n int, heavy bool) (figures, error) {
	var ballast [][]*[64]byte
	if heavy {
		for range heapMB {
			chunk := make([]*[64]byte, (1<<20)/(64+8))
			for i := range chunk {
				chunk[i] = new([64]byte)
			}
			ballast = append(ballast, chunk)
		}
	}
	took := map[string][]float64{}
	for range n {
		for name, run := range map[string]func(context.Context) error{"job": s.job, "bare": s.bare} {
			began := time.Now()
			if err := run(ctx); err != nil {
				return nil, err
			}
			took[name] = append(took[name], time.Since(began).Seconds())
		}
	}
	runtime.KeepAlive(ballast)
	found := figures{}
	for name, values := range took {
		found[name] = median(values)
	}
	return found, nil
}

// processorTime is what this process and all that it has waited for took, in
// seconds. On a machine that others use too it says more than time does.
func processorTime() (seconds float64) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			seconds += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
	}
	return seconds
}

// perSecondOf runs as many at once as there are cores, one after another, and
// returns how many that makes a second, and the processor time of each, with
// what is done ahead of it and behind it, in seconds.
func perSecondOf(ctx context.Context, run func(context.Context) error) (rate, cpu float64, err error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	began, used := time.Now(), processorTime()
	for range runtime.NumCPU() {
		workers.Go(func() {
			for time.Since(began) < shortJobs && ctx.Err() == nil {
				if err := run(ctx); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	workers.Wait()
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	n := float64(done.Load())
	return n / time.Since(began).Seconds(), (processorTime() - used) / n, ctx.Err()
}
