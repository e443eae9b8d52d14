package registry

import (
	"regexp"
	"strings"
)

// masked stands in every text for a value that must not be shown.
const masked = "••••"

// secretWords are the parts of a name that make it look like a secret's.
var secretWords = []string{
	"secret", "token", "password", "passwd", "passphrase", "apikey", "authorization",
	"credential", "privatekey", "accesskey", "cookie", "bearer", "signature",
}

var nameParts = strings.NewReplacer("_", "", "-", "", ".", "")

// secretName tells whether a variable, header or key of this name probably
// holds a secret. The fields that name variables (…_env_var), a place to ask for
// a token (token_url) or a file (key_file) do not.
func secretName(name string) bool {
	name = strings.ToLower(name)
	if strings.HasSuffix(name, "_env_var") || name == "token_url" || name == "key_file" {
		return false
	}
	flat := nameParts.Replace(name)
	for _, w := range secretWords {
		if strings.Contains(flat, w) {
			return true
		}
	}
	// DATABASE_URL, SENTRY_DSN and the like carry a password; _KEY and _PAT
	// are too common as suffixes of secrets to be shown.
	for _, suffix := range []string{"_key", "-key", "_pat", "_pwd", "_pass", "_auth", "_dsn", "database_url"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return name == "auth" || name == "pwd" || name == "key"
}

var (
	keyValue = regexp.MustCompile(`(["']?)([A-Za-z_][\w.-]*)(["']?\s*:\s+)("(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?|[^\s#,}][^,}]*)`)
	urlUser  = regexp.MustCompile(`(://)[^/\s"'@]+@`)
)

// maskLine hides the values beside secret-looking keys and the userinfo of
// URLs. References to variables stay: they are names.
func maskLine(line string) string {
	line = urlUser.ReplaceAllString(line, "${1}"+masked+"@")
	return keyValue.ReplaceAllStringFunc(line, func(m string) string {
		p := keyValue.FindStringSubmatch(m)
		if !secretName(p[2]) || onlyVariable(p[4]) || strings.HasPrefix(p[4], "{") || strings.HasPrefix(p[4], "[") {
			return m
		}
		return p[1] + p[2] + p[3] + masked
	})
}

// maskAnyValue hides the values of a line whatever their keys are.
func maskAnyValue(line string) string {
	out := keyValue.ReplaceAllString(line, "${1}${2}${3}"+masked)
	if out == line {
		return leadingBlanks(line) + masked
	}
	return out
}

var wholeVariable = regexp.MustCompile(`^["']?\$\{(?:[A-Za-z_][A-Za-z0-9_]*|file:/[^}]*|cred:[A-Za-z0-9_.@-]+)\}["']?\s*$`)

func onlyVariable(value string) bool { return wholeVariable.MatchString(value) }
