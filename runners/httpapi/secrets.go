package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
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

// spell is a secret in the forms in which a service may echo it.
func spell(value string) secrets {
	if len(value) < shortestSecret {
		return nil
	}
	var forms secrets
	forms.merge(secrets{value, url.QueryEscape(value), url.PathEscape(value), (&url.URL{Path: value}).EscapedPath(),
		base64.StdEncoding.EncodeToString([]byte(value))})
	if quoted, err := json.Marshal(value); err == nil {
		forms.merge(secrets{string(quoted[1 : len(quoted)-1])})
	}
	return forms
}

// merge adds spellings.
func (s *secrets) merge(forms secrets) {
	merged := slices.Clone(*s) // it may be shared
	for _, form := range forms {
		if !slices.Contains(merged, form) {
			merged = append(merged, form)
		}
	}
	slices.SortStableFunc(merged, func(a, b string) int { return len(b) - len(a) })
	*s = merged
}

// spellings keeps how secrets are spelled: a service's are the same in each of
// its requests.
type spellings struct {
	mu      sync.Mutex
	byValue map[string]secrets
}

// maxSpelled is how many secrets' spellings are kept; beyond it they are worked
// out anew.
const maxSpelled = 1024

func (sp *spellings) of(value string) secrets {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	forms, ok := sp.byValue[value]
	if !ok {
		if sp.byValue == nil || len(sp.byValue) >= maxSpelled {
			sp.byValue = make(map[string]secrets)
		}
		forms = spell(value)
		sp.byValue[value] = forms
	}
	return forms
}

// hideValues hides what variables and files gave to the service's URLs and headers.
func (a *attempt) hideValues() {
	for _, h := range a.call.Service.Hidden {
		if h.InURLs {
			a.paths.merge(a.runner.spellings.of(h.Text))
		} else {
			a.hide(h.Text)
		}
	}
}

// hide adds a secret of the registry's to what is masked. The spellings are
// shared between attempts.
func (a *attempt) hide(value string) {
	forms := a.runner.spellings.of(value)
	if len(a.secrets) == 0 {
		a.secrets = forms
		return
	}
	a.secrets.merge(forms)
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

// hideHeader adds the value of a header where its name says that it is a
// credential, though it is written out or the row's.
func (a *attempt) hideHeader(name, value string) {
	if !isCredential(name) {
		return
	}
	a.hide(value)
	if _, credential, ok := strings.Cut(value, " "); ok {
		a.hide(credential)
	}
}

// isCredential tells whether a header's name says that it holds a credential.
func isCredential(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"auth", "key", "token", "secret", "password", "cookie", "credential", "signature"},
		func(word string) bool { return strings.Contains(name, word) })
}
