package httpapi

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/specql/specql-ops/runners"
)

// authorize puts the service's credentials on the request, and their secrets
// among what is masked. Secrets are looked up now; an unset variable is a
// *runners.ConfigError that names it. What needs an answer or the time (oauth2,
// aws_sigv4) is prepared here and put on each try.
func (a *attempt) authorize() error {
	auth := &a.call.Service.RunnerConfig.AuthConfig
	switch strings.ToLower(a.call.Service.RunnerConfig.AuthType) {
	case "", "none":
		return nil
	case "bearer":
		token, err := a.secret("token_env_var", auth.TokenEnvVar)
		if err != nil {
			return err
		}
		a.hide(token)
		a.setPrivate("Authorization", "Bearer "+token)
		return nil
	case "basic":
		return a.authorizeBasic()
	case "api_key":
		return a.authorizeKey()
	case "oauth2":
		return a.prepareOAuth2()
	case "aws_sigv4":
		return a.prepareSigV4()
	default:
		return a.config("auth_type " + a.call.Service.RunnerConfig.AuthType +
			" is not known: use bearer, basic, api_key, oauth2, aws_sigv4 or none")
	}
}

// setPrivate sets a header that stays with the first host.
func (a *attempt) setPrivate(name, value string) {
	a.header.Set(name, value)
	a.private = append(a.private, name)
}

func (a *attempt) authorizeBasic() error {
	auth := &a.call.Service.RunnerConfig.AuthConfig
	user, err := a.secret("username_env_var", auth.UsernameEnvVar)
	if err != nil {
		return err
	}
	password := ""
	if auth.PasswordEnvVar != "" {
		if password, err = a.secret("password_env_var", auth.PasswordEnvVar); err != nil {
			return err
		}
	}
	if strings.Contains(user, ":") {
		return a.config("the environment variable " + auth.UsernameEnvVar +
			" (auth_config.username_env_var) holds a colon, which basic authentication cannot carry")
	}
	a.hide(password)
	if password == "" {
		// Some APIs take their key as the user name.
		a.hide(user)
	}
	pair := user + ":" + password
	a.hide(pair)
	a.setPrivate("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	return nil
}

// authorizeKey puts an API key into its header, or into the query, where it
// takes the place of what a row or a path gave under that name.
func (a *attempt) authorizeKey() error {
	auth := &a.call.Service.RunnerConfig.AuthConfig
	key, err := a.secret("api_key_env_var", auth.APIKeyEnvVar)
	if err != nil {
		return err
	}
	a.hide(key)
	if auth.QueryName == "" {
		header := apiKeyHeader(auth.HeaderName)
		if !isToken(header) {
			return a.config("auth_config.header_name is not a header's name")
		}
		a.setPrivate(header, key)
		return nil
	}
	var kept []string
	for pair := range strings.SplitSeq(a.url.RawQuery, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); pair != "" && (err != nil || plain != auth.QueryName) {
			kept = append(kept, pair)
		}
	}
	a.url.RawQuery = strings.Join(append(kept, url.QueryEscape(auth.QueryName)+"="+url.QueryEscape(key)), "&")
	return nil
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
func (a *attempt) secret(field, variable string) (string, error) {
	if variable == "" {
		return "", a.config("auth_type " + a.call.Service.RunnerConfig.AuthType + " needs auth_config." + field)
	}
	value, _ := a.runner.opts.LookupEnv(variable)
	value = strings.TrimRight(value, "\r\n")
	if value == "" {
		return "", a.config(fmt.Sprintf("the environment variable %s (auth_config.%s) is not set: set it where the agent runs", variable, field))
	}
	if !isHeaderValue(value) {
		return "", a.config(fmt.Sprintf("the environment variable %s (auth_config.%s) holds a line break or another control character, which a header cannot carry", variable, field))
	}
	return value, nil
}

// refusedCredentials is the failure that credentials without a chance mean.
func refusedCredentials(err error) *failure {
	return &failure{err: &runners.FinalError{Err: err}, lasting: true, retryAfter: -1}
}
