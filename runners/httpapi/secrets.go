package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

const (
	mask = "***"
	// shortestSecret is the least length that is masked. A shorter value
	// hides nothing, and masking it would garble every answer.
	shortestSecret = 4
)

// secrets are the spellings of an attempt's secrets that must be shown to no
// one, longest first.
type secrets []string

// add takes a secret and the forms in which a service may echo it.
func (s *secrets) add(value string) {
	if len(value) < shortestSecret {
		return
	}
	forms := []string{value, url.QueryEscape(value), url.PathEscape(value), base64.StdEncoding.EncodeToString([]byte(value))}
	if quoted, err := json.Marshal(value); err == nil {
		forms = append(forms, string(quoted[1:len(quoted)-1]))
	}
	for _, form := range forms {
		if !slices.Contains(*s, form) {
			*s = append(*s, form)
		}
	}
	slices.SortStableFunc(*s, func(a, b string) int { return len(b) - len(a) })
}

func (s secrets) mask(text string) string {
	for _, secret := range s {
		if strings.Contains(text, secret) {
			text = strings.ReplaceAll(text, secret, mask)
		}
	}
	return text
}

func (s secrets) in(b []byte) bool {
	for _, secret := range s {
		if bytes.Contains(b, []byte(secret)) {
			return true
		}
	}
	return false
}

// longest is the length of the longest spelling; 0 without secrets.
func (s secrets) longest() int {
	if len(s) == 0 {
		return 0
	}
	return len(s[0])
}

// hideHeader adds the value of a service's own header where its name says
// that it is a credential; the registry may have filled it from a variable.
func (s *secrets) hideHeader(name, value string) {
	name = strings.ToLower(name)
	for _, word := range []string{"auth", "key", "token", "secret", "password", "cookie", "credential", "signature"} {
		if strings.Contains(name, word) {
			s.add(value)
			if _, credential, ok := strings.Cut(value, " "); ok {
				s.add(credential)
			}
			return
		}
	}
}
