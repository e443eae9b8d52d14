package registry

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestARenderedRegistryReadsAsTheSameOne(t *testing.T) {
	files, _ := filepath.Glob("../examples/registry/*.yaml")
	files = append(files, "testdata/valid/all_types.yaml")
	if len(files) < 2 {
		t.Fatal("no files")
	}
	env := envOf("SPECQL_DEMO_URL", "http://127.0.0.1:1", "SPECQL_DEMO_SCRIPTS", "/srv", "DB_PASSWORD", "")
	for _, file := range files {
		for _, environment := range []string{"", "production"} {
			data, err := os.ReadFile(file)
			must(t, err)
			c, diags := Parse(file, data, Options{Env: environment, LookupEnv: env})
			if c == nil {
				t.Fatalf("%s: %v", file, diags)
			}
			var b strings.Builder
			must(t, c.WriteYAML(&b))
			again, diags := Parse("rendered", []byte(b.String()), Options{LookupEnv: noEnv})
			if again == nil {
				t.Fatalf("%s: %v in\n%s", file, diags, b.String())
			}
			if changes := Diff(c, again); !changes.Empty() || !reflect.DeepEqual(c.Alerts, again.Alerts) {
				t.Errorf("%s (%s): %s in\n%s", file, environment, changes, b.String())
			}
		}
	}
}

func TestARenderedRegistryHoldsNoSecret(t *testing.T) {
	c, _ := mustParse(t, service("  runner_config:\n    base_url: https://h\n    headers: { Authorization: 'Bearer ${API_TOKEN}', X-Url: 'q=${API_TOKEN}' }\n"),
		Options{LookupEnv: envOf("API_TOKEN", "alpha-one")})
	var b strings.Builder
	must(t, c.WriteYAML(&b))
	if strings.Contains(b.String(), "alpha") || strings.Count(b.String(), masked) != 2 {
		t.Errorf("masked wrongly:\n%s", b.String())
	}
}

func TestReadinessSaysWhatAServiceStillLacks(t *testing.T) {
	list, ok := ReadinessOf("f", []byte(`services:
- name: legacy
  type: t
  category: c
  operations: [{ name: run }]
- name: done
  type: t
  category: c
  execution_type: http
  runner_config: { base_url: "https://h", auth_type: none, timeout: 5 }
  security_policy: { allowed_domains: [h], max_request_size: 10, rate_limit_per_minute: 5 }
  operations: [{ name: run, input_schema: { a: string }, output_schema: { b: string } }]
- name: script
  type: t
  category: c
  execution_type: shell
  security_policy: { allowed_commands: [/bin/cat] }
  operations: [{ name: run, input_schema: { a: string }, output_schema: { b: string } }]
`), "")
	if !ok || len(list) != 3 {
		t.Fatal(list)
	}
	if l := list[0]; l.Ready || l.Explicit != "no" || l.BaseURL != "no" || l.Schemas != "no" || len(l.Missing) != 6 {
		t.Errorf("%+v", l)
	}
	if !list[1].Ready {
		t.Errorf("%+v", list[1])
	}
	if l := list[2]; l.Ready || l.Limits != "no" || l.BaseURL != "-" || l.Policy != "yes" {
		t.Errorf("%+v", l)
	}
}
