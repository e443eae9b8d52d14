package registry

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// exampleEnv has what the examples name.
func exampleEnv(name string) (string, bool) {
	switch name {
	case "SPECQL_DEMO_URL":
		return "http://127.0.0.1:8080", true
	case "SPECQL_DEMO_LAMBDA":
		return "http://127.0.0.1:9001", true
	case "SPECQL_DEMO_SCRIPTS":
		return "/srv/scripts", true
	case "CREDENTIALS_DIRECTORY":
		return "/run/credentials/specql-agent.service", true
	case "SPECQL_DEMO_IMAGE":
		return "specql-demo/predictor:1", true
	case "REPORTS_DIR", "STRIPE_URL", "ALERT_WEBHOOK":
		return "", false
	}
	return "set", true
}

func TestEveryExampleIsValidInEachOfItsEnvironments(t *testing.T) {
	files, err := filepath.Glob("../examples/registry/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		if !strings.HasPrefix(string(data), "# yaml-language-server: $schema=../../docs/registry.schema.json\n") {
			t.Errorf("%s: an editor does not learn of its schema", file)
		}
		for _, env := range []string{"", "development", "production"} {
			c, diags := Parse(file, data, Options{Env: env, LookupEnv: exampleEnv, ReadSecret: func(string) ([]byte, error) { return []byte("s3cret"), nil }})
			for _, d := range diags {
				// The guide's own legacy service is told what it lacks.
				if d.Code == CodeUnknownEnv || strings.HasSuffix(file, "guide.yaml") && d.Code == CodeUnreachable {
					continue
				}
				t.Errorf("%s (%s): %s", file, env, d)
			}
			if c != nil && len(c.Services) == 0 {
				t.Errorf("%s (%s) has no services", file, env)
			}
		}
		found, _ := FindPatterns(file, data)
		for _, f := range found {
			// bash and missing limits are the guide's and the demo's own.
			if f.Code != PatternRiskyCommand && !(strings.HasSuffix(file, "guide.yaml") && f.Code == PatternMissingLimits) {
				t.Errorf("%s:%d: %s: %s", file, f.Line, f.Code, f.Message)
			}
		}
	}
}

func TestTheExampleWithEverythingHasEveryField(t *testing.T) {
	data, err := os.ReadFile("../examples/registry/everything.yaml")
	must(t, err)
	root := treeOf(t, string(data))
	seen := map[string]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		for _, k := range n.kids {
			seen[k.key] = true
			visit(k.node)
		}
	}
	visit(root)
	for typ := range structNames {
		for _, name := range fieldsOf(typ).names {
			if !seen[name] {
				t.Errorf("examples/registry/everything.yaml does not show %s of %s", name, structNames[typ])
			}
		}
	}
	if len(structNames) < 10 || !seen["input_schema"] || structNames[reflect.TypeFor[Service]()] == "" {
		t.Error("this test sees nothing")
	}
}
