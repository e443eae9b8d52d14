package docker

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/runners/docker/waiter"
)

// waiterDir is where the waiter is in a container.
const waiterDir = "/.specql"

// waiterVolume is the volume, of this agent alone, that brings the waiter into
// containers of any image and on any host. It is made when it is first needed.
type waiterVolume struct {
	r *Runner

	mu   sync.Mutex
	name string // empty: to be made
}

// get returns the volume's name.
func (v *waiterVolume) get(ctx context.Context, f facts, image string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.name != "" {
		return v.name, nil
	}
	file, size, err := v.open(f)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// What was begun is heard to its end: an engine that is left in the middle
	// of it makes the volume all the same, and nobody would know its name.
	acting, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTime)
	defer cancel()
	name := "specql-waiter-" + rand.Text()[:12]
	labels := v.r.labels("", 24*time.Hour)
	_, err = v.r.engine.VolumeCreate(acting, client.VolumeCreateOptions{Name: name, Labels: labels})
	if err != nil {
		err = fmt.Errorf("make the waiter's volume: %w", err)
	} else if err = v.fill(acting, name, image, file, size, labels); err != nil {
		err = fmt.Errorf("fill the waiter's volume: %w", err)
	}
	if err != nil {
		v.r.side.Go(func() { v.take(name) })
		return "", err
	}
	v.name = name
	return name, nil
}

// open finds the program and makes sure that it can run in any container.
func (v *waiterVolume) open(f facts) (*os.File, int64, error) {
	path := v.r.opts.Waiter
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return nil, 0, err
		}
	}
	if err := runsAnywhere(path, f.arch); err != nil {
		return nil, 0, &unfitError{path, err}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// unfitError says that this agent's program can never wait in containers.
type unfitError struct {
	path string
	why  error
}

func (e *unfitError) Error() string {
	return fmt.Sprintf("%s cannot wait in containers: %v", e.path, e.why)
}

// runsAnywhere tells whether a program is static and for the engine's platform.
func runsAnywhere(path, arch string) error {
	f, err := elf.Open(path)
	if err != nil {
		return errors.New("it is not a Linux program; containers are started ahead by Linux agents only")
	}
	defer f.Close()
	machine, known := map[string]elf.Machine{"x86_64": elf.EM_X86_64, "amd64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64, "arm64": elf.EM_AARCH64}[arch]
	if !known || f.Machine != machine {
		return fmt.Errorf("it is for %s, and the engine runs %s", f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically; build it with CGO_ENABLED=0, as the releases are")
		}
	}
	return nil
}

// fill copies the program into the volume, through a container that is never
// started.
func (v *waiterVolume) fill(ctx context.Context, name, image string, file io.Reader, size int64, labels map[string]string) error {
	carrier := "specql-carrier-" + rand.Text()[:12]
	v.r.mind(carrier)
	b := &box{name: carrier}
	defer v.r.discard(b)
	made, err := v.r.engine.ContainerCreate(ctx, client.ContainerCreateOptions{Name: carrier,
		Config: &container.Config{Image: image, Entrypoint: []string{"/none"}, Labels: labels},
		HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: name, Target: waiterDir,
			VolumeOptions: &mount.VolumeOptions{NoCopy: true}}}}})
	if err != nil {
		return err
	}
	b.id = made.ID
	read, write := io.Pipe()
	go func() {
		t := tar.NewWriter(write)
		err := t.WriteHeader(&tar.Header{Name: waiter.Name, Mode: 0o555, Size: size, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = io.Copy(t, file)
		}
		write.CloseWithError(errors.Join(err, t.Close()))
	}()
	defer read.Close()
	_, err = v.r.engine.CopyToContainer(ctx, b.id, client.CopyToContainerOptions{DestinationPath: waiterDir, Content: read})
	return err
}

// forget has the volume made anew: it may be gone, or the engine another one.
func (v *waiterVolume) forget() {
	v.mu.Lock()
	name := v.name
	v.name = ""
	v.mu.Unlock()
	if name != "" {
		v.r.side.Go(func() { v.take(name) })
	}
}

func (v *waiterVolume) remove() {
	v.mu.Lock()
	name := v.name
	v.name = ""
	v.mu.Unlock()
	if name != "" {
		v.take(name)
	}
}

// take removes a volume when the last container has let it go.
func (v *waiterVolume) take(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		_, err := v.r.engine.VolumeRemove(ctx, name, client.VolumeRemoveOptions{})
		if !cerrdefs.IsConflict(err) {
			return // gone, or the engine is: then it is the sweep's
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sweepVolumes removes the waiters' volumes of dead agents.
func (r *Runner) sweepVolumes(ctx context.Context, local bool) error {
	list, err := r.engine.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", labelOwner)})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	var failed []error
	for _, v := range list.Items {
		fate := fateOf(v.Labels[labelOwner], process(), local)
		if fate != dead && (fate != unknown || !expired(v.Labels[labelExpires], time.Now())) {
			continue
		}
		_, err := r.engine.VolumeRemove(ctx, v.Name, client.VolumeRemoveOptions{})
		if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
			failed = append(failed, fmt.Errorf("remove volume %s: %w", strconv.Quote(v.Name), err))
		}
	}
	return errors.Join(failed...)
}
