package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
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

// authorize puts the service's credentials on a request, and their secrets
// into hidden. It returns the name of the header that carries them; empty
// without auth_type. Secrets are looked up now; an unset variable is a
// *runners.ConfigError that names it.
func (r *Runner) authorize(s *registry.Service, h http.Header, hidden *secrets) (header string, err error) {
	auth := s.RunnerConfig.AuthConfig
	switch strings.ToLower(s.RunnerConfig.AuthType) {
	case "", "none":
		return "", nil
	case "bearer":
		token, err := r.secret(s, "token_env_var", auth.TokenEnvVar)
		if err != nil {
			return "", err
		}
		hidden.add(token)
		h.Set("Authorization", "Bearer "+token)
		return "Authorization", nil
	case "basic":
		user, err := r.secret(s, "username_env_var", auth.UsernameEnvVar)
		if err != nil {
			return "", err
		}
		password := ""
		if auth.PasswordEnvVar != "" {
			if password, err = r.secret(s, "password_env_var", auth.PasswordEnvVar); err != nil {
				return "", err
			}
		}
		if strings.Contains(user, ":") {
			return "", &runners.ConfigError{Service: s.Name, Problem: "the environment variable " +
				auth.UsernameEnvVar + " (auth_config.username_env_var) holds a colon, which basic authentication cannot carry"}
		}
		hidden.add(password)
		if password == "" {
			// Some APIs take their key as the user name.
			hidden.add(user)
		}
		pair := user + ":" + password
		hidden.add(pair)
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
		return "Authorization", nil
	case "api_key":
		key, err := r.secret(s, "api_key_env_var", auth.APIKeyEnvVar)
		if err != nil {
			return "", err
		}
		header = apiKeyHeader(auth.HeaderName)
		if !isToken(header) {
			return "", &runners.ConfigError{Service: s.Name, Problem: "auth_config.header_name is not a header's name"}
		}
		hidden.add(key)
		h.Set(header, key)
		return header, nil
	default:
		return "", &runners.ConfigError{Service: s.Name, Problem: "auth_type " + s.RunnerConfig.AuthType +
			" is not known: use bearer, basic, api_key or none"}
	}
}

// apiKeyHeader is auth_config.header_name in its canonical form, or its
// default.
func apiKeyHeader(name string) string {
	if name == "" {
		return "X-Api-Key"
	}
	return http.CanonicalHeaderKey(name)
}

// secret reads the variable that a field of auth_config names. A line break
// at its end, which files mounted as secrets often have, is not part of it.
func (r *Runner) secret(s *registry.Service, field, variable string) (string, error) {
	if variable == "" {
		return "", &runners.ConfigError{Service: s.Name, Problem: "auth_type " + s.RunnerConfig.AuthType +
			" needs auth_config." + field}
	}
	value, _ := r.opts.LookupEnv(variable)
	value = strings.TrimRight(value, "\r\n")
	if value == "" {
		return "", &runners.ConfigError{Service: s.Name, Problem: "the environment variable " + variable +
			" (auth_config." + field + ") is not set: set it where the agent runs"}
	}
	if !isHeaderValue(value) {
		return "", &runners.ConfigError{Service: s.Name, Problem: "the environment variable " + variable +
			" (auth_config." + field + ") holds a line break or another control character, which a header cannot carry"}
	}
	return value, nil
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
