package registry

import (
	"errors"
	"slices"
	"testing"
)

func TestWhatVariablesGiveToURLsAndHeadersIsHidden(t *testing.T) {
	variables := map[string]string{"HOOK": "T00/B00/x1y2z3", "API_TOKEN": "s3cr", "BASE": "https://api.example.com/tenant-7/v1/",
		"WEBHOOK_TOKEN": "https://hooks.example.com/services/abcdefgh", "HOST": "api.example.com", "REGION": "eu-1", "VERSION": "2026-01-01"}
	lookup := func(name string) (string, bool) { v, ok := variables[name]; return v, ok }
	read := func(path string) ([]byte, error) {
		if path == "/run/secrets/key" {
			return []byte("k-1\n"), nil
		}
		return nil, errors.New("no such file")
	}
	for _, c := range []struct {
		name, config, path string
		want               []Hidden
	}{
		{"nothing", `base_url: "https://api.example.com/v1", headers: { X-Mode: live-mode }`, "/charges", nil},
		{"a part of the path", `base_url: "https://hooks.example.com/services/${HOOK}"`, "", []Hidden{{"T00/B00/x1y2z3", true}}},
		{"a host", `base_url: "https://${HOST}/v1"`, "", nil},
		{"a whole URL", `base_url: "${BASE}"`, "", []Hidden{{"tenant-7/v1", true}}},
		{"a whole URL that is a secret", `base_url: "${WEBHOOK_TOKEN}"`, "", []Hidden{{"services/abcdefgh", false}}},
		{"a URL without a path", `base_url: "https://${HOST}"`, "", nil},
		{"a default", `base_url: "https://api.example.com/${UNSET:-tenant-7-of-many}"`, "", nil},
		{"an operation's path and query", `base_url: "https://api.example.com"`, "/c/${HOOK}?v=${VERSION}&k=${file:/run/secrets/key}",
			[]Hidden{{"T00/B00/x1y2z3", true}, {"2026-01-01", true}, {"k-1", false}}},
		{"headers", `base_url: "https://api.example.com", headers: { X-Mode: "mode ${VERSION}", X-Short: "${REGION}", X-Other: "Key ${API_TOKEN}" }`, "",
			[]Hidden{{"s3cr", false}}},
		{"a token's URL", `base_url: "https://api.example.com", auth_type: oauth2, auth_config: { token_url: "https://id.example.com/${HOOK}/token", client_id_env_var: A, client_secret_env_var: B }`, "",
			[]Hidden{{"T00/B00/x1y2z3", true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := ""
			if c.path != "" {
				path = `path: "` + c.path + `", `
			}
			config, diags := Parse("test.yaml", []byte(`
services:
  - name: api
    type: t
    category: c
    runner_config: { `+c.config+` }
    operations: [{ name: run, `+path+`input_schema: {}, output_schema: {} }]
`), Options{LookupEnv: lookup, ReadSecret: read})
			if config == nil {
				t.Fatal(diags.Err())
			}
			if got := config.Services[0].Hidden; !slices.Equal(got, c.want) {
				t.Errorf("hidden %+v, want %+v", got, c.want)
			}
		})
	}
}
