package registry

import "strings"

// Redact masks a text that holds the value of a variable with a
// secret-looking name, whole: what is left of such a text could still give
// the secret away. Every text that shows registry values goes through it.
func (c *Config) Redact(text string) string {
	if c == nil || text == "" {
		return text
	}
	for secret := range c.secrets {
		if holds(text, secret) {
			return masked
		}
	}
	return maskText(text)
}

// holds tells whether a text gives a secret away. A very short one would be
// found in everything.
func holds(text, secret string) bool {
	return text == secret || len(secret) >= 4 && strings.Contains(text, secret)
}

// shownValue is a value as a listing may show it: masked when its key looks
// like a secret's name or the value came from such a variable.
func (c *Config) shownValue(key, value string) string {
	if value != "" && secretName(key) {
		return masked
	}
	return c.Redact(value)
}
