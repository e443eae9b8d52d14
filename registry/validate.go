package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// The exit statuses of validate-config.
const (
	ExitFine       = 0 // valid, perhaps with warnings
	ExitNoFile     = 2 // no such file, a directory, no permission
	ExitUnreadable = 3 // not YAML, empty or too large
	ExitInvalid    = 4 // YAML, but not a valid configuration
)

// Validation is what validate-config found: a valid Config, or why there is
// none.
type Validation struct {
	Path        string
	Env         string
	Config      *Config // nil unless the file is valid
	Diagnostics Diagnostics
	Err         error // why the file could not be read
}

// Validate loads path for a report: with the origin of each value and, unless
// opt.Stat says otherwise, with a look at this host's programs.
func Validate(path string, opt Options) Validation {
	opt.Origins = true
	if opt.Stat == nil {
		opt.Stat, opt.Resolve, opt.Host = os.Stat, filepath.EvalSymlinks, thisHost()
	}
	v := Validation{Path: path, Env: opt.Env}
	v.Config, v.Diagnostics, v.Err = Load(path, opt)
	return v
}

// thisHost reads what this host has.
func thisHost() Host {
	h := Host{CPUs: runtime.NumCPU()}
	info, err := os.ReadFile("/proc/meminfo") // Linux alone; elsewhere memory is not compared
	if err != nil {
		return h
	}
	for line := range strings.Lines(string(info)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			if kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB")); err == nil {
				h.MemoryMB = kib / 1024
			}
		}
	}
	return h
}

// ExitCode is the command's exit status. With strict a warning counts as an
// error does.
func (v Validation) ExitCode(strict bool) int {
	switch {
	case errors.Is(v.Err, ErrEmpty), errors.Is(v.Err, ErrTooLarge), v.Diagnostics.Unreadable():
		return ExitUnreadable
	case v.Err != nil:
		return ExitNoFile
	case v.Config == nil, strict && len(v.Diagnostics) > 0:
		return ExitInvalid
	}
	return ExitFine
}

// WriteText writes the report for people: the diagnostics, what a valid file
// came to when verbose, and a last line that sums up.
func (v Validation) WriteText(w io.Writer, verbose bool) error {
	if v.Err != nil {
		_, err := fmt.Fprintln(w, v.Err)
		return err
	}
	if err := v.Diagnostics.WriteText(w); err != nil {
		return err
	}
	if len(v.Diagnostics) > 0 {
		fmt.Fprintln(w)
	}
	if v.Config == nil {
		_, err := fmt.Fprintf(w, "%s is not valid: %s, %s\n", v.Path,
			count(v.Diagnostics.Errors(), "error"), count(v.Diagnostics.Warnings(), "warning"))
		return err
	}
	if verbose {
		if err := v.Config.Render(w, true); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	types := v.Config.typeCounts()
	if types != "" {
		types = " (" + types + ")"
	}
	_, err := fmt.Fprintf(w, "%s is valid: %s%s, %s\n", v.Path, count(len(v.Config.Services), "service"), types,
		count(v.Diagnostics.Warnings(), "warning"))
	return err
}

// MarshalJSON is the report for programs: --output json.
func (v Validation) MarshalJSON() ([]byte, error) {
	type service struct {
		Name          string   `json:"name"`
		ExecutionType string   `json:"execution_type"`
		Operations    []string `json:"operations"`
	}
	out := struct {
		File        string      `json:"file"`
		Env         string      `json:"env,omitempty"`
		Valid       bool        `json:"valid"`
		Hash        string      `json:"hash,omitempty"`
		Error       string      `json:"error,omitempty"`
		Errors      int         `json:"errors"`
		Warnings    int         `json:"warnings"`
		Diagnostics Diagnostics `json:"diagnostics"`
		Services    []service   `json:"services"`
	}{
		File: v.Path, Env: v.Env, Valid: v.Config != nil, Diagnostics: v.Diagnostics,
		Errors: v.Diagnostics.Errors(), Warnings: v.Diagnostics.Warnings(), Services: []service{},
	}
	if out.Diagnostics == nil {
		out.Diagnostics = Diagnostics{}
	}
	if v.Err != nil {
		out.Error = v.Err.Error()
	}
	if v.Config != nil {
		out.Hash = v.Config.Hash
		for _, s := range v.Config.Services {
			entry := service{s.Name, string(s.ExecutionType), []string{}}
			for i := range s.Operations {
				entry.Operations = append(entry.Operations, s.Operations[i].Name)
			}
			out.Services = append(out.Services, entry)
		}
	}
	return json.Marshal(out)
}
