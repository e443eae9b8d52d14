package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// outcome is how an attempt's container ended and what it used.
type outcome struct {
	ended     error // why it was stopped: the context's error; nil when it ended by itself
	overCPU   bool  // stopped over cpu_seconds
	overSpill bool  // stopped over its output
	lost      error // the engine went away
	removed   bool  // somebody removed the container while it ran

	exitCode int
	oom      bool
	fault    string // the engine's own words, where it could not run the program

	wall    time.Duration
	cpu     time.Duration
	counted bool  // cpu is known
	peak    int64 // bytes; 0: unknown
	average int64 // bytes; 0: too short to be sampled
}

// look is how often a running container's memory is looked at.
const look = 250 * time.Millisecond

// attend gives the container its input, follows it to its end, and stops it
// where its time is up or a limit is broken.
func (a *attempt) attend(ctx context.Context, b *box) (o outcome) {
	read := make(chan error, 1)
	go func() {
		out, diagnostics := a.streams.Stdout(), a.streams.Stderr()
		_, err := stdcopy.StdCopy(out, diagnostics, b.conn.Reader)
		out.Close()
		diagnostics.Close()
		read <- err
	}()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		// A program need not read its input, or be there still.
		_, _ = b.conn.Conn.Write(append(b.preface, a.input()...))
		_ = b.conn.CloseWrite()
	}()
	m := a.newMeter(ctx, b)
	defer m.stop()
	tick := time.NewTimer(m.next(look))
	defer tick.Stop()
	var code int64
	func() {
		for {
			select {
			case end := <-b.exit.Result:
				if code = end.StatusCode; end.Error != nil {
					o.fault = end.Error.Message
				}
				return
			case err := <-b.exit.Error:
				o.lost = err
				return
			case <-ctx.Done():
				o.ended = context.Cause(ctx)
				code, o.lost = a.halt(b, a.r.opts.Grace)
				return
			case <-tick.C:
			}
			used := m.read()
			o.overCPU = a.policy.limits.CPUSeconds > 0 && used.Seconds() > a.policy.limits.CPUSeconds
			o.overSpill = a.streams.StdoutBytes() > maxOutput
			if o.overCPU || o.overSpill {
				code, o.lost = a.halt(b, 0)
				return
			}
			tick.Reset(m.next(look))
		}
	}()
	o.wall, o.exitCode = time.Since(b.began), int(code)
	if o.lost != nil {
		b.conn.Close()
	} else {
		a.finish(ctx, b, &o)
	}
	select {
	case <-read:
	case <-time.After(askTime): // an engine that does not close the stream
		b.conn.Close()
		<-read
	}
	b.conn.Close() // a program that left its input unread leaves the writer there
	<-wrote
	m.end(&o)
	return o
}

// halt stops the container: its stop signal, and SIGKILL after the grace.
func (a *attempt) halt(b *box, grace time.Duration) (code int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), actTime)
	defer cancel()
	if grace > 0 {
		seconds := max(1, int(grace.Round(time.Second).Seconds()))
		_, err = a.r.engine.ContainerStop(ctx, b.id, client.ContainerStopOptions{Timeout: &seconds})
	} else {
		_, err = a.r.engine.ContainerKill(ctx, b.id, client.ContainerKillOptions{Signal: "SIGKILL"})
	}
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // it may have ended just now
		return 0, err
	}
	select {
	case end := <-b.exit.Result:
		return end.StatusCode, nil
	case err := <-b.exit.Error:
		return 0, err
	case <-ctx.Done():
		return 0, fmt.Errorf("the container did not end %s after it was killed", actTime)
	}
}

// finish asks the engine what it knows of the end.
func (a *attempt) finish(ctx context.Context, b *box, o *outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTime)
	defer cancel()
	if o.ended == nil && (o.exitCode != 0 || a.facts.local) {
		if o.lost = a.r.engine.open(ctx); o.lost != nil {
			return
		}
	}
	if a.ahead && o.exitCode == 0 {
		return // nothing that it could say would matter
	}
	got, err := a.r.engine.ContainerInspect(ctx, b.id, client.ContainerInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err):
		o.removed = true
		return
	case err != nil:
		o.lost = err
		return
	}
	state := got.Container.State
	if state == nil {
		return
	}
	o.oom = state.OOMKilled
	if state.Error != "" {
		o.fault = state.Error
	}
	if !a.ahead {
		if from, to := parseTime(state.StartedAt), parseTime(state.FinishedAt); to.After(from) {
			o.wall = to.Sub(from)
		}
	}
}

func parseTime(text string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, text) // zero where the engine gives none
	return t
}

// meter follows what the container uses: by its cgroup, or by the samples of
// the engine.
type meter struct {
	a        *attempt
	b        *box
	mu       sync.Mutex // guards what follows, up to counted
	cpu      time.Duration
	peak     int64
	sum, n   int64
	counted  bool
	sampling sync.WaitGroup
	cancel   context.CancelFunc
}

func (a *attempt) newMeter(ctx context.Context, b *box) *meter {
	m := &meter{a: a, b: b, cancel: func() {}}
	if b.group == nil {
		ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
		m.sampling.Go(func() { m.sample(ctx) })
	}
	return m
}

// next is when to look again: not before processor time can be used up, and
// soon after it is.
func (m *meter) next(usual time.Duration) time.Duration {
	limit := m.a.policy.limits.CPUSeconds
	if limit == 0 {
		return usual
	}
	cores := float64(max(1, m.a.facts.cpus))
	if c := m.a.policy.limits.CPUCores; c > 0 {
		cores = min(cores, c)
	}
	m.mu.Lock()
	left := time.Duration((limit - m.cpu.Seconds()) / cores * float64(time.Second))
	m.mu.Unlock()
	return min(usual, max(10*time.Millisecond, left))
}

// read looks at the cgroup, and returns the processor time used so far.
// Samples come by themselves.
func (m *meter) read() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if g := m.b.group; g != nil {
		if cpu, ok := g.cpu(); ok {
			m.cpu, m.counted = cpu-m.b.spent, true
		}
		if now, ok := g.memory(); ok {
			m.sum, m.n = m.sum+now, m.n+1
		}
	}
	return m.cpu
}

// sample follows the engine's statistics, about one a second. What begins and
// ends between two of them is not seen.
func (m *meter) sample(ctx context.Context) {
	got, err := m.a.r.engine.ContainerStats(ctx, m.b.id, client.ContainerStatsOptions{Stream: true})
	if err != nil {
		return // usage is then left out
	}
	defer got.Body.Close()
	d := json.NewDecoder(got.Body)
	for {
		var s container.StatsResponse
		if err := d.Decode(&s); err != nil {
			return
		}
		total := time.Duration(s.CPUStats.CPUUsage.TotalUsage)
		if total == 0 {
			continue // before it began or after it ended
		}
		m.mu.Lock()
		m.cpu, m.counted = max(m.cpu, total-m.b.spent), true
		m.peak = max(m.peak, int64(s.MemoryStats.MaxUsage), int64(s.MemoryStats.Usage))
		m.sum, m.n = m.sum+int64(s.MemoryStats.Usage), m.n+1
		m.mu.Unlock()
	}
}

// end reads what was used in all.
func (m *meter) end(o *outcome) {
	m.stop()
	if g := m.b.group; g != nil {
		if cpu, ok := g.cpu(); ok {
			m.cpu, m.counted = cpu-m.b.spent, true
		}
		m.peak, _ = g.peak()
		o.oom = o.oom || g.oomKills() > 0
	}
	o.cpu, o.counted, o.peak = m.cpu, m.counted, m.peak
	if m.n > 0 {
		o.average = m.sum / m.n
	}
}

func (m *meter) stop() {
	m.cancel()
	m.sampling.Wait()
}
