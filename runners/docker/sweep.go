package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// keep looks after the engine until the runner is closed: it waits for one
// that is away, and takes away what dead agents left.
func (r *Runner) keep(came <-chan struct{}, away bool) {
	sweep := time.NewTicker(r.opts.SweepEvery)
	defer sweep.Stop()
	again := time.NewTicker(busyFor)
	defer again.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-came:
			if away {
				r.opts.Log.Info("the Docker engine is there: docker jobs run", "engine", r.engine.host)
			}
			away = false
			r.sweepAndSay()
		case <-sweep.C:
			if r.engine.isThere() {
				r.sweepAndSay()
			}
		case <-again.C:
			if r.engine.isThere() {
				r.ahead.tend()
				continue
			}
			if _, err := r.engine.ready(r.ctx); err != nil && !away && r.ctx.Err() == nil {
				away = true
				r.opts.Log.Warn("docker jobs wait: the engine is not there", "engine", r.engine.host, "error", err)
			}
		}
	}
}

func (r *Runner) sweepAndSay() {
	removed, err := r.Sweep()
	if err != nil && r.ctx.Err() == nil {
		r.opts.Log.Warn("containers that nobody minds any more could not be removed", "error", err)
	}
	if removed > 0 {
		r.opts.Log.Info("removed containers that nobody minds any more", "containers", removed)
	}
}

// Sweep removes the containers, and their cgroups, that nobody minds any more:
// those of agents of this host that are dead, those whose time is over whoever
// they belong to, and this agent's own that were lost when the engine was
// away. An engine that is away has nothing to be swept.
func (r *Runner) Sweep() (removed int, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, actTime)
	defer cancel()
	f, err := r.engine.ready(ctx)
	if err != nil {
		return 0, nil
	}
	list, err := r.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelOwner)})
	if err != nil {
		r.engine.isGone(err)
		return 0, fmt.Errorf("list containers: %w", err)
	}
	var failed []error
	for _, c := range list.Items {
		if !r.abandoned(c, f.local) {
			continue
		}
		_, err := r.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		switch {
		case err == nil:
			removed++
		case !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err): // somebody else removes it
			failed = append(failed, fmt.Errorf("remove container %s: %w", c.ID[:12], err))
		}
	}
	failed = append(failed, r.sweepVolumes(ctx, f.local))
	if groups := r.accounting(); groups != nil {
		groups.removeLeft(func(owner string) bool {
			return fateOf(strings.ReplaceAll(owner, "_", "/"), process(), true) == dead
		})
	}
	return removed, errors.Join(failed...)
}

// abandoned tells whether nobody minds a container.
func (r *Runner) abandoned(c container.Summary, local bool) bool {
	switch fateOf(c.Labels[labelOwner], process(), local) {
	case dead:
		return true
	case ours:
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, name := range c.Names {
			if r.live[strings.TrimPrefix(name, "/")] {
				return false
			}
		}
		return true
	}
	return expired(c.Labels[labelExpires], time.Now())
}
