package shell

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/specql/specql-ops/runners"
)

// outcome is how an attempt's program ended and what it used.
type outcome struct {
	ended   error  // why the attempt was stopped: the context's error; nil when it ended by itself
	overCPU bool   // stopped, or stopped itself, over cpu_seconds
	overOut bool   // stopped for writing too much
	overDsk string // what filled the working directory, if it was stopped for that
	tmpFull bool   // the private /tmp had no room left at the end
	lost    bool   // the shim was killed and could not say how the program ended

	exitCode int // 128 + the signal's number where a signal ended it
	signal   syscall.Signal

	wall         time.Duration
	cpu          time.Duration
	peak         int64 // bytes; 0: unknown
	average      int64 // bytes; 0: too short to be sampled
	oomKills     int64
	forksRefused int64
	disk         int64 // bytes in the private temporary directory at the end
}

// failed tells whether the program itself failed.
func (o outcome) failed() bool { return o.lost || o.exitCode != 0 }

// result turns an outcome into what the agent records.
func (a *attempt) result(o outcome) (runners.Result, error) {
	r := runners.Result{Security: a.security(), Usage: o.usage()}
	err := a.judge(o)
	if err == nil {
		r.Output = a.streams.Success()
		return r, nil
	}
	signal := ""
	if o.signal != 0 {
		signal = unix.SignalName(o.signal)
	}
	r.Output = a.streams.Failure(o.exitCode, signal)
	return r, err
}

func (o outcome) usage() runners.Usage {
	u := runners.Usage{DurationSeconds: o.wall.Seconds()}
	if o.wall > 0 {
		percent := 100 * o.cpu.Seconds() / o.wall.Seconds()
		u.CPUUsagePercent = &percent
	}
	if o.peak > 0 {
		peak := float64(o.peak) / (1 << 20)
		u.PeakMemoryMB = &peak
		memory := peak
		if o.average > 0 {
			memory = float64(o.average) / (1 << 20)
		}
		u.MemoryMB = &memory
	}
	return u
}

// judge says whether the attempt succeeded. A limit comes before the exit
// status that breaking it led to.
func (a *attempt) judge(o outcome) error {
	limits := a.policy.limits
	switch {
	case errors.Is(o.ended, context.DeadlineExceeded):
		return &runners.LimitError{Limit: "timeout_seconds", Allowed: a.call.Timeout.String()}
	case o.ended != nil:
		return fmt.Errorf("job %s was stopped: %w", a.call.Job.ID, o.ended)
	case limits.CPUSeconds > 0 && (o.overCPU || o.signal == syscall.SIGXCPU ||
		o.signal == syscall.SIGKILL && o.cpu.Seconds() >= limits.CPUSeconds):
		return &runners.LimitError{Limit: "cpu_seconds", Used: seconds(o.cpu.Seconds()), Allowed: seconds(limits.CPUSeconds)}
	case o.overOut:
		return &runners.LimitError{Limit: "output_bytes", Used: fmt.Sprintf("more than %d", a.policy.output.Both), Allowed: strconv.FormatInt(a.policy.output.Both, 10)}
	case o.overDsk != "":
		return &runners.LimitError{Limit: "disk_mb", Used: o.overDsk, Allowed: fmt.Sprintf("%d MiB", limits.DiskMB)}
	case o.failed() && o.oomKills > 0 && limits.MemoryMB == 0:
		return &runners.LimitError{Limit: "memory_mb", Used: fmt.Sprintf("%d MiB", o.peak>>20), Allowed: "what the host had left"}
	case o.failed() && o.oomKills > 0:
		return &runners.LimitError{Limit: "memory_mb", Used: fmt.Sprintf("more than %d MiB", limits.MemoryMB), Allowed: fmt.Sprintf("%d MiB", limits.MemoryMB)}
	case limits.DiskMB > 0 && o.signal == syscall.SIGXFSZ:
		return &runners.LimitError{Limit: "disk_mb", Used: fmt.Sprintf("a file of more than %d MiB", limits.DiskMB), Allowed: fmt.Sprintf("%d MiB", limits.DiskMB)}
	case o.failed() && o.tmpFull:
		return &runners.LimitError{Limit: "disk_mb", Used: "all of the private /tmp", Allowed: fmt.Sprintf("%d MiB and %d files", a.policy.tmpMB, tmpFiles(a.policy.tmpMB))}
	case limits.DiskMB > 0 && o.disk >= int64(limits.DiskMB)<<20 && (o.failed() || o.disk > int64(limits.DiskMB)<<20):
		return &runners.LimitError{Limit: "disk_mb", Used: fmt.Sprintf("%d MiB of temporary files", (o.disk+1<<20-1)>>20), Allowed: fmt.Sprintf("%d MiB", limits.DiskMB)}
	case o.failed() && o.forksRefused > 0:
		return &runners.LimitError{Limit: "processes", Used: fmt.Sprintf("more than %d", a.policy.maxProcesses), Allowed: strconv.Itoa(a.policy.maxProcesses)}
	case o.lost:
		return errors.New("the attempt was killed from outside before its program ended")
	case o.signal != 0:
		return a.failure("killed by signal " + unix.SignalName(o.signal))
	case o.exitCode != 0:
		return a.failure("exit status " + strconv.Itoa(o.exitCode))
	}
	return nil
}

// failure is how the program ended, and what it said last.
func (a *attempt) failure(how string) error {
	if reason := a.streams.Reason(); reason != "" {
		return fmt.Errorf("%s: %s", how, reason)
	}
	return errors.New(how)
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', -1, 64) + " s" }
