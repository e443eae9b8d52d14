package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	registrytypes "github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// imageID is an image named by its content: no registry is involved.
var imageID = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// canonical is a reference in the one spelling that says everything:
// python:3.11 is docker.io/library/python:3.11, and a name without tag means
// latest. The engine gets this spelling, in which nothing can be read as the
// beginning of an image's ID. Names are lower case; others are faults.
func canonical(image string) (string, error) {
	if imageID.MatchString(image) {
		return image, nil
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	if digested, ok := named.(reference.Canonical); ok {
		// The engine goes by the digest alone: a tag beside it says nothing.
		named, err = reference.WithDigest(reference.TrimNamed(named), digested.Digest())
		if err != nil {
			return "", err
		}
	}
	return reference.TagNameOnly(named).String(), nil
}

// sameImage tells whether two references name the same image.
func sameImage(a, b string) bool {
	x, err := canonical(a)
	if err != nil {
		return false
	}
	y, err := canonical(b)
	return err == nil && x == y
}

// permitImage returns the canonical reference of the service's image, if the
// policy permits it: by the same name and tag, or by the same name and digest.
func (p *policy) permitImage(image string) (string, error) {
	ref, err := canonical(image)
	if err != nil {
		return "", configErrorf(p.service, "runner_config.image %q is not an image's name: %v", image, err)
	}
	within := func(list []string) bool {
		return slices.ContainsFunc(list, func(allowed string) bool { return sameImage(allowed, image) })
	}
	switch {
	case len(p.images) > 0 && !within(p.images):
		return "", &runners.PolicyError{Service: p.service, Rule: "allowed_images", Offered: image, Permit: fmt.Sprintf("allowed_images: [%q]", image)}
	case p.rowImages != nil && !within(p.rowImages):
		return "", &runners.PolicyError{Service: p.service, Rule: "allowed_images", Offered: image + " (the row's security_context leaves it out)"}
	}
	return ref, nil
}

// picture is an image that the engine has.
type picture struct {
	id         string
	entrypoint []string
	command    []string
	user       string
	volumes    []string
}

// images makes sure that the engine has what a job needs. One pull serves all
// jobs that wait for it.
type images struct {
	engine *engine
	lookup func(string) (string, bool)

	mu    sync.Mutex
	pulls map[string]*pull
}

type pull struct {
	done  chan struct{}
	err   error
	mu    sync.Mutex
	notes []*runners.Log // of the jobs that wait
}

// have inspects the image, and pulls it where the engine lacks it.
func (im *images) have(ctx context.Context, call runners.Call, ref string) (picture, error) {
	got, err := im.inspect(ctx, ref)
	if err == nil || !cerrdefs.IsNotFound(err) {
		return got, err
	}
	if imageID.MatchString(ref) {
		return picture{}, configErrorf(call.Service.Name, "the engine does not have the image %s, and one that is named by its content cannot be pulled: load it there", ref)
	}
	if err := im.pull(ctx, call, ref); err != nil {
		return picture{}, err
	}
	return im.inspect(ctx, ref)
}

func (im *images) inspect(ctx context.Context, ref string) (picture, error) {
	got, err := im.engine.ImageInspect(ctx, ref)
	if err != nil {
		return picture{}, err
	}
	p := picture{id: got.ID}
	if c := got.Config; c != nil {
		p.entrypoint, p.command, p.user = c.Entrypoint, c.Cmd, c.User
		p.volumes = slices.Sorted(maps.Keys(c.Volumes))
	}
	return p, nil
}

// pull fetches an image, or waits for the pull that is under way. What a pull
// brought stays, also when the job that asked first is stopped.
func (im *images) pull(ctx context.Context, call runners.Call, ref string) error {
	auth, err := im.credentials(call.Service)
	if err != nil {
		return err
	}
	key := ref + "\n" + auth
	im.mu.Lock()
	p, underWay := im.pulls[key]
	if !underWay {
		p = &pull{done: make(chan struct{})}
		if im.pulls == nil {
			im.pulls = map[string]*pull{}
		}
		im.pulls[key] = p
	}
	p.tell(call.Log, ref) // before anything more is noted
	if !underWay {
		go func() {
			p.err = im.fetch(context.WithoutCancel(ctx), p, ref, auth)
			im.mu.Lock()
			delete(im.pulls, key)
			im.mu.Unlock()
			close(p.done)
		}()
	}
	im.mu.Unlock()
	select {
	case <-p.done:
		return pullError(call.Service.Name, ref, p.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// longestPull bounds a pull that nobody waits for any more.
const longestPull = time.Hour

func (im *images) fetch(ctx context.Context, p *pull, ref, auth string) error {
	ctx, cancel := context.WithTimeout(ctx, longestPull)
	defer cancel()
	response, err := im.engine.ImagePull(ctx, ref, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return err
	}
	defer response.Close()
	shown := map[string]string{} // layer → its last status
	var saidAt time.Time
	for message, err := range response.JSONMessages(ctx) {
		if err != nil {
			return err
		}
		if message.Error != nil {
			return errors.New(message.Error.Message)
		}
		text := message.Status
		if message.ID != "" {
			text = message.ID + ": " + text
		}
		if at := message.Progress; at != nil && at.Total > 0 {
			text += fmt.Sprintf(" %d %%", 100*at.Current/at.Total)
		}
		// Each change of a layer's state, and of its percentage now and then.
		if changed := shown[message.ID] != message.Status; changed || time.Since(saidAt) > time.Second {
			shown[message.ID], saidAt = message.Status, time.Now()
			p.note(text)
		}
	}
	p.note("pulled " + ref)
	return nil
}

// tell has log follow the pull of ref from here on.
func (p *pull) tell(log *runners.Log, ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	log.Note("pulling " + ref)
	p.notes = append(p.notes, log)
}

func (p *pull) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, log := range p.notes {
		log.Note(text)
	}
}

// pullError words why an image could not be had. That it is not there, or not
// for us, no retry mends; a registry that does not answer may answer later.
func pullError(service, ref string, err error) error {
	if err == nil || connectionFailed(err) {
		return err
	}
	text := err.Error()
	final := cerrdefs.IsNotFound(err) || cerrdefs.IsUnauthorized(err) || cerrdefs.IsPermissionDenied(err) ||
		strings.Contains(text, "manifest unknown") || strings.Contains(text, "unauthorized") || strings.Contains(text, "access denied") ||
		strings.Contains(text, "no basic auth credentials")
	if final {
		return configErrorf(service, "the image %s cannot be pulled: %s; check its name, runner_config.registry_auth and what the account may read, or load it into the engine", ref, text)
	}
	return fmt.Errorf("the image %s cannot be pulled: %w", ref, err)
}

// credentials are what the engine shows to the image registry; empty for none.
func (im *images) credentials(s *registry.Service) (string, error) {
	auth := s.RunnerConfig.RegistryAuth
	if auth.UsernameEnvVar == "" && auth.PasswordEnvVar == "" {
		return "", nil
	}
	var got [2]string
	for i, name := range []string{auth.UsernameEnvVar, auth.PasswordEnvVar} {
		value, ok := im.lookup(name)
		if !ok || value == "" {
			return "", configErrorf(s.Name, "runner_config.registry_auth names the environment variable %s, which is not set where the agent runs", name)
		}
		got[i] = value
	}
	return authconfig.Encode(registrytypes.AuthConfig{Username: got[0], Password: got[1], ServerAddress: auth.ServerAddress})
}
