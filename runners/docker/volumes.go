package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/mount"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// keys of the host: whoever gets one of these, or a directory above one, has
// the host. They are mounted only where allowed_host_paths lists that very
// path. The engine's own socket and directory are added to them.
var hostKeys = []string{
	"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock",
	"/run/podman/podman.sock", "/run/crio/crio.sock", "/etc/shadow", "/root/.ssh", "/proc", "/sys", "/dev", "/boot",
}

// hostPath is a path of the host with every link and .. taken out of it.
type hostPath struct {
	given, real string
}

// resolve finds where a path really is. With a remote engine only the name can
// be looked at.
func resolve(given string, local bool) (hostPath, error) {
	p := hostPath{given: path.Clean(given), real: path.Clean(given)}
	if !path.IsAbs(given) {
		return p, errors.New("it is not absolute")
	}
	if !local {
		return p, nil
	}
	real, err := filepath.EvalSymlinks(given)
	if err != nil {
		var e *fs.PathError
		if errors.As(err, &e) {
			err = e.Err
		}
		return p, err
	}
	p.real = real
	return p, nil
}

// below tells whether a clean path is dir or lies below it.
func below(dir, name string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// mounts checks the service's volumes against the policy, by where they really
// are, and makes what the engine gets.
func (p *policy) mounts(volumes []registry.Volume, f facts, socket string) ([]mount.Mount, error) {
	if p.maxVolumes > 0 && len(volumes) > p.maxVolumes {
		return nil, &runners.PolicyError{Service: p.service, Rule: "volume_restrictions.max_volumes",
			Offered: fmt.Sprintf("%d volumes", len(volumes)), Permit: fmt.Sprintf("max_volumes: %d", len(volumes))}
	}
	var list []mount.Mount
	for _, v := range volumes {
		target := path.Clean(v.ContainerPath)
		if !path.IsAbs(v.ContainerPath) || slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return below(dir, target) }) || target == "/" {
			return nil, configErrorf(p.service, "container_path %q cannot be mounted on: write an absolute path that is not /, /proc, /sys or /dev", v.ContainerPath)
		}
		if v.Mode != "" && v.Mode != "ro" && v.Mode != "rw" {
			return nil, configErrorf(p.service, "volume mode %q is neither ro nor rw", v.Mode)
		}
		source, err := resolve(v.HostPath, f.local)
		if err != nil {
			return nil, configErrorf(p.service, "host_path %s cannot be mounted: %v; make it, or correct the path", v.HostPath, err)
		}
		if err := p.permitPath(source, f, socket); err != nil {
			return nil, err
		}
		list = append(list, mount.Mount{Type: mount.TypeBind, Source: source.real, Target: target, ReadOnly: v.Mode != "rw",
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}})
	}
	return list, nil
}

// permitPath holds one path against the allow-list.
func (p *policy) permitPath(source hostPath, f facts, socket string) error {
	refusal := &runners.PolicyError{Service: p.service, Rule: "volume_restrictions.allowed_host_paths", Offered: source.given}
	if source.real != source.given {
		refusal.Offered += " (which is " + source.real + ")"
	}
	// By where it is, or by a name that itself says what it is: a link of an
	// innocent name may lead elsewhere tomorrow.
	listed := slices.ContainsFunc(p.hostPaths, func(entry string) bool {
		entry = path.Clean(entry)
		return entry == source.real || entry == source.given && isHostKey(hostPath{entry, entry}, facts{root: f.root}, socket)
	})
	if isHostKey(source, f, socket) && !listed {
		refusal.Offered += ", a key to the host"
		refusal.Permit = fmt.Sprintf("allowed_host_paths: [%q]", source.real)
		return refusal
	}
	within := func(list []string) bool {
		return slices.ContainsFunc(list, func(entry string) bool {
			dir, err := resolve(entry, f.local)
			return err == nil && below(dir.real, source.real)
		})
	}
	switch {
	case len(p.hostPaths) > 0 && !within(p.hostPaths):
		refusal.Permit = fmt.Sprintf("allowed_host_paths: [%q]", source.real)
		return refusal
	case p.rowPaths != nil && !within(p.rowPaths):
		refusal.Offered += " (the row's security_context leaves it out)"
		return refusal
	}
	return nil
}

// isHostKey tells a path that would hand over the host: a key, what lies below
// one, or what has one below it. A socket is always one.
func isHostKey(source hostPath, f facts, socket string) bool {
	keys := hostKeys
	for _, more := range []string{socket, f.root} {
		if more != "" {
			keys = append(keys[:len(keys):len(keys)], more)
		}
	}
	for _, key := range keys {
		names := []string{key}
		if real, err := filepath.EvalSymlinks(key); err == nil && f.local {
			names = append(names, real)
		}
		for _, name := range names {
			for _, offered := range []string{source.given, source.real} {
				if below(offered, name) || below(name, offered) {
					return true
				}
			}
		}
	}
	if info, err := os.Stat(source.real); f.local && err == nil {
		return info.Mode()&(fs.ModeSocket|fs.ModeDevice) != 0
	}
	return false
}
