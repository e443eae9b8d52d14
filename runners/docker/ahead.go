package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners/docker/waiter"
)

const (
	// memory of arrivals: what a service is asked for is learned from this
	// long back.
	remembered = time.Minute
	// oldest is how long a container waits before it is replaced.
	oldest = 5 * time.Minute
	// lightest is what a waiting container is taken to weigh until it is
	// known, in bytes.
	lightest = 16 * mib
	// makersAtOnce bounds how many are made at a time, beside the jobs.
	makersAtOnce = 2
)

// pool keeps containers that wait for jobs, for the services that are asked
// for again and again. Each serves one job.
type pool struct {
	r      *Runner
	waiter *waiterVolume // nil: none is started ahead

	mu       sync.Mutex
	closed   bool
	services map[string]*reserve
	making   int
	pausedTo time.Time // after a failure
}

// reserve is one service's containers.
type reserve struct {
	service *registry.Service
	key     string // of the spec
	spec    *spec
	ready   []*waiting // oldest first
	making  int
	came    []time.Time   // the jobs of the last minute
	refill  time.Duration // how long making one takes
}

// waiting is a container that has no job yet.
type waiting struct {
	*box
	since  time.Time
	until  time.Time // its label's: a job must end before
	weight int64     // bytes
}

func newPool(r *Runner) *pool {
	p := &pool{r: r, services: map[string]*reserve{}}
	if r.opts.AheadMB > 0 {
		p.waiter = &waiterVolume{r: r}
	}
	return p
}

// take notes that a job of the service came, and returns a container that
// waits for it; nil where there is none.
func (p *pool) take(a *attempt) *box {
	wants := a.call.Service.RunnerConfig.StartAhead
	if p.waiter == nil || wants != nil && !*wants {
		return nil
	}
	argv := a.argv()
	if len(argv) == 0 {
		return nil
	}
	frame, err := waiter.Job{Argv: argv, Env: a.env}.Frame()
	if err != nil {
		return nil // the engine says it better
	}
	w := p.match(a)
	if w == nil {
		return nil
	}
	b := w.box
	b.preface, b.began = frame, time.Now()
	if b.group != nil {
		b.spent, _ = b.group.cpu()
		b.group.forget()
	}
	return b
}

// argv is what the container would run: the image's entrypoint, and the
// command or the image's.
func (a *attempt) argv() []string {
	command := a.command
	if len(command) == 0 {
		command = a.image.command
	}
	return slices.Concat(a.image.entrypoint, command)
}

// match finds a waiting container that is just as the job's would be made now:
// image, limits, volumes and all. Others are of an earlier configuration.
func (p *pool) match(a *attempt) *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, key := a.policy.service, a.spec.key()
	s := p.services[name]
	if s == nil || s.service != a.call.Service && !reflect.DeepEqual(s.service, a.call.Service) {
		p.dropLocked(name)
		s = &reserve{service: a.call.Service, refill: 250 * time.Millisecond}
		p.services[name] = s
	}
	now := time.Now()
	s.came = append(s.came, now)
	if s.key == "" {
		s.key, s.spec = key, a.spec
	}
	if s.key != key {
		if len(s.ready) == 0 && s.making == 0 {
			s.key, s.spec = key, a.spec // the image was pulled anew, say
		}
		return nil // a row that narrows, mostly
	}
	for len(s.ready) > 0 {
		w := s.ready[0]
		s.ready = s.ready[1:]
		select {
		case <-w.exit.Result: // it did not wait
		case <-w.exit.Error:
		default:
			if now.Add(a.call.Timeout).Before(w.until) {
				return w
			}
		}
		p.r.discard(w.box)
	}
	return nil
}

// courtesy is how long a job is left alone that has just begun: making the next
// container, or giving its own another name, would take the processor from a
// job that may be short.
const courtesy = 200 * time.Millisecond

// tendSoon tends the pool when the job has ended, or runs for a while. One that
// does in a container started ahead gives it a name with its id: labels cannot
// be changed any more.
func (p *pool) tendSoon(a *attempt, b *box, ended <-chan struct{}) {
	if p.waiter == nil {
		return
	}
	if a.ahead {
		b.alias = fmt.Sprintf("specql-%s-%d-%s", a.call.Job.ID, a.call.Job.Attempt, rand.Text()[:6])
		b.renamed = make(chan struct{})
		p.r.mind(b.alias)
	}
	p.r.side.Go(func() {
		wait := time.NewTimer(courtesy)
		defer wait.Stop()
		long := false
		select {
		case <-ended:
		case <-wait.C:
			long = true
		}
		if a.ahead {
			if long {
				p.rename(b)
			}
			close(b.renamed)
		}
		p.tend()
	})
}

func (p *pool) rename(b *box) {
	ctx, cancel := context.WithTimeout(context.Background(), actTime)
	defer cancel()
	_, err := p.r.engine.ContainerRename(ctx, b.id, client.ContainerRenameOptions{NewName: b.alias})
	if err != nil && !p.r.engine.isGone(err) {
		p.r.opts.Log.Debug("a container that was started ahead keeps its name", "container", b.name, "error", err)
	}
}

// tend makes what is wanted and takes away what is not. It waits for nothing.
func (p *pool) tend() {
	if p.waiter == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	var weight int64
	for name, s := range p.services {
		s.came = slices.DeleteFunc(s.came, func(t time.Time) bool { return now.Sub(t) > remembered })
		want := s.wanted()
		for len(s.ready) > 0 && (len(s.ready) > want || now.Sub(s.ready[0].since) > oldest) {
			p.r.discard(s.ready[0].box)
			s.ready = s.ready[1:]
		}
		if len(s.came) == 0 && s.making == 0 {
			delete(p.services, name)
			continue
		}
		for _, w := range s.ready {
			weight += w.weigh()
		}
		weight += int64(s.making) * lightest
	}
	if p.closed || now.Before(p.pausedTo) {
		return
	}
	for _, s := range p.services {
		for len(s.ready)+s.making < s.wanted() && p.making < makersAtOnce && weight+lightest <= int64(p.r.opts.AheadMB)*mib {
			weight += lightest
			s.making++
			p.making++
			p.r.side.Go(func() { p.make(s) })
		}
	}
}

// wanted is how many containers shall wait: as many as jobs came, at most, in
// the time that it takes to make up for them. One job a minute is no reason.
func (s *reserve) wanted() int {
	if len(s.came) < 2 {
		return 0
	}
	most, span := 0, 2*s.refill
	for from, to := 0, 0; to < len(s.came); to++ {
		for s.came[to].Sub(s.came[from]) > span {
			from++
		}
		most = max(most, to-from+1)
	}
	if bound := s.service.Concurrency; bound > 0 {
		most = min(most, bound)
	}
	return most
}

// weigh returns the memory that a container holds while it waits.
func (w *waiting) weigh() int64 {
	if w.group != nil {
		if now, ok := w.group.memory(); ok && now > 0 {
			w.weight = now
		}
	}
	return max(w.weight, 1)
}

// make starts one container for a service.
func (p *pool) make(s *reserve) {
	began := time.Now()
	w, err := p.start(s)
	p.mu.Lock()
	defer func() {
		p.mu.Unlock()
		if err == nil {
			p.tend() // there may be room for the next one
		}
	}()
	s.making--
	p.making--
	switch {
	case err != nil:
		pause := 10 * time.Second
		if unfit := (*unfitError)(nil); errors.As(err, &unfit) {
			pause = 24 * time.Hour
		}
		p.pausedTo = time.Now().Add(pause)
		p.waiter.forget()
		if p.r.ctx.Err() == nil && !p.r.engine.isGone(err) {
			p.r.opts.Log.Warn("no container is started ahead", "for", pause, "service", s.service.Name, "error", err)
		}
	case p.closed || p.services[s.service.Name] != s:
		p.r.discard(w.box)
	default:
		s.refill = (3*s.refill + time.Since(began)) / 4
		s.ready = append(s.ready, w)
	}
}

func (p *pool) start(s *reserve) (*waiting, error) {
	f, err := p.r.engine.ready(p.r.ctx)
	if err != nil {
		return nil, err
	}
	volume, err := p.waiter.get(p.r.ctx, f, s.spec.image)
	if err != nil {
		return nil, err
	}
	life := oldest + s.longestJob()
	labels := p.r.labels(s.service.Name, life)
	labels[labelAhead] = "true"
	ahead := *s.spec
	ahead.host.Mounts = append(slices.Clone(ahead.host.Mounts), mount.Mount{Type: mount.TypeVolume, Source: volume, Target: waiterDir,
		ReadOnly: true, VolumeOptions: &mount.VolumeOptions{NoCopy: true}})
	w := &waiting{since: time.Now(), until: time.Now().Add(life), weight: lightest}
	w.box, err = p.r.make(p.r.ctx, "specql-ahead-"+rand.Text()[:12], &ahead, ahead.config([]string{waiterDir + "/" + waiter.Name}, nil, nil, labels))
	return w, err
}

// longestJob is how long a job of the service may take without a word of its
// row.
func (s *reserve) longestJob() time.Duration {
	longest := time.Duration(0)
	for i := range s.service.Operations {
		longest = max(longest, s.service.TimeoutFor(&s.service.Operations[i], 0))
	}
	return longest
}

// dropLocked takes a service's containers away.
func (p *pool) dropLocked(name string) {
	if s := p.services[name]; s != nil {
		for _, w := range s.ready {
			p.r.discard(w.box)
		}
		delete(p.services, name)
	}
}

// Reload takes away the containers that wait for services which the new
// registry has no more, or has otherwise.
func (r *Runner) Reload(config *registry.Config) {
	p := r.ahead
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, s := range p.services {
		if now, ok := config.Service(name); !ok || !reflect.DeepEqual(now, s.service) {
			p.dropLocked(name)
		}
	}
}

// close takes all of them away.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for name := range p.services {
		p.dropLocked(name)
	}
}
