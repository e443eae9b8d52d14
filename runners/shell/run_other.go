//go:build unix && !linux

package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// ShimMain must be called first in main of every program that runs shell
// jobs, and in TestMain. On this system there is no shim and it does nothing.
func ShimMain() {}

// Probe says what this host gives to shell jobs: only a process group and a
// timeout, so that a service runs only with isolation: none.
func Probe() Host {
	return Host{Cgroup: "none", Lacks: []string{"isolation: only Linux has what it needs"}}
}

// system holds nothing here.
type system struct{}

func (*system) open(r *Runner) (err error) {
	r.host = Probe()
	r.base, err = makeTempBase(r.opts.TempDir, strconv.Itoa(os.Getpid()))
	return err
}

func (*system) close() {}

func (*system) sweep(*Runner) (int, error) { return 0, nil }

// privateTmp is not to be had here: no job has mounts of its own.
const privateTmp = ""

func (*system) identify(a *attempt, user string) (err error) {
	a.account, err = accountFor(a.policy.service, user)
	return err
}

// lastOutput bounds the wait for a pipe's end after the program is gone.
const lastOutput = 2 * time.Second

// run starts the program in a process group of its own.
func (*system) run(ctx context.Context, r *Runner, a *attempt) (outcome, error) {
	if a.account.change {
		return outcome{}, configErrorf(a.policy.service, "runner_config.user needs Linux")
	}
	out, diagnostics := a.streams.Stdout(), a.streams.Stderr()
	cmd := exec.CommandContext(ctx, a.command.path)
	cmd.Args, cmd.Env, cmd.Dir = a.command.argv, a.env, a.dir.path
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(a.input()), out, diagnostics
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = r.opts.Grace + lastOutput
	var o outcome
	cmd.Cancel = func() error {
		o.ended = ctx.Err()
		time.AfterFunc(r.opts.Grace, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return o, configErrorf(a.policy.service, "the command %s cannot be started: %v", a.command.argv[0], cause(err))
	}
	err := cmd.Wait()
	out.Close()
	diagnostics.Close()
	o.wall = time.Since(started)
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever the program left in its group
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return o, fmt.Errorf("wait for the job's program: %w", err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	o.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	o.exitCode = status.ExitStatus()
	if status.Signaled() {
		o.signal = status.Signal()
		o.exitCode = 128 + int(o.signal)
	}
	return o, nil
}
