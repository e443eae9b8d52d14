package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/specql/specql-ops/runners"
)

const inputPrefix = "$input."

// Fill fills a command's arguments from the job's input. An argument that is
// exactly $input.field becomes that field whole: a string as it is, any other
// value as JSON. The program itself is always the registry's.
//
// A string of the row's that begins with a dash would be read as an option
// (argument injection, CWE-88) and is refused, unless the command ends options
// before it by "--". The error is a *runners.ConfigError.
func Fill(service string, command []string, input json.RawMessage) ([]string, error) {
	fault := func(format string, args ...any) error {
		return &runners.ConfigError{Service: service, Problem: fmt.Sprintf(format, args...)}
	}
	line := slices.Clone(command)
	var fields map[string]any
	for i, arg := range command {
		path, fromInput := strings.CutPrefix(arg, inputPrefix)
		if !fromInput || path == "" {
			continue
		}
		if i == 0 {
			return nil, fault("command's program is %s: the row cannot choose it; write the program's path", arg)
		}
		if fields == nil {
			d := json.NewDecoder(bytes.NewReader(input))
			d.UseNumber()
			if d.Decode(&fields) != nil || fields == nil {
				fields = map[string]any{}
			}
		}
		value, ok := field(fields, path)
		if !ok {
			return nil, fault("the input has no field %s, which the command needs as its argument %d; enqueue the job with it", path, i)
		}
		text, isText := value.(string)
		switch {
		case !isText:
			text = string(Encode(value))
		case strings.ContainsRune(text, 0):
			return nil, fault("the input's field %s holds a NUL character, which no program can be given; correct the row", path)
		case strings.HasPrefix(text, "-") && !slices.Contains(command[:i], "--"):
			return nil, fault("the input's field %s is %q, which is not allowed there: it would be an option of the program; put \"--\" before %s in the command, or let the program read it from its standard input", path, text, arg)
		}
		line[i] = text
	}
	return line, nil
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
