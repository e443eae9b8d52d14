package docker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/docker/waiter"
)

// result turns an outcome into what the agent records.
func (a *attempt) result(o outcome) (runners.Result, error) {
	r := runners.Result{Security: a.security(), Usage: o.usage()}
	err := a.judge(o)
	if err == nil {
		r.Output = a.streams.Success()
		return r, nil
	}
	r.Output = a.streams.Failure(o.exitCode, "")
	return r, err
}

func (o outcome) usage() runners.Usage {
	u := runners.Usage{DurationSeconds: o.wall.Seconds()}
	if o.wall > 0 && o.counted {
		percent := 100 * o.cpu.Seconds() / o.wall.Seconds()
		u.CPUUsagePercent = &percent
	}
	if o.peak > 0 {
		peak := float64(o.peak) / mib
		u.PeakMemoryMB = &peak
		memory := peak
		if o.average > 0 {
			memory = float64(o.average) / mib
		}
		u.MemoryMB = &memory
	}
	return u
}

// The exit statuses of programs that a signal ended, as the engine gives them.
const (
	exitKilled     = 128 + 9  // SIGKILL, or the program's own exit(137)
	exitTerminated = 128 + 15 // SIGTERM
	exitCPU        = 128 + 24 // SIGXCPU
)

// judge says whether the attempt succeeded. A limit comes before the exit
// status that breaking it led to.
func (a *attempt) judge(o outcome) error {
	limits := a.policy.limits
	switch {
	case errors.Is(o.ended, context.DeadlineExceeded):
		return a.timedOut()
	case o.ended != nil:
		return fmt.Errorf("job %s was stopped: %w", a.call.Job.ID, stopCause(o.ended))
	case o.lost != nil:
		a.r.engine.isGone(o.lost)
		return a.engineLost("while the job's container ran", o.lost)
	case limits.CPUSeconds > 0 && (o.overCPU || o.exitCode == exitCPU || o.exitCode == exitKilled && !o.oom && o.cpu.Seconds() >= limits.CPUSeconds):
		return &runners.LimitError{Limit: "cpu_seconds", Used: seconds(o.cpu.Seconds()), Allowed: seconds(limits.CPUSeconds)}
	case o.overSpill:
		return &runners.LimitError{Limit: "output_bytes", Used: fmt.Sprintf("%d bytes on standard output", a.streams.StdoutBytes()), Allowed: fmt.Sprintf("%d bytes", maxOutput)}
	case o.oom && o.exitCode != 0 && limits.MemoryMB == 0:
		return &runners.LimitError{Limit: "memory_mb", Used: fmt.Sprintf("%d MiB", o.peak/mib), Allowed: "what the engine's host had left"}
	case o.oom && o.exitCode != 0:
		return &runners.LimitError{Limit: "memory_mb", Used: fmt.Sprintf("more than %d MiB", limits.MemoryMB), Allowed: fmt.Sprintf("%d MiB", limits.MemoryMB)}
	case o.removed:
		return errors.New("the container was removed by somebody else while it ran")
	case o.exitCode == 0 && o.fault == "":
		return nil
	case a.ahead && (o.exitCode == waiter.NotFound || o.exitCode == waiter.NotExecutable) && strings.HasPrefix(a.streams.Reason(), waiter.Complaint):
		return configErrorf(a.policy.service, "the container of %s cannot be started: %s", a.ref, strings.TrimPrefix(a.streams.Reason(), waiter.Complaint))
	case limits.DiskMB > 0 && strings.Contains(strings.ToLower(a.streams.Reason()), "no space left on device"):
		// The file system is gone with the container; what is left of it are
		// the system's words for ENOSPC.
		return &runners.LimitError{Limit: "disk_mb", Used: fmt.Sprintf("more than %d MiB", limits.DiskMB), Allowed: fmt.Sprintf("%d MiB", limits.DiskMB)}
	case o.fault != "":
		return fmt.Errorf("the engine could not run the program: %s", o.fault)
	case o.exitCode == exitKilled:
		// The engine gives both the same number.
		return a.failure("exit status 137 (killed by SIGKILL from outside, or the program's own exit status; neither a limit nor want of memory)")
	case o.exitCode == exitTerminated:
		return a.failure("exit status 143 (stopped by SIGTERM from outside, or the program's own exit status)")
	}
	return a.failure("exit status " + strconv.Itoa(o.exitCode))
}

// stopCause keeps the context's own error beside a cause of the agent's.
func stopCause(cause error) error {
	if errors.Is(cause, context.Canceled) {
		return cause
	}
	return fmt.Errorf("%w: %w", context.Canceled, cause)
}

// failure is how the program ended, and what it said last.
func (a *attempt) failure(how string) error {
	if reason := a.streams.Reason(); reason != "" {
		return fmt.Errorf("%s: %s", how, reason)
	}
	return errors.New(how)
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', -1, 64) + " s" }
