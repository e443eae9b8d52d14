package registry

import (
	"strings"
	"testing"
)

// TestAnHTTPServicesCredentialsAndConnectionsAreChecked gives each faulty
// runner_config, and what its fault says; empty: it has none.
func TestAnHTTPServicesCredentialsAndConnectionsAreChecked(t *testing.T) {
	lookup := func(name string) (string, bool) { return "set", strings.HasPrefix(name, "SET") }
	for _, c := range []struct{ config, operation, says string }{
		{`auth_type: oauth2, auth_config: { token_url: "https://id.example.com/token", client_id_env_var: SET_ID, client_secret_env_var: SET_SECRET, scopes: [pay], audience: x }`, ``, ``},
		{`auth_type: oauth2, auth_config: { client_id_env_var: SET_ID, client_secret_env_var: SET_SECRET }`, ``, "auth_type oauth2 needs auth_config.token_url"},
		{`auth_type: oauth2, auth_config: { token_url: "ftp://id.example.com", client_id_env_var: SET_ID, client_secret_env_var: SET_SECRET }`, ``, "token_url is not an absolute http or https URL"},
		{`auth_type: oauth2, auth_config: { token_url: "https://id.example.com/#t", client_id_env_var: SET_ID, client_secret_env_var: SET_SECRET }`, ``, "token_url has a fragment"},
		{`auth_type: oauth2, auth_config: { token_url: "https://id.example.com/", client_id_env_var: SET_ID, client_secret_env_var: "s3cr3t-v4lue!" }`, ``, "client_secret_env_var takes the name of an environment variable"},
		{`auth_type: oauth2, auth_config: { token_url: "https://id.example.com/", client_id_env_var: SET_ID, client_secret_env_var: SET_SECRET, header_name: X }`, ``, "auth_config.header_name means nothing with auth_type oauth2"},
		{`auth_type: aws_sigv4, auth_config: { aws_region: eu-central-1, aws_service: execute-api }`, ``, ``},
		{`auth_type: aws_sigv4, auth_config: { aws_region: eu-central-1 }`, ``, "auth_type aws_sigv4 needs auth_config.aws_service"},
		{`auth_type: api_key, auth_config: { api_key_env_var: SET_KEY, query_name: key }`, ``, ``},
		{`auth_type: api_key, auth_config: { api_key_env_var: SET_KEY, query_name: key, header_name: X-Key }`, ``, "into a header or into the query"},
		{`auth_config: { query_name: key }`, ``, "auth_config.query_name means nothing with auth_type none"},
		{`tls: { ca_file: /etc/ca.pem, cert_file: /etc/client.pem, key_file: /etc/client.key }`, ``, ``},
		{`tls: { cert_file: /etc/client.pem }`, ``, "needs both tls.cert_file and tls.key_file"},
		{`tls: { ca_file: ca.pem }`, ``, `tls.ca_file "ca.pem" is not an absolute path`},
		{`tls: { ca: /etc/ca.pem }`, ``, `"ca"`},
		{`proxy: "http://proxy.internal:3128"`, ``, ``},
		{`proxy: "socks5://proxy.internal:1080"`, ``, "proxy is not an absolute http or https URL"},
		{`proxy: "http://me:secret@proxy.internal:3128"`, ``, "proxy holds a user name or password"},
		{`proxy: "http://proxy.internal:3128/path"`, ``, "a proxy is a host and a port"},
		{``, `, body: form`, ``},
		{``, `, body: xml`, `body "xml" is not json or form`},
		{``, `, method: GET, body: form`, "a GET request has no body"},
	} {
		text := "services:\n  - { name: s, type: t, category: c, runner_config: { base_url: \"https://api.example.com\", " + c.config +
			" }, operations: [{ name: run" + c.operation + " }] }\n"
		_, diags := Parse("r.yaml", []byte(text), Options{LookupEnv: lookup})
		var all strings.Builder
		for _, d := range diags {
			all.WriteString(d.Message + "\n")
		}
		if c.says == "" && len(diags) > 0 || !strings.Contains(all.String(), c.says) {
			t.Errorf("%s%s\nsays %swant %q", c.config, c.operation, all.String(), c.says)
		}
		if strings.Contains(all.String(), "s3cr3t") {
			t.Errorf("a secret is shown: %s", all.String())
		}
	}
}

func TestWhereATokenIsAskedForIsNoSecret(t *testing.T) {
	text := `services:
  - name: s
    type: t
    category: c
    runner_config:
      base_url: https://api.example.com
      auth_type: oauth2
      auth_config: { token_url: "https://id.example.com/token", client_id_env_var: ID, client_secret_env_var: SECRET }
      tls: { cert_file: /etc/c.pem, key_file: /etc/c.key }
    operations: [{ name: run }]
`
	config, diags := Parse("r.yaml", []byte(text), Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	if got := config.Redacted(); got != text {
		t.Errorf("redacted:\n%s", got)
	}
}
