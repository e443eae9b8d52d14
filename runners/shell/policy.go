package shell

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// Levels, strongest first. A row may only move towards the front.
var (
	isolationLevels = []string{"full", "process", "none"}
	networkLevels   = []string{"none", "localhost", "all"}
	fileLevels      = []string{"none", "read", "read_write"}
)

// policy is what one attempt may do: the registry's security_policy, narrowed
// by the row. An empty level was asked for by neither.
type policy struct {
	service        string
	limits         registry.ResourceLimits
	isolation      string
	network        string
	files          string
	commands       []string // the registry's allowed_commands
	rowCommands    []string // the row's; nil when it gives none
	directories    []string
	asRoot         bool // the registry names root as the job's user
	timeoutFromRow int  // seconds; 0 when the row's runner_config gives none
	maxProcesses   int
	maxOpenFiles   uint64
	output         program.Bounds // more than Both ends the attempt
	tmpMB          int            // the private /tmp
}

const (
	// defaultPath is a job's PATH where the registry gives none.
	defaultPath = "/usr/bin:/bin"
	// defaultProcesses bounds the processes and threads of one attempt. It is
	// room for a script with a few helpers or a runtime with a thread pool,
	// and little enough that a fork bomb is no more than a nuisance.
	defaultProcesses = 64
	defaultOpenFiles = 1024
	maxOutput        = 64 << 20
	// defaultTmpMB is the private /tmp's size where the policy gives no
	// disk_mb. It is memory, and memory_mb counts it.
	defaultTmpMB = 1024
)

// rowPolicy is what a row's security_context may narrow. The column holds
// other things of the application's too, which are left alone.
type rowPolicy struct {
	ResourceLimits struct {
		CPUCores   float64 `json:"cpu_cores"`
		CPUSeconds float64 `json:"cpu_seconds"`
		MemoryMB   int     `json:"memory_mb"`
		DiskMB     int     `json:"disk_mb"`
	} `json:"resource_limits"`
	Isolation       string   `json:"isolation"`
	NetworkAccess   string   `json:"network_access"`
	FileAccess      string   `json:"file_access"`
	AllowedCommands []string `json:"allowed_commands"`
}

// effectivePolicy is registry ∩ row.
func effectivePolicy(call runners.Call) (policy, error) {
	sp := call.Service.SecurityPolicy
	p := policy{
		service:      call.Service.Name,
		limits:       sp.ResourceLimits,
		commands:     sp.AllowedCommands,
		directories:  sp.WorkingDirectoryRestrictions,
		maxProcesses: defaultProcesses,
		maxOpenFiles: defaultOpenFiles,
		output:       program.Bounds{Stdout: program.Usual.Stdout, Stderr: program.Usual.Stderr, Both: maxOutput},
		asRoot:       namesRoot(call.Service.RunnerConfig.User),
	}
	var row rowPolicy
	if err := decodeRow(call.Job.SecurityContext, &row); err != nil {
		return p, configErrorf(p.service, "the row's security_context cannot be read: %v; correct the row", err)
	}
	var config struct {
		Timeout int `json:"timeout"`
	}
	if err := decodeRow(call.Job.RunnerConfig, &config); err != nil {
		return p, configErrorf(p.service, "the row's runner_config cannot be read: %v; correct the row", err)
	}
	p.timeoutFromRow = config.Timeout
	p.rowCommands = row.AllowedCommands
	p.limits.CPUCores = lower(p.limits.CPUCores, row.ResourceLimits.CPUCores)
	p.limits.CPUSeconds = lower(p.limits.CPUSeconds, row.ResourceLimits.CPUSeconds)
	p.limits.MemoryMB = lower(p.limits.MemoryMB, row.ResourceLimits.MemoryMB)
	p.limits.DiskMB = lower(p.limits.DiskMB, row.ResourceLimits.DiskMB)
	if p.tmpMB = p.limits.DiskMB; p.tmpMB == 0 {
		p.tmpMB = defaultTmpMB
	}

	for _, level := range []struct {
		name          string
		levels        []string
		registry, row string
		// unset is what an empty registry field permits.
		unset string
		into  *string
	}{
		{"isolation", isolationLevels, sp.Isolation, row.Isolation, "none", &p.isolation},
		{"network_access", networkLevels, sp.NetworkAccess, row.NetworkAccess, "none", &p.network},
		{"file_access", fileLevels, sp.FileAccess, row.FileAccess, "read_write", &p.files},
	} {
		for _, value := range []string{level.registry, level.row} {
			if value != "" && !slices.Contains(level.levels, value) {
				return p, configErrorf(p.service, "%s %q is not known: use one of %v", level.name, value, level.levels)
			}
		}
		*level.into = stronger(level.levels, level.registry, level.row, level.unset)
	}
	return p, nil
}

// decodeRow reads a jsonb column that may hold anything. Only an object can
// narrow.
func decodeRow(raw json.RawMessage, into any) error {
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	return json.Unmarshal(raw, into)
}

// stronger is the registry's level, or the row's where that is stronger. A
// row that asks for no more than an unset field permits leaves it unset.
func stronger(levels []string, fromRegistry, fromRow, unset string) string {
	if fromRow == "" {
		return fromRegistry
	}
	permitted := fromRegistry
	if permitted == "" {
		permitted = unset
	}
	row := slices.Index(levels, fromRow)
	if row < slices.Index(levels, permitted) || fromRegistry == "" && row == 0 {
		return fromRow
	}
	return fromRegistry
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
