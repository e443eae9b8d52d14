package registry

import (
	"fmt"
	"strings"
	"testing"
)

// TestAddressesThatNoJobCouldReachAreFaultsOfTheFile: the agent refuses spellings
// on which readers disagree, so a file that has one must not pass for valid.
func TestAddressesThatNoJobCouldReachAreFaultsOfTheFile(t *testing.T) {
	for _, c := range []struct{ host, help string }{
		{"127.1", "write 127.0.0.1"},
		{"10.1.258", "write 10.1.1.2"},
		{"0x7f.1", "write 127.0.0.1"},
		{"0177.0.0.1", "write 127.0.0.1"},
		{"2130706433", "write 127.0.0.1"},
		{"127.0.0.1.", "write 127.0.0.1"},
		{"[::ffff:10.0.0.1]", "write 10.0.0.1"},
		{"[fe80::1%25lo]", "write fe80::1"},
		{"0x7f.x.999999.1", "write the address in its usual form"},
	} {
		entry := strings.Replace(strings.Trim(c.host, "[]"), "%25", "%", 1)
		for field, config := range map[string]string{
			"allowed_domains": `base_url: "https://api.example.com" }` + "\n    security_policy: { allowed_domains: [api.example.com, \"" + entry + `"]`,
			"base_url":        `base_url: "http://` + c.host + `:8080/v1"`,
			"token_url": `base_url: "https://api.example.com", auth_type: oauth2, auth_config: { token_url: "https://` + c.host +
				`/token", client_id_env_var: A, client_secret_env_var: B }`,
			"proxy": `base_url: "https://api.example.com", proxy: "http://` + c.host + `:3128"`,
		} {
			config, diags := Parse("test.yaml", []byte(`services:
  - name: api
    type: t
    category: c
    runner_config: { `+config+` }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`), Options{})
			if config != nil {
				t.Errorf("%s in %s is valid", c.host, field)
				continue
			}
			for _, d := range diags {
				if d.Severity == Error && (!strings.Contains(d.Message, "unusual spelling") || !strings.Contains(d.Message, field) || !strings.HasPrefix(strings.NewReplacer("[", "", "]", "").Replace(d.Suggestion), c.help) || d.Line < 5) {
					t.Errorf("%s in %s: %d:%d: %s (%s)", c.host, field, d.Line, d.Column, d.Message, d.Suggestion)
				}
			}
		}
	}
	for _, entry := range []string{"[::1", "a..b", "api.example.com:0", "bücher.example", "*.10.0.0.1"} {
		if config, _ := Parse("test.yaml", fmt.Appendf(nil, `services:
  - name: api
    type: t
    category: c
    security_policy: { allowed_domains: [%q] }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`, entry), Options{}); config != nil {
			t.Errorf("%s in allowed_domains is valid", entry)
		}
	}
	for _, entry := range []string{"127.0.0.1", "127.0.0.1:80", "::1", "[::1]", "[::1]:8443", "localhost:8080", "*.example.com:443", "API.example.com.", "1.example"} {
		if config, diags := Parse("test.yaml", fmt.Appendf(nil, `services:
  - name: api
    type: t
    category: c
    security_policy: { allowed_domains: [%q] }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`, entry), Options{}); config == nil {
			t.Errorf("%s in allowed_domains: %v", entry, diags.Err())
		}
	}
}
