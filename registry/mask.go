package registry

import (
	"regexp"
	"strings"
)

// What gives a secret away inside of a text whose key says nothing. Each
// pattern is looked for line by line.
var (
	// ${DB_PASSWORD:-literal}
	variableDefault = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*|(?:file|cred):[^}]*?):-([^}]+)\}`)
	// "password": value, and password: value with a blank, as image:tag has none
	colonPair = regexp.MustCompile(`(["'][A-Za-z_][\w.-]*["']\s*:\s*|\b[A-Za-z_][\w.-]*:\s+)` +
		`("(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?|[\[{].*|[^\s,;&}\]"'][^,;&}\]"']*)`)
	// password=value, ?api_key=value
	equalsPair = regexp.MustCompile(`([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?|[^\s,;&}\]"']+)`)
	// --password value
	flagPair = regexp.MustCompile(`(--?[A-Za-z][\w-]*)([\s,]+["']?)([^\s,"'\]-][^\s,"'\]]*)`)
	// Bearer 4f1c…
	scheme = regexp.MustCompile(`(?i)\b(bearer|basic|token)\s+([A-Za-z0-9._~+/-]{6,}=*)`)
	// Tokens that services mark as such themselves.
	tokenShape = regexp.MustCompile(`\b[spr]k_(?:live|test)_[A-Za-z0-9]{6,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|` +
		`\bglpat-[\w-]{16,}|\bxox[abprs]-[\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?`)
	// Whoever knows the address of a webhook may post to it.
	webhook    = regexp.MustCompile(`(hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/[^\s"']+`)
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
)

// shortestSecret is the least length of a text that is looked into.
const shortestSecret = 6

// maskText hides what looks like a secret inside of a text: userinfo of URLs,
// defaults of secret-looking variables, values beside secret-looking names,
// and tokens known by their shape. References to variables stay.
func maskText(text string) string {
	if len(text) < shortestSecret {
		return text
	}
	if privateKey.MatchString(text) {
		return masked
	}
	if !strings.Contains(text, "\n") {
		return maskTextLine(text)
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = maskTextLine(lines[i])
	}
	return strings.Join(lines, "\n")
}

func maskTextLine(s string) string {
	if strings.Contains(s, "${") {
		s = maskDefaults(s, secretName)
	}
	if strings.Contains(s, "://") {
		s = maskUserinfo(s)
		s = webhook.ReplaceAllString(s, "${1}/"+masked)
	}
	s = maskPairs(s)
	if strings.Contains(s, "-") {
		s = replacePairs(flagPair, s, func(m []string) string {
			if !secretName(strings.TrimLeft(m[1], "-")) || shownThough(m[3]) {
				return m[0]
			}
			return m[1] + m[2] + masked
		})
	}
	s = replacePairs(scheme, s, func(m []string) string {
		if !strings.ContainsAny(m[2], "0123456789") { // a word of a sentence
			return m[0]
		}
		return m[1] + " " + masked
	})
	return tokenShape.ReplaceAllString(s, masked)
}

// maskPairs hides values beside secret-looking names, also of pairs inside of
// another's value.
func maskPairs(s string) string {
	if strings.Contains(s, ":") {
		s = replacePairs(colonPair, s, func(m []string) string {
			name := strings.Trim(m[1], "\"': \t")
			switch q := m[2][0]; {
			case !secretName(name):
				return m[1] + maskPairs(m[2])
			case shownThough(m[2]):
				return m[0]
			case q == '"' || q == '\'':
				return m[1] + string(q) + masked + string(q)
			}
			return m[1] + masked
		})
	}
	if strings.Contains(s, "=") {
		s = replacePairs(equalsPair, s, func(m []string) string {
			switch {
			case !secretName(m[1]):
				return m[1] + "=" + maskPairs(m[2])
			case shownThough(m[2]) || strings.HasPrefix(m[2], "="):
				return m[0]
			}
			return m[1] + "=" + masked
		})
	}
	return s
}

func replacePairs(pattern *regexp.Regexp, s string, replace func(m []string) string) string {
	return pattern.ReplaceAllStringFunc(s, func(m string) string { return replace(pattern.FindStringSubmatch(m)) })
}

// shownThough tells whether a value may be shown although its name looks like
// a secret's: it is masked already, or holds nothing but names.
func shownThough(value string) bool {
	value = strings.Trim(value, "\"' \t")
	return strings.Contains(value, masked) || namesOnly(value)
}

// maskDefaults hides the defaults of the variables whose name hide chooses.
func maskDefaults(s string, hide func(name string) bool) string {
	return replacePairs(variableDefault, s, func(m []string) string {
		if !hide(m[1]) || m[2] == masked {
			return m[0]
		}
		return "${" + m[1] + ":-" + masked + "}"
	})
}

// maskUserinfo hides user and password of URLs, unless they are variables.
func maskUserinfo(s string) string {
	return replacePairs(urlUser, s, func(m []string) string {
		info := strings.TrimSuffix(strings.TrimPrefix(m[0], "://"), "@")
		if strings.Trim(withoutVariables(info), ":") == "" {
			return m[0]
		}
		return "://" + masked + "@"
	})
}

var variable = regexp.MustCompile(`\$\{(?:[A-Za-z_][A-Za-z0-9_]*|file:/[^}]*?|cred:[A-Za-z0-9_.@-]+)(?::-(?:` + masked + `)?)?\}`)

// withoutVariables is what a text says by itself.
func withoutVariables(s string) string {
	if strings.Contains(s, "$${") { // a literal ${
		return s
	}
	return variable.ReplaceAllString(s, "")
}

// schemes are the words before a credential that are none.
var schemes = []string{"bearer", "basic", "digest", "token", "apikey", "api-key", "key"}

// namesOnly tells whether a text holds nothing but references to variables
// and the word that says how a credential is used: Bearer ${TOKEN}.
func namesOnly(s string) bool {
	rest := strings.TrimSpace(withoutVariables(s))
	if rest == "" {
		return true
	}
	if rest == strings.TrimSpace(s) {
		return false // no variable in it
	}
	for _, w := range schemes {
		if strings.EqualFold(rest, w) {
			return true
		}
	}
	return false
}
