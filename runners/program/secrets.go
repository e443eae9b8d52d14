package program

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

const (
	mask = "***"
	// shortestSecret is the least length that is masked. A shorter value
	// hides nothing, and masking it would garble every answer.
	shortestSecret = 4
	// shortestLine is the least length of one line of a longer value that is
	// masked by itself.
	shortestLine = 8
)

// Secrets are the spellings of values that a job was given and may repeat,
// but that no row, error or log may show. Longest first.
type Secrets []string

// SecretsOf takes the variables whose names say that they are credentials.
func SecretsOf(environment map[string]string) Secrets {
	var s Secrets
	for name, value := range environment {
		if !namesSecret(name) || len(value) < shortestSecret {
			continue
		}
		s = append(s, value, base64.StdEncoding.EncodeToString([]byte(value)))
		if quoted, err := json.Marshal(value); err == nil {
			s = append(s, string(quoted[1:len(quoted)-1]))
		}
		// A log has it line by line.
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= shortestLine && line != value {
				s = append(s, line)
			}
		}
	}
	slices.SortFunc(s, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(s)
}

// namesSecret tells whether a variable of this name probably holds a secret.
func namesSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"secret", "token", "password", "passwd", "passphrase", "apikey", "api_key",
		"access_key", "private_key", "credential", "authorization", "dsn", "database_url"},
		func(word string) bool { return strings.Contains(name, word) }) ||
		strings.HasSuffix(name, "_key") || name == "key"
}

// Mask replaces every secret in a text.
func (s Secrets) Mask(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, mask)
	}
	return text
}

// longest is the length of the longest spelling; 0 without secrets.
func (s Secrets) longest() int {
	if len(s) == 0 {
		return 0
	}
	return len(s[0])
}
