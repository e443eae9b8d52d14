package shell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/specql/specql-ops/runners"
)

// command is what an attempt starts, opened and checked.
type command struct {
	program *os.File // the checked file; started by its descriptor
	path    string   // where it really is
	argv    []string // argv[0] is a spelling that allowed_commands permits
	hashed  bool     // a "#!" file: the kernel opens it again for its interpreter

	// script is the opened file of an interpreter's script; nil without one.
	// The interpreter gets its path, so that $0, __file__ and relative
	// imports mean what their author expects. Whoever may exchange the path
	// owns the working directory and with it the script's content, so the
	// path is as trustworthy as the content; the two are compared once more
	// just before the start.
	script     *os.File
	scriptPath string
}

func (c *command) close() {
	for _, f := range []*os.File{c.program, c.script} {
		if f != nil {
			f.Close()
		}
	}
}

// workDir is the attempt's working directory, opened once.
type workDir struct {
	*os.File
	path string // resolved
}

// openWorkDir checks working_directory against its restrictions, both
// resolved.
func openWorkDir(p policy, dir string) (workDir, error) {
	if dir == "" {
		return workDir{}, configErrorf(p.service, "runner_config.working_directory is missing; give the absolute path of the directory that the jobs run in")
	}
	if !filepath.IsAbs(dir) {
		return workDir{}, configErrorf(p.service, "working_directory %q is not absolute", dir)
	}
	f, path, err := openPath(dir, true)
	if err != nil {
		return workDir{}, configErrorf(p.service, "working_directory %s cannot be used: %v", dir, cause(err))
	}
	if len(p.directories) > 0 && !slices.ContainsFunc(p.directories, func(allowed string) bool {
		resolved, err := filepath.EvalSymlinks(allowed)
		return err == nil && filepath.IsAbs(allowed) && within(resolved, path)
	}) {
		f.Close()
		return workDir{}, &runners.PolicyError{Service: p.service, Rule: "working_directory_restrictions", Offered: path,
			Permit: fmt.Sprintf("working_directory_restrictions: [%q]", path)}
	}
	return workDir{f, path}, nil
}

// within tells whether path is dir or lies below it; both are clean and
// absolute.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// findCommand decides what the attempt runs.
func findCommand(call runners.Call, p policy, dir workDir) (*command, error) {
	config := call.Service.RunnerConfig
	fields := inputFields(call.Job.Input)
	switch config.CommandFromInput {
	case "", "script", "command":
	default:
		return nil, configErrorf(p.service, "command_from_input %q is not known: use script or command, or leave it out", config.CommandFromInput)
	}
	allowed := allowedCommands(p)

	if config.CommandFromInput == "command" {
		line, given, err := rowCommand(p.service, fields)
		if err != nil {
			return nil, err
		}
		if given {
			return programCommand(p, allowed, dir, line)
		}
	}
	if config.CommandFromInput == "script" {
		if name, given := fields["script"]; given {
			text, ok := name.(string)
			if !ok || text == "" {
				return nil, configErrorf(p.service, "the input's field script is not a file's name")
			}
			return rowScript(p, allowed, dir, config.Shell, text)
		}
	}
	if len(call.Operation.Command) > 0 {
		line, err := commandLine(p.service, call.Operation.Command, fields)
		if err != nil {
			return nil, err
		}
		return programCommand(p, allowed, dir, line)
	}
	return operationScript(p, allowed, dir, config.Shell, call.Operation.Name)
}

// rowCommand reads input_data.command and args, which the registry granted.
func rowCommand(service string, fields map[string]any) (line []string, given bool, err error) {
	value, given := fields["command"]
	if !given {
		return nil, false, nil
	}
	program, ok := value.(string)
	if !ok || program == "" {
		return nil, true, configErrorf(service, "the input's field command is not a program's path")
	}
	line = []string{program}
	args, ok := fields["args"].([]any)
	if !ok && fields["args"] != nil {
		return nil, true, configErrorf(service, "the input's field args is not a list of strings")
	}
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			line = append(line, v)
		case fmt.Stringer: // a number, in the row's spelling
			line = append(line, v.String())
		default:
			return nil, true, configErrorf(service, "the input's args[%d] is neither a string nor a number", i)
		}
	}
	return line, true, nil
}

// programCommand opens a program and checks it against the allow-list.
func programCommand(p policy, allowed []allowedCommand, dir workDir, line []string) (*command, error) {
	if err := checkArguments(p.service, line); err != nil {
		return nil, err
	}
	path := line[0]
	switch {
	case filepath.IsAbs(path):
	case strings.Contains(path, "/"):
		path = filepath.Join(dir.path, path)
	default:
		path = onPath(path)
	}
	f, resolved, err := openPath(path, false)
	if err != nil {
		if !slices.ContainsFunc(allowed, func(a allowedCommand) bool { return a.entry == filepath.Clean(path) }) {
			return nil, notAllowed(p, line[0])
		}
		return nil, configErrorf(p.service, "the command %s cannot be started: %v; install it where the agent runs or correct the path", line[0], cause(err))
	}
	c := &command{program: f, path: resolved, argv: slices.Clone(line)}
	name, ok := permits(allowed, filepath.Clean(path), resolved)
	if !ok {
		c.close()
		return nil, notAllowed(p, line[0])
	}
	c.argv[0] = name
	c.hashed = hasHashBang(f)
	return c, nil
}

func notAllowed(p policy, offered string) error {
	e := &runners.PolicyError{Service: p.service, Rule: "allowed_commands", Offered: offered}
	if filepath.IsAbs(offered) && p.rowCommands == nil {
		e.Permit = fmt.Sprintf("allowed_commands: [%q]", offered)
	}
	return e
}

// onPath finds a bare name where a job's own PATH would.
func onPath(name string) string {
	for _, dir := range filepath.SplitList(defaultPath) {
		if path := filepath.Join(dir, name); isExecutable(path) {
			return path
		}
	}
	return filepath.Join("/usr/bin", name)
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// allowedCommand is one entry of allowed_commands.
type allowedCommand struct {
	entry    string // as the registry spells it, cleaned
	resolved string // where it really is; empty where this host lacks it
}

// allowedCommands resolves the registry's entries, less those that the row
// leaves out.
func allowedCommands(p policy) []allowedCommand {
	resolve := func(entries []string) []allowedCommand {
		var list []allowedCommand
		for _, entry := range entries {
			if !filepath.IsAbs(entry) {
				continue // a relative entry means another file in every directory
			}
			resolved, err := filepath.EvalSymlinks(entry)
			if err != nil {
				resolved = ""
			}
			list = append(list, allowedCommand{filepath.Clean(entry), resolved})
		}
		return list
	}
	allowed := resolve(p.commands)
	if p.rowCommands == nil {
		return allowed
	}
	row := resolve(p.rowCommands)
	return slices.DeleteFunc(allowed, func(a allowedCommand) bool {
		_, ok := permits(row, a.entry, a.resolved)
		return !ok
	})
}

// permits tells whether the list holds a program, by its own path or by where
// an entry leads. The name that it returns becomes argv[0]: a program that
// acts by its name, as busybox does, can only act as the entry that was
// permitted.
func permits(allowed []allowedCommand, spelt, resolved string) (name string, ok bool) {
	for _, a := range allowed {
		if a.entry == spelt && a.resolved == resolved && resolved != "" {
			return spelt, true
		}
	}
	for _, a := range allowed {
		if resolved != "" && (a.resolved == resolved || a.entry == resolved) {
			return a.entry, true
		}
	}
	return "", false
}

// operationScript finds the script that is named after the operation.
func operationScript(p policy, allowed []allowedCommand, dir workDir, shell, operation string) (*command, error) {
	if operation == "" || operation == "." || operation == ".." || strings.ContainsAny(operation, "/\x00") {
		return nil, configErrorf(p.service, "the operation's name %q is not a file's name; give the operation a command", operation)
	}
	var refused error
	for _, name := range scriptNames(operation) {
		f, err := openBeneath(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			refused = cmpError(refused, scriptError(p, name, err))
			continue
		}
		c, err := scriptCommand(p, allowed, dir, shell, name, f)
		if err == nil {
			return c, nil
		}
		refused = cmpError(refused, err)
	}
	if refused != nil {
		return nil, refused
	}
	return nil, configErrorf(p.service, "operation %s has no command, and %s holds no script of its name (%s)",
		operation, dir.path, strings.Join(scriptNames(operation), ", "))
}

// scriptNames are the files that an operation may mean, in order.
func scriptNames(operation string) []string {
	names := []string{operation}
	for _, family := range interpreters {
		for _, extension := range family.extensions {
			names = append(names, operation+extension)
		}
	}
	return names
}

// cmpError keeps the first of two errors.
func cmpError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// rowScript opens the script that a row chose, which the registry granted.
func rowScript(p policy, allowed []allowedCommand, dir workDir, shell, name string) (*command, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return nil, configErrorf(p.service, "the input's field script holds a NUL character; correct the row")
	}
	f, err := openBeneath(dir, name)
	if err != nil {
		return nil, scriptError(p, name, err)
	}
	return scriptCommand(p, allowed, dir, shell, filepath.Clean(name), f)
}

func scriptError(p policy, name string, err error) error {
	if errors.Is(err, errEscapes) {
		return &runners.PolicyError{Service: p.service, Rule: "working_directory_restrictions", Offered: name}
	}
	return configErrorf(p.service, "the script %s cannot be used: %v", name, cause(err))
}

// errEscapes says that a path leads out of its directory.
var errEscapes = errors.New("it leads out of the working directory")

// scriptCommand decides how an opened script runs. It takes f over.
func scriptCommand(p policy, allowed []allowedCommand, dir workDir, shell, name string, f *os.File) (*command, error) {
	c := &command{script: f, scriptPath: filepath.Join(dir.path, name)}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err != nil {
		c.close()
		return nil, scriptError(p, name, err)
	}
	family, ok := interpreterFor(filepath.Ext(name))
	if !ok {
		c.close()
		if info.Mode()&0o111 == 0 {
			return nil, configErrorf(p.service, "the script %s is not executable and its name has no extension that says what runs it", name)
		}
		return programCommand(p, allowed, dir, []string{filepath.Join(dir.path, name)})
	}
	program, err := interpreterPath(p, allowed, family, shell, name)
	if err != nil {
		c.close()
		return nil, err
	}
	run, err := programCommand(p, allowed, dir, []string{program, c.scriptPath})
	if err != nil {
		c.close()
		return nil, err
	}
	run.script, run.scriptPath = c.script, c.scriptPath
	return run, nil
}

// interpreterPath is the first allowed command of the family that this host
// has; for shell scripts runner_config.shell, where that is given.
func interpreterPath(p policy, allowed []allowedCommand, family interpreter, shell, name string) (string, error) {
	if family.name == "shell" && shell != "" {
		return shell, nil
	}
	missing := ""
	for _, a := range allowed {
		if !family.runs(filepath.Base(a.entry)) {
			continue
		}
		if a.resolved != "" {
			return a.entry, nil
		}
		missing = a.entry
	}
	if missing != "" {
		return "", configErrorf(p.service, "the script %s needs %s, which allowed_commands permits but this host does not have; install it, or permit the interpreter that is here", name, missing)
	}
	e := &runners.PolicyError{Service: p.service, Rule: "allowed_commands", Offered: name + " (a script for " + family.name + ")"}
	for _, program := range family.programs {
		for _, candidate := range []string{program, program + "3"} {
			if path := onPath(candidate); e.Permit == "" && isExecutable(path) {
				e.Permit = fmt.Sprintf("allowed_commands: [%q]", path)
			}
		}
	}
	return "", e
}

// hasHashBang tells a script that names its own interpreter. A file that
// cannot be read is no such script to the kernel either.
func hasHashBang(f *os.File) bool {
	r, err := reopen(f)
	if err != nil {
		return false
	}
	defer r.Close()
	var magic [2]byte
	n, _ := r.Read(magic[:])
	return n == 2 && string(magic[:]) == "#!"
}

// cause is what a path error is about; the path stands beside it already.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
