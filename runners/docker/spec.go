package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/specql/specql-ops/registry"
)

// spec is all that a container is made of but what differs between jobs. What
// is not set here cannot be had: privileges, devices, capabilities, and the
// namespaces of the host or of other containers.
type spec struct {
	image   string // ID: what was checked is what runs
	user    string
	workDir string
	host    container.HostConfig
}

const (
	mib       = 1 << 20
	cpuPeriod = 100_000 // microseconds; the kernel's default
	// shmMB is the size of /dev/shm, Docker's default; it counts as memory.
	shmMB = 64
)

func newSpec(p policy, config registry.RunnerConfig, image picture, mounts []mount.Mount) (*spec, error) {
	pids := int64(maxProcesses)
	s := &spec{image: image.id, user: config.User, workDir: config.WorkingDir}
	s.host = container.HostConfig{
		NetworkMode:    container.NetworkMode(p.network),
		IpcMode:        "private",
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		ReadonlyRootfs: p.readOnly || p.limits.DiskMB > 0,
		ShmSize:        shmMB * mib,
		// The answer comes by the attached stream; a log on the engine's disk
		// would grow without bound and stay unread.
		LogConfig:     container.LogConfig{Type: "none"},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Mounts:        mounts,
		Resources: container.Resources{
			PidsLimit: &pids,
			Ulimits: []*container.Ulimit{
				{Name: "nofile", Soft: maxOpenFiles, Hard: maxOpenFiles},
				{Name: "core", Soft: 0, Hard: 0},
			},
		},
	}
	limits := p.limits
	if limits.MemoryMB > 0 {
		s.host.Memory = int64(limits.MemoryMB) * mib
		s.host.MemorySwap = s.host.Memory // no swap beside it
	}
	if limits.CPUCores > 0 {
		s.host.CPUPeriod = cpuPeriod
		s.host.CPUQuota = max(1000, int64(limits.CPUCores*cpuPeriod))
	}
	if limits.CPUSeconds > 0 {
		// For each process, where nobody can watch the whole of them.
		seconds := int64(math.Ceil(limits.CPUSeconds))
		s.host.Ulimits = append(s.host.Ulimits, &container.Ulimit{Name: "cpu", Soft: seconds, Hard: seconds + 1})
	}
	var err error
	s.host.Tmpfs, err = p.tmpfs(config.Tmpfs, image.volumes, mounts)
	return s, err
}

// tmpfs is where a container may write: what the service says, and with
// disk_mb nothing beyond that size, all of them together. Volumes that the
// image declares would be on the engine's disk without a bound; with disk_mb
// they are tmpfs too.
func (p *policy) tmpfs(given map[string]string, declared []string, mounts []mount.Mount) (map[string]string, error) {
	list := maps.Clone(given)
	if list == nil {
		list = map[string]string{}
	}
	if p.limits.DiskMB == 0 {
		return list, nil
	}
	taken := func(dir string) bool {
		_, ok := list[dir]
		return ok || slices.ContainsFunc(mounts, func(m mount.Mount) bool { return m.Target == path.Clean(dir) })
	}
	for _, dir := range declared {
		if !taken(dir) {
			list[dir] = ""
		}
	}
	if len(list) == 0 && !taken("/tmp") {
		list["/tmp"] = ""
	}
	left, open := int64(p.limits.DiskMB)*mib, []string{}
	for _, dir := range slices.Sorted(maps.Keys(list)) {
		size, sized, err := tmpfsSize(list[dir])
		if err != nil {
			return nil, configErrorf(p.service, "tmpfs %s: %v", dir, err)
		}
		if !sized {
			open = append(open, dir)
		}
		left -= size
	}
	if left < 0 || left == 0 && len(open) > 0 {
		return nil, configErrorf(p.service, "the sizes of tmpfs are more than disk_mb, %d: lower them, or raise the limit", p.limits.DiskMB)
	}
	for _, dir := range open {
		options := "size=" + strconv.FormatInt(left/int64(len(open)), 10)
		if list[dir] != "" {
			options = list[dir] + "," + options
		}
		list[dir] = options
	}
	return list, nil
}

// tmpfsSize reads the option size of a tmpfs, such as rw,size=64m.
func tmpfsSize(options string) (bytes int64, given bool, err error) {
	for option := range strings.SplitSeq(options, ",") {
		value, ok := strings.CutPrefix(strings.TrimSpace(option), "size=")
		if !ok {
			continue
		}
		unit := int64(1)
		switch strings.ToLower(value[max(0, len(value)-1):]) {
		case "k":
			unit = 1 << 10
		case "m":
			unit = mib
		case "g":
			unit = 1 << 30
		}
		if unit > 1 {
			value = value[:len(value)-1]
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/unit {
			return 0, false, fmt.Errorf("%q is not a size: write size=64m", option)
		}
		bytes, given = n*unit, true
	}
	return bytes, given, nil
}

// key tells specs apart.
func (s *spec) key() string {
	b, err := json.Marshal([]any{s.image, s.user, s.workDir, s.host})
	if err != nil {
		panic("docker: a container's configuration does not encode: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// config is what the engine makes a container of.
func (s *spec) config(entrypoint, command, env []string, labels map[string]string) *container.Config {
	return &container.Config{
		Image: s.image, User: s.user, WorkingDir: s.workDir, Entrypoint: entrypoint, Cmd: command, Env: env, Labels: labels,
		AttachStdin: true, AttachStdout: true, AttachStderr: true, OpenStdin: true,
		StdinOnce:   true, // the program reads an end when the agent is gone
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
}
