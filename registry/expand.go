package registry

import (
	"fmt"
	"slices"
	"strings"
)

// Variables in string values:
//
//	${VAR}           the variable's value; an error when it is not set
//	${VAR:-default}  the default when it is not set or empty
//	$${              a literal ${
//
// Any other dollar sign stays as it is, so $input.field and "costs $5" need no
// escape. A default is text: it holds no further variables and no }.

// expansion is what a string with variables became.
type expansion struct {
	value   string
	names   []string // the variables in it
	secrets bool     // one of them looks like a secret's name
	broken  bool     // it could not be expanded; the fault was reported
}

// varFault is a ${…} that cannot be expanded. It never holds a value.
type varFault struct {
	code    Code
	message string
	help    string
}

// hasVariables is the cheap test before expand.
func hasVariables(s string) bool { return strings.Contains(s, "${") }

// expand replaces the variables of s; it reports every fault, not the first.
func expand(s string, lookup func(string) (string, bool)) (expansion, []varFault) {
	var out strings.Builder
	var exp expansion
	var faults []varFault
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			out.WriteString(s)
			break
		}
		if i > 0 && s[i-1] == '$' {
			out.WriteString(s[:i-1])
			out.WriteString("${")
			s = s[i+2:]
			continue
		}
		out.WriteString(s[:i])
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			faults = append(faults, varFault{CodeVariable, "${ without its }", "close it, or write $${ for a literal ${"})
			break
		}
		body := s[i+2 : i+end]
		s = s[i+end+1:]
		name, fallback, hasDefault := strings.Cut(body, ":-")
		if !envName(name) {
			faults = append(faults, varFault{CodeVariable,
				"${…} does not hold the name of an environment variable",
				"write ${NAME} or ${NAME:-default}, or $${ for a literal ${"})
			continue
		}
		if !slices.Contains(exp.names, name) {
			exp.names = append(exp.names, name)
		}
		value, set := lookup(name)
		switch {
		case set && (value != "" || !hasDefault):
			out.WriteString(value)
			// A default stands in the file for all to read; only what the
			// environment gave can be a secret.
			exp.secrets = exp.secrets || secretName(name)
		case hasDefault:
			out.WriteString(fallback)
		default:
			faults = append(faults, varFault{CodeUnsetVariable,
				fmt.Sprintf("the environment variable %s is not set", name),
				fmt.Sprintf("set %s, or give a default: ${%s:-value}", name, name)})
		}
	}
	exp.value = out.String()
	return exp, faults
}

// envName tells whether s may name an environment variable.
func envName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
