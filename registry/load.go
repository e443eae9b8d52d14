package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"sync"
	"unicode"

	"github.com/specql/specql-ops/jobs"
)

// MaxFileSize is how big a registry file may be, in bytes.
const MaxFileSize = 8 << 20

// Options say how a file is read. The zero value reads the base with the
// process's environment and looks at nothing outside of the file.
type Options struct {
	// Env chooses the overlay of this name, regardless of case. In a file
	// without overlays it is a label only.
	Env string
	// LookupEnv resolves ${VAR}; os.LookupEnv when nil.
	LookupEnv func(name string) (value string, set bool)
	// Stat lets the checks look at this host's files and warn of programs
	// that do not exist; nil for none, since agents may run elsewhere.
	Stat func(name string) (fs.FileInfo, error)
	// Resolve follows a path's links on this host, as filepath.EvalSymlinks
	// does, to compare volumes with the paths that are allowed; nil: by their
	// text alone.
	Resolve func(name string) (string, error)
	// Host is what this host has, to warn of limits above it; zero: unknown.
	Host Host
	// ReadSecret reads the file of ${file:…} and ${cred:…}; nil reads it from
	// disk, at most MaxSecretSize.
	ReadSecret func(path string) ([]byte, error)
	// Origins keeps the position of every value for Config.Render. It costs
	// memory, so agents leave it off.
	Origins bool
}

// Host is what a host has; zero stands for unknown.
type Host struct {
	CPUs     int
	MemoryMB int // MiB
}

func (o Options) lookup() func(string) (string, bool) {
	if o.LookupEnv != nil {
		return o.LookupEnv
	}
	return os.LookupEnv
}

// Why a file could not be read; use errors.Is. A FileError wraps each.
var (
	ErrNotFound   = errors.New("no such file")
	ErrDirectory  = errors.New("it is a directory")
	ErrUnreadable = errors.New("it cannot be read")
	ErrTooLarge   = errors.New("it is too large")
	ErrEmpty      = errors.New("it is empty")
)

// FileError is a file that could not be read.
type FileError struct {
	Path  string
	Kind  error // one of ErrNotFound, ErrDirectory, ErrUnreadable, ErrTooLarge, ErrEmpty
	Cause error // the system's error; nil when there is none
}

// Error says what happened and what to do.
func (e *FileError) Error() string {
	switch e.Kind {
	case ErrNotFound:
		return fmt.Sprintf("%s: no such file: check the path, it is usually registry/service_registry.yaml", e.Path)
	case ErrDirectory:
		return fmt.Sprintf("%s is a directory: give the file in it, such as %s/service_registry.yaml", e.Path, strings.TrimRight(e.Path, "/"))
	case ErrTooLarge:
		return fmt.Sprintf("%s is larger than %d MiB: a registry of ten thousand services takes about three, so check that it is the right file", e.Path, MaxFileSize>>20)
	case ErrEmpty:
		return fmt.Sprintf("%s is empty: it needs a services: list; if something is writing it, wait until it is done", e.Path)
	}
	if errors.Is(e.Cause, fs.ErrPermission) {
		return fmt.Sprintf("%s cannot be read by this user: %v: give it read permission", e.Path, e.Cause)
	}
	return fmt.Sprintf("%s cannot be read: %v", e.Path, e.Cause)
}

// Unwrap makes errors.Is find the kind and the system's error.
func (e *FileError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// Load reads and validates the file at path. Config is nil when there is an
// error or a diagnostic of that severity. The error is about reading alone
// and is a *FileError.
func Load(path string, opt Options) (*Config, Diagnostics, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	config, diags := Parse(path, data, opt)
	return config, diags, nil
}

// ReadFile reads a registry's text, with Load's bounds and errors.
func ReadFile(path string) ([]byte, error) {
	fail := func(kind, cause error) ([]byte, error) {
		return nil, &FileError{Path: path, Kind: kind, Cause: cause}
	}
	// Asked before opening: opening a named pipe would wait for a writer.
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(ErrNotFound, err)
	case err != nil:
		return fail(ErrUnreadable, err)
	case info.IsDir():
		return fail(ErrDirectory, nil)
	case !info.Mode().IsRegular():
		return fail(ErrUnreadable, errors.New("it is not a regular file"))
	case info.Size() > MaxFileSize:
		return fail(ErrTooLarge, nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(ErrUnreadable, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	switch {
	case err != nil:
		return fail(ErrUnreadable, err)
	case len(data) > MaxFileSize:
		return fail(ErrTooLarge, nil)
	case len(strings.TrimSpace(string(data))) == 0:
		return fail(ErrEmpty, nil)
	}
	return data, nil
}

// Parse validates data; name stands for it in positions. It reports every
// fault at once; Config is nil when one of them is an error. It does no I/O
// but what opt.Stat and opt.Resolve do, and reads the files that secrets come
// from. A Config keeps data, which must not be changed.
func Parse(name string, data []byte, opt Options) (*Config, Diagnostics) {
	config, diags, _ := parse(name, data, opt)
	return config, diags
}

// parse also returns the files that the text's secrets come from, whether it
// is valid or not.
func parse(name string, data []byte, opt Options) (*Config, Diagnostics, secretFiles) {
	rep := &report{file: name, lines: lineIndex{data: data}}
	if len(data) > MaxFileSize {
		rep.add(Error, CodeSyntax, 0, 0, (&FileError{Path: name, Kind: ErrTooLarge}).Error(), "")
		return nil, rep.sorted(), nil
	}
	root, fault := parseTree(data, rep)
	if fault != nil {
		if root = salvage(data, rep, fault); root == nil {
			return nil, rep.sorted(), nil
		}
	}
	vars := newVariables(opt)
	config := build(root, opt, vars, rep)
	diags := rep.sorted()
	if diags.HasErrors() {
		return nil, diags, vars.files
	}
	config.File, config.Hash, config.source, config.files = name, hashOf(data, opt.Env), data, vars.files
	return config, diags, vars.files
}

func hashOf(data []byte, env string) string {
	h := sha256.New()
	h.Write(data)
	// A zero byte cannot be part of the file, so no file and env collide.
	h.Write([]byte("\x00" + env))
	return hex.EncodeToString(h.Sum(nil))
}

// build turns the file's nodes into a Config; faults go to rep.
func build(root *node, opt Options, vars *variables, rep *report) *Config {
	top := readTop(root, rep)
	if top == nil {
		return nil
	}
	d := &decoder{rep: rep, vars: vars, secrets: map[string]struct{}{}}
	overlay := top.choose(opt.Env, rep)
	services := top.merged(overlay, d)
	for i := range top.overlays {
		if o := &top.overlays[i]; o != overlay {
			d.shapes(o.services)
		}
	}

	d.expand = true
	config := &Config{Env: opt.Env, secrets: d.secrets, schemas: &sync.Map{}, byName: make(map[string]*Service, len(services))}
	check := newChecker(rep, opt, vars)
	list := make([]Service, len(services))
	lines := make(map[string]int32, len(services))
	config.Services = make([]*Service, 0, len(services))
	for i, n := range services {
		s := &list[i]
		d.service(n, s)
		if n.kind != mapKind {
			continue
		}
		check.service(s, n)
		if s.Name != "" {
			key := strings.ToLower(s.Name)
			if line, dup := lines[key]; dup {
				at := orElse(n.get("name"), n)
				rep.add(Error, CodeDuplicateName, at.line, at.col,
					fmt.Sprintf("a second service is called %s; the first stands in line %d (names are compared without case)", clip(s.Name), line),
					"rename or remove one of them")
			} else {
				lines[key] = n.line
				config.byName[key] = s
			}
		}
		config.Services = append(config.Services, s)
	}
	config.Alerts = d.alerts(top.alerts)
	if opt.Origins {
		config.tree = services
	}
	if len(config.Services) == 0 && !rep.list.HasErrors() {
		help := "add a services: list when agents are to run jobs by it"
		if len(top.overlays) > 0 {
			help = "choose an environment that does: --env " + oneOf(top.overlayNames())
		}
		rep.add(Warning, CodeNotRegistry, root.line, root.col, "this file defines no services for the chosen environment", help)
	}
	return config
}

// service decodes one element of the services list.
func (d *decoder) service(n *node, s *Service) {
	d.in = "service " + serviceLabel(n) + ": "
	d.path = d.path[:0]
	if n.kind != mapKind {
		d.in = ""
		d.path = append(d.path, "a service")
		d.wrongType(n, "a mapping", objectHelp(reflect.TypeFor[Service]()))
		d.path = d.path[:0]
		return
	}
	d.object(n, reflect.ValueOf(s).Elem())
	s.Hidden = hidden(n)
	t := n.get("execution_type")
	s.ExplicitType = t != nil && t.kind != nullKind
	if s.ExecutionType == "" {
		s.ExecutionType = jobs.HTTP
	}
	if b := s.SecurityPolicy.CircuitBreaker; b != nil {
		breaker := n.path("security_policy", "circuit_breaker")
		if !given(breaker.get("failure_threshold")) {
			b.FailureThreshold = 5
		}
		if !given(breaker.get("recovery_timeout")) {
			b.RecoveryTimeout = 300
		}
	}
}

// shapes checks fields and types of services that are not decoded for use.
func (d *decoder) shapes(services []*node) {
	expand := d.expand
	d.expand = false
	for _, n := range services {
		var scratch Service
		d.service(n, &scratch)
	}
	d.expand = expand
}

// serviceLabel is what messages call a service.
func serviceLabel(n *node) string {
	if name := n.get("name"); name != nil && name.text != "" && name.kind < mapKind {
		return clip(strings.TrimFunc(name.text, unicode.IsSpace))
	}
	return "without a name"
}

func given(n *node) bool { return n != nil && n.kind != nullKind }

func orElse(n, other *node) *node {
	if n != nil {
		return n
	}
	return other
}
