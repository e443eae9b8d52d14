package docker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// box is one container, started, with its streams attached.
type box struct {
	name, id string
	group    *group // nil: usage is sampled
	conn     client.HijackedResponse
	attached bool
	exit     client.ContainerWaitResult
	unwait   context.CancelFunc
	began    time.Time // when the job began in it

	// Of a container that was started ahead:
	alias   string        // its name when its job runs for a while
	renamed chan struct{} // closed when its name changes no more
	preface []byte        // what the waiter reads before the job's input
	spent   time.Duration // processor time before its job
}

// container is the attempt's: one that waits for it, or a new one.
func (a *attempt) container(ctx context.Context) (*box, error) {
	if b := a.r.ahead.take(a); b != nil {
		a.ahead, a.sampled = true, b.group == nil
		return b, nil
	}
	labels := a.r.labels(a.policy.service, a.call.Timeout)
	labels[labelJob] = a.call.Job.ID.String()
	labels[labelAttempt] = strconv.Itoa(a.call.Job.Attempt)
	name := fmt.Sprintf("specql-%s-%d-%s", a.call.Job.ID, a.call.Job.Attempt, rand.Text()[:6])
	b, err := a.r.make(ctx, name, a.spec, a.spec.config(nil, a.command, a.env, labels))
	if err != nil {
		return nil, a.startError(err)
	}
	a.sampled = b.group == nil
	return b, nil
}

func (r *Runner) labels(service string, life time.Duration) map[string]string {
	return map[string]string{
		labelAgent: r.opts.Agent, labelOwner: process(), labelService: service,
		labelExpires: strconv.FormatInt(time.Now().Add(life).Unix(), 10),
	}
}

// make creates a container, attaches to it and starts it. It is not cut short
// when ctx ends: a container that is half made would be nobody's. Instead it
// is taken away when it is ready.
func (r *Runner) make(ctx context.Context, name string, s *spec, config *container.Config) (_ *box, err error) {
	acting, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTime)
	defer cancel()
	b := &box{name: name}
	r.mind(name)
	defer func() {
		if err != nil {
			r.discard(b)
		}
	}()
	host := s.host
	if groups := r.accounting(); groups != nil {
		if b.group, err = groups.group(name, host.Memory); err != nil {
			return nil, fmt.Errorf("make the container's cgroup: %w", err)
		}
		host.CgroupParent = b.group.path
	}
	made, err := r.engine.ContainerCreate(acting, client.ContainerCreateOptions{Config: config, HostConfig: &host, Name: name})
	if err != nil {
		return nil, err
	}
	b.id = made.ID
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Attach, then wait, then start: nothing of it can be missed.
	attached, err := r.engine.ContainerAttach(acting, b.id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, err
	}
	b.conn, b.attached = attached.HijackedResponse, true
	waiting, unwait := context.WithCancel(context.WithoutCancel(ctx))
	b.unwait = unwait
	b.exit = r.engine.ContainerWait(waiting, b.id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.began = time.Now()
	if _, err = r.engine.ContainerStart(acting, b.id, client.ContainerStartOptions{}); err != nil {
		return nil, err
	}
	return b, nil
}

// startError tells what no retry mends from what may go better next time.
func (a *attempt) startError(err error) error {
	if connectionFailed(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text := strings.TrimSpace(err.Error())
	for _, known := range []string{"executable file not found", "no such file or directory", "permission denied", "exec format error", "unable to find user", "invalid", "no matching entries in passwd", "is not a directory"} {
		if strings.Contains(text, known) {
			return configErrorf(a.policy.service, "the container of %s cannot be started: %s", a.ref, text)
		}
	}
	if cerrdefs.IsInvalidArgument(err) || cerrdefs.IsNotFound(err) {
		return configErrorf(a.policy.service, "the container of %s cannot be started: %s", a.ref, text)
	}
	return fmt.Errorf("start a container of %s: %w", a.ref, err)
}

// mind makes a name one of those that the sweep leaves alone.
func (r *Runner) mind(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[name] = true
}

// discard takes a container away, whatever it does, without being waited for:
// what could still run in it has ended, or its time is over.
func (r *Runner) discard(b *box) {
	if b.attached {
		b.conn.Close()
	}
	if b.unwait != nil {
		b.unwait()
	}
	r.side.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), actTime)
		defer cancel()
		if b.renamed != nil {
			<-b.renamed // else the new name would outlive it in live
		}
		target := b.id
		if target == "" {
			target = b.name // its making may have failed after it was made
		}
		_, err := r.engine.ContainerRemove(ctx, target, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !cerrdefs.IsNotFound(err) && !r.engine.isGone(err) {
			r.opts.Log.Warn("a container could not be removed; the next sweep tries again", "container", b.name, "error", err)
		}
		if b.group != nil {
			b.group.remove()
		}
		r.mu.Lock()
		delete(r.live, b.name) // if it is still there, the sweep may have it
		delete(r.live, b.alias)
		r.mu.Unlock()
	})
}

// accounting is where usage can be read exactly; nil where it cannot.
func (r *Runner) accounting() *cgroups {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.groups
}

// account looks where the engine that came makes its cgroups.
func (r *Runner) account(f facts) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	c := findCgroups(string(mounts), f)
	if c != nil {
		c.dir = "/" + groupPrefix + strings.ReplaceAll(process(), "/", "_")
		// A host whose cgroups cannot be written is as good as a remote one.
		probe, err := c.group("probe", 6*mib)
		if err == nil && c.unified != "" {
			err = os.MkdirAll(filepath.Join(c.unified, probe.path), 0o755)
		}
		if err != nil {
			c = nil
		} else {
			probe.remove()
		}
	}
	r.mu.Lock()
	r.groups = c
	r.mu.Unlock()
}
