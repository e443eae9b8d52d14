package registry

import (
	"net/url"
	"slices"
	"strings"
)

var authTypes = []string{"bearer", "basic", "api_key", "oauth2", "aws_sigv4", "none"}

// authFields says which fields of auth_config an auth_type needs and takes.
var authFields = map[string]struct{ needs, takes []string }{
	"bearer":  {[]string{"token_env_var"}, []string{"token_env_var"}},
	"basic":   {[]string{"username_env_var", "password_env_var"}, []string{"username_env_var", "password_env_var"}},
	"api_key": {[]string{"api_key_env_var"}, []string{"api_key_env_var", "header_name", "query_name"}},
	"oauth2": {[]string{"token_url", "client_id_env_var", "client_secret_env_var"},
		[]string{"token_url", "client_id_env_var", "client_secret_env_var", "scopes", "audience"}},
	"aws_sigv4": {[]string{"aws_region", "aws_service"},
		[]string{"aws_region", "aws_service", "access_key_id_env_var", "secret_access_key_env_var", "session_token_env_var"}},
	"none": {},
	"":     {},
}

// neededHelp says how a needed field that names no variable is written.
var neededHelp = map[string]string{
	"token_url":   "add token_url: https://…, where the token is asked for",
	"aws_region":  "add aws_region, such as eu-central-1",
	"aws_service": "add aws_service: the name that requests are signed for, such as execute-api or s3",
}

func (c *checker) auth() {
	kind := c.s.RunnerConfig.AuthType
	c.words(c.n.path("runner_config", "auth_type"), "auth_type", authTypes...)
	rule, known := authFields[kind]
	if !known {
		return
	}
	config := c.n.path("runner_config", "auth_config")
	if config != nil && config.kind > nullKind && config.kind != mapKind {
		return
	}
	for _, name := range rule.needs {
		if v := config.get(name); !given(v) || v.text == "" {
			help := neededHelp[name]
			if help == "" {
				help = "add " + name + " with the name of the variable that holds it"
			}
			c.fault(CodeMissing, c.at("runner_config", "auth_config"), help, "auth_type %s needs auth_config.%s", kind, name)
		}
	}
	if config == nil {
		return
	}
	for _, k := range config.kids {
		if fieldsOf(authConfigType).find(k.key) == nil || !given(k.node) {
			continue
		}
		if !slices.Contains(rule.takes, k.key) {
			help := "remove it, or change auth_type"
			label := kind
			if kind == "" {
				label, help = "none (it is not given)", "add auth_type: "+authTypeFor(k.key)
			}
			c.fault(CodeConflict, &node{line: k.line, col: k.col}, help, "auth_config.%s means nothing with auth_type %s", k.key, label)
		}
		c.authField(k.key, k.node)
	}
	if h, q := config.get("header_name"), config.get("query_name"); given(h) && given(q) {
		c.fault(CodeConflict, q, "keep one of them", "an API key goes into a header or into the query, not into both")
	}
}

// authField checks the value of one field of auth_config.
func (c *checker) authField(name string, n *node) {
	switch {
	case strings.HasSuffix(name, "_env_var"):
		c.envVar(n, "auth_config."+name)
	case n.kind != stringKind:
	case name == "header_name" && !headerName.MatchString(n.value()):
		c.fault(CodeEnum, n, "write a name such as X-API-Key", "header_name is not the name of an HTTP header")
	case name == "token_url":
		if u, ok := c.url(n, name, c.s.RunnerConfig.AuthConfig.TokenURL); ok {
			c.host(n, name, u)
			if u.Fragment != "" {
				c.fault(CodeEnum, n, "remove what stands behind #", "token_url has a fragment, which is never sent")
			}
		}
	}
}

func authTypeFor(field string) string {
	for _, kind := range authTypes {
		if slices.Contains(authFields[kind].takes, field) {
			return kind
		}
	}
	return "none"
}

// tls checks that files are named by their whole paths and the client's
// certificate comes with its key.
func (c *checker) tls() {
	n, files := c.n.path("runner_config", "tls"), c.s.RunnerConfig.TLS
	c.absolute(n.get("ca_file"), "tls.ca_file", files.CAFile)
	c.absolute(n.get("cert_file"), "tls.cert_file", files.CertFile)
	c.absolute(n.get("key_file"), "tls.key_file", files.KeyFile)
	if (files.CertFile == "") != (files.KeyFile == "") {
		missing := "key_file"
		if files.CertFile == "" {
			missing = "cert_file"
		}
		c.fault(CodeMissing, n, "add "+missing, "a client certificate needs both tls.cert_file and tls.key_file")
	}
	if u, err := url.Parse(c.s.RunnerConfig.BaseURL); err == nil && u.Scheme == "http" && files != (TLSConfig{}) {
		c.warn(CodeIgnored, n, "write base_url with https://", "tls means nothing for a base_url with http://")
	}
}

func (c *checker) proxy() {
	n := c.n.path("runner_config", "proxy")
	if !given(n) || n.kind != stringKind {
		return
	}
	u, ok := c.url(n, "proxy", c.s.RunnerConfig.Proxy)
	if ok {
		c.host(n, "proxy", u)
	}
	if ok && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "") {
		c.fault(CodeEnum, n, "write it as http://host:port", "a proxy is a host and a port, without a path")
	}
}
