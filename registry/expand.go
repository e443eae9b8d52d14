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
//	${file:/path}    the content of a file, which is taken for a secret
//	${cred:name}     the content of a systemd credential, likewise
//	$${              a literal ${
//
// Any other dollar sign stays as it is, so $input.field and "costs $5" need no
// escape. A default is text: it holds no further variables and no }.

// expansion is what a string with variables became.
type expansion struct {
	value   string
	names   []string // the variables in it, and file:… and cred:… references
	secrets []string // the values of those that are or look like secrets
	values  []variableValue
	broken  bool // it could not be expanded; the fault was reported
}

// variableValue is what the environment or a file gave to a string. A default
// stands in the file for all to read, and is none.
type variableValue struct {
	text   string
	at     int  // where it stands in the expanded string
	secret bool // it is one, or looks like one
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
func (v *variables) expand(s string) (expansion, []varFault) {
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
		file := isSecretFile(name)
		if !envName(name) && !file {
			faults = append(faults, varFault{CodeVariable,
				"${…} does not hold the name of an environment variable",
				"write ${NAME} or ${NAME:-default}, or $${ for a literal ${"})
			continue
		}
		if !slices.Contains(exp.names, name) {
			exp.names = append(exp.names, name)
		}
		var value string
		var set bool
		var unread error
		if file {
			value, unread = v.secret(name)
			set = unread == nil
		} else {
			value, set = v.lookup(name)
		}
		switch {
		case set && (value != "" || !hasDefault):
			given := variableValue{value, out.Len(), file || secretName(name)}
			out.WriteString(value)
			if value != "" {
				exp.values = append(exp.values, given)
			}
			if value != "" && given.secret {
				exp.secrets = append(exp.secrets, value)
			}
		case hasDefault:
			out.WriteString(fallback)
		case unread != nil:
			faults = append(faults, varFault{CodeUnsetVariable, unread.Error(),
				"put the secret there, readable for the agent, or give a default: ${" + clip(name) + ":-value}"})
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
