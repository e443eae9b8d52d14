package docker

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

const (
	// maxProcesses bounds the processes and threads of one container: room
	// for a runtime with thread pools, and no more than a nuisance as a fork
	// bomb.
	maxProcesses = 256
	maxOpenFiles = 4096
	// minMemoryMB is the least that the engine accepts.
	minMemoryMB = 6
	// maxOutput is how much a program may write to its standard output before
	// it is stopped: an answer is not that long.
	maxOutput = 64 << 20
)

// policy is what one attempt may do: the registry's security_policy, narrowed
// by the row.
type policy struct {
	service    string
	limits     registry.ResourceLimits
	images     []string // the registry's allowed_images; empty: the service's own image
	rowImages  []string // the row's; nil when it gives none
	hostPaths  []string // the registry's allowed_host_paths; empty: the service's own volumes
	rowPaths   []string // the row's; nil when it gives none
	maxVolumes int
	network    string // none, or the network's name
	readOnly   bool
	timeout    int // seconds, of the row's runner_config; 0: none
}

// rowPolicy is what a row's security_context may narrow. The column holds
// other things of the application's too, which are left alone.
type rowPolicy struct {
	ResourceLimits struct {
		CPUCores   float64 `json:"cpu_cores"`
		CPUSeconds float64 `json:"cpu_seconds"`
		MemoryMB   int     `json:"memory_mb"`
		DiskMB     int     `json:"disk_mb"`
	} `json:"resource_limits"`
	AllowedImages      []string `json:"allowed_images"`
	NetworkIsolation   bool     `json:"network_isolation"`
	ReadOnly           bool     `json:"read_only"`
	VolumeRestrictions struct {
		AllowedHostPaths []string `json:"allowed_host_paths"`
	} `json:"volume_restrictions"`
}

// rowConfig is what of a row's runner_config is looked at: less time, and what
// an application may have copied from the registry. A copy is fine, anything
// else is refused.
type rowConfig struct {
	Timeout     int               `json:"timeout"`
	Image       string            `json:"image"`
	User        string            `json:"user"`
	NetworkMode string            `json:"network_mode"`
	Volumes     []json.RawMessage `json:"volumes"`
}

// effectivePolicy is registry ∩ row. Its error is a ConfigError or a
// PolicyError.
func effectivePolicy(call runners.Call) (policy, error) {
	sp, config := call.Service.SecurityPolicy, call.Service.RunnerConfig
	p := policy{
		service:    call.Service.Name,
		limits:     sp.ResourceLimits,
		images:     sp.AllowedImages,
		hostPaths:  sp.VolumeRestrictions.AllowedHostPaths,
		maxVolumes: sp.VolumeRestrictions.MaxVolumes,
		readOnly:   config.ReadOnly,
	}
	var row rowPolicy
	if err := decodeRow(call.Job.SecurityContext, &row); err != nil {
		return p, configErrorf(p.service, "the row's security_context cannot be read: %v; correct the row", err)
	}
	var asked rowConfig
	if err := decodeRow(call.Job.RunnerConfig, &asked); err != nil {
		return p, configErrorf(p.service, "the row's runner_config cannot be read: %v; correct the row", err)
	}
	if err := p.permitRow(asked, config); err != nil {
		return p, err
	}
	p.timeout = asked.Timeout
	p.rowImages = row.AllowedImages
	p.rowPaths = row.VolumeRestrictions.AllowedHostPaths
	p.readOnly = p.readOnly || row.ReadOnly
	p.limits.CPUCores = lower(p.limits.CPUCores, row.ResourceLimits.CPUCores)
	p.limits.CPUSeconds = lower(p.limits.CPUSeconds, row.ResourceLimits.CPUSeconds)
	p.limits.MemoryMB = lower(p.limits.MemoryMB, row.ResourceLimits.MemoryMB)
	p.limits.DiskMB = lower(p.limits.DiskMB, row.ResourceLimits.DiskMB)
	if p.limits.MemoryMB > 0 && p.limits.MemoryMB < minMemoryMB {
		return p, configErrorf(p.service, "memory_mb: %d is less than a container needs: give at least %d", p.limits.MemoryMB, minMemoryMB)
	}
	isolated := sp.NetworkIsolation == nil || *sp.NetworkIsolation
	var err error
	p.network, err = network(p.service, config.NetworkMode, isolated, row.NetworkIsolation)
	return p, err
}

// network is what the container is connected to. With isolation that is
// nothing; without it any network but the host's or another container's.
func network(service, mode string, isolated, rowIsolates bool) (string, error) {
	refuse := func(permit string) (string, error) {
		return "", &runners.PolicyError{Service: service, Rule: "network_isolation", Offered: "network_mode: " + mode, Permit: permit}
	}
	kind, _, colon := strings.Cut(strings.ToLower(strings.TrimSpace(mode)), ":")
	switch {
	case kind == "host" || colon:
		return refuse("") // shares a namespace: nothing permits it
	case isolated && mode != "" && mode != "none":
		return refuse("network_isolation: false")
	case isolated || rowIsolates || mode == "none":
		return "none", nil
	case mode == "" || mode == "default":
		return "bridge", nil
	}
	return mode, nil
}

// permitRow refuses a row that asks for what the registry does not say.
func (p *policy) permitRow(asked rowConfig, config registry.RunnerConfig) error {
	if asked.Image != "" && !sameImage(asked.Image, config.Image) {
		return &runners.PolicyError{Service: p.service, Rule: "allowed_images",
			Offered: "the row's runner_config.image: " + asked.Image + " (the image is the registry's to say)"}
	}
	if asked.User != "" && asked.User != config.User {
		return &runners.PolicyError{Service: p.service, Rule: "user",
			Offered: "the row's runner_config.user: " + asked.User + " (the user is the registry's to say)"}
	}
	if asked.NetworkMode != "" && asked.NetworkMode != "none" && asked.NetworkMode != config.NetworkMode {
		return &runners.PolicyError{Service: p.service, Rule: "network_isolation",
			Offered: "the row's runner_config.network_mode: " + asked.NetworkMode + " (the network is the registry's to say)"}
	}
	for _, raw := range asked.Volumes {
		var v struct {
			HostPath      string `json:"host_path"`
			ContainerPath string `json:"container_path"`
			Mode          string `json:"mode"`
		}
		if json.Unmarshal(raw, &v) != nil || !slices.Contains(config.Volumes, registry.Volume(v)) {
			return &runners.PolicyError{Service: p.service, Rule: "volume_restrictions",
				Offered: "the row's runner_config.volumes: " + string(raw) + " (volumes are the registry's to say)"}
		}
	}
	return nil
}

// decodeRow reads a jsonb column that may hold anything. Only an object can
// narrow.
func decodeRow(raw json.RawMessage, into any) error {
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// lower is the smaller of two limits, where 0 is none.
func lower[N int | float64](fromRegistry, fromRow N) N {
	if fromRow > 0 && (fromRegistry <= 0 || fromRow < fromRegistry) {
		return fromRow
	}
	return fromRegistry
}

func configErrorf(service, format string, args ...any) error {
	return &runners.ConfigError{Service: service, Problem: fmt.Sprintf(format, args...)}
}
