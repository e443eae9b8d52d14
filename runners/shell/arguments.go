package shell

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// inputFields reads input_data where it is an object. Numbers keep their
// spelling.
func inputFields(raw json.RawMessage) map[string]any {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&fields) != nil {
		return nil
	}
	return fields
}

// field finds a dotted path.
func field(fields map[string]any, path string) (any, bool) {
	var value any = fields
	for name := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil, false
		}
		if value, ok = object[name]; !ok {
			return nil, false
		}
	}
	return value, true
}

const inputPrefix = "$input."

// commandLine fills operation.command from the input. An argument that is
// exactly $input.field becomes that field whole: a string as it is, any other
// value as JSON. The program itself is always the registry's.
//
// A string of the row's that begins with a dash would be read as an option
// (argument injection, CWE-88) and is refused, unless the registry's command
// ends options before it: by "--", or, for an interpreter, by the script or
// code that it runs.
func commandLine(service string, command []string, fields map[string]any) ([]string, error) {
	if strings.HasPrefix(command[0], inputPrefix) {
		return nil, configErrorf(service, "command's program is %s: the row cannot choose it; write the program's path, or set command_from_input: command", command[0])
	}
	line := make([]string, len(command))
	for i, arg := range command {
		path, fromInput := strings.CutPrefix(arg, inputPrefix)
		if !fromInput || path == "" {
			line[i] = arg
			continue
		}
		value, ok := field(fields, path)
		if !ok {
			return nil, configErrorf(service, "the input has no field %s, which the command needs as its argument %d; enqueue the job with it", path, i)
		}
		text, isText := value.(string)
		if !isText {
			line[i] = string(program.Encode(value))
			continue
		}
		if strings.HasPrefix(text, "-") && !optionsEnded(command[:i]) {
			return nil, &runners.PolicyError{Service: service, Rule: "allowed_commands", Offered: text + " as " + arg +
				" (it would be an option of " + filepath.Base(command[0]) + "; put \"--\" before " + arg + " in the operation's command, or let the program read it from its standard input)"}
		}
		line[i] = text
	}
	return line, nil
}

// optionsEnded tells whether the registry's arguments so far keep anything
// after them from being an option.
func optionsEnded(before []string) bool {
	args := before[1:]
	if slices.Contains(args, "--") {
		return true
	}
	family, ok := interpreterOf(before[0])
	if !ok {
		return false
	}
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case strings.HasPrefix(arg, inputPrefix):
			// The row's own value may be anything but an option; it is the
			// script, and all that follows is the script's.
			return true
		case slices.Contains(family.takesCode, arg):
			return i+1 < len(args)
		case slices.Contains(family.takesValue, arg):
			i++
		case strings.HasPrefix(arg, "-") && (!family.flagsKnown || isBundle(arg)):
			i++ // it may take the next argument as its value
		case !strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "+"):
			return true
		}
	}
	return false
}

// isBundle tells several short options in one, such as -lc.
func isBundle(arg string) bool { return len(arg) > 2 && arg[1] != '-' }

// checkArguments refuses what no program can be given.
func checkArguments(service string, argv []string) error {
	for i, arg := range argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return configErrorf(service, "argument %d holds a NUL character, which no program can be given; correct the row", i)
		}
	}
	return nil
}

// interpreter is a family of programs that run scripts.
type interpreter struct {
	name       string
	programs   []string // base names; a version may follow
	extensions []string // of the scripts that it runs, most usual first

	flagsKnown bool     // takesValue is complete: any other option takes no value
	takesValue []string // options whose value is the next argument
	takesCode  []string // options whose next argument is code and the last option
}

var interpreters = []interpreter{
	{name: "python", programs: []string{"python", "pypy"}, extensions: []string{".py"}, flagsKnown: true,
		takesValue: []string{"-W", "-X", "--check-hash-based-pycs"}, takesCode: []string{"-c", "-m"}},
	{name: "node", programs: []string{"node", "nodejs"}, extensions: []string{".js", ".mjs", ".cjs"}},
	{name: "shell", programs: []string{"bash", "sh", "dash", "ash", "ksh", "zsh"}, extensions: []string{".sh", ".bash"}, flagsKnown: true,
		takesValue: []string{"-o", "+o", "-O", "+O", "--rcfile", "--init-file"}},
	{name: "ruby", programs: []string{"ruby"}, extensions: []string{".rb"}},
	{name: "perl", programs: []string{"perl"}, extensions: []string{".pl"}},
	{name: "php", programs: []string{"php"}, extensions: []string{".php"}},
	{name: "lua", programs: []string{"lua", "luajit"}, extensions: []string{".lua"}},
	{name: "R", programs: []string{"Rscript"}, extensions: []string{".R"}},
}

// interpreterOf finds the family of a program by its base name.
func interpreterOf(program string) (interpreter, bool) {
	base := filepath.Base(program)
	for _, family := range interpreters {
		if family.runs(base) {
			return family, true
		}
	}
	return interpreter{}, false
}

// interpreterFor finds the family that runs scripts of an extension.
func interpreterFor(extension string) (interpreter, bool) {
	for _, family := range interpreters {
		if slices.Contains(family.extensions, extension) {
			return family, true
		}
	}
	return interpreter{}, false
}

// runs tells whether a base name is one of the family's, such as python3.11.
func (f interpreter) runs(base string) bool {
	for _, program := range f.programs {
		if version, ok := strings.CutPrefix(base, program); ok && strings.Trim(version, "0123456789.-") == "" {
			return true
		}
	}
	return false
}
