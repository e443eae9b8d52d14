package registry

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schemaFile = "../docs/registry.schema.json"

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSONSchema()))
	must(t, err)
	compiler := jsonschema.NewCompiler()
	must(t, compiler.AddResource("registry", decoded))
	schema, err := compiler.Compile("registry")
	must(t, err)
	return schema
}

// plainValue is what an editor sees of a file: variables as they stand.
func plainValue(t *testing.T, text []byte) any {
	t.Helper()
	root, fault := parseTree(text, &report{})
	if fault != nil || root == nil {
		t.Fatal(fault)
	}
	d := &decoder{rep: &report{}, verbatim: true, expand: true}
	return d.anything(root)
}

func TestThePublishedSchemaIsTheCodes(t *testing.T) {
	golden(t, schemaFile, string(JSONSchema()))
}

func TestEveryExampleFitsTheSchema(t *testing.T) {
	schema := compiledSchema(t)
	files, _ := filepath.Glob("../examples/registry/*.yaml")
	files = append(files, "testdata/valid/all_types.yaml")
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		text := strings.ReplaceAll(string(data), "execution_type: SHELL", "execution_type: shell") // a warning of ours, an error of an editor's
		if err := schema.Validate(plainValue(t, []byte(text))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestTheSchemaRefusesWhatAnEditorCanKnow(t *testing.T) {
	schema := compiledSchema(t)
	for _, lines := range []string{
		"  base_url: https://h\n", "  runner_config: { time_out: 3 }\n", "  runner_config: { timeout: 30s }\n", "  concurrency: -1\n",
		"  execution_type: shel\n", "  validation: maybe\n", "  runner_config: { volumes: [/a:/b] }\n", "  security_policy: { allowed_commands: /bin/cat }\n",
	} {
		if schema.Validate(plainValue(t, []byte(service(lines)))) == nil {
			t.Errorf("the schema takes %s", lines)
		}
	}
	if err := schema.Validate(plainValue(t, []byte(service("  runner_config: { base_url: 'https://h', timeout: '${T:-3}' }\n")))); err != nil {
		t.Error(err)
	}
	for _, whole := range []string{"production: { servics: [] }\n", "services: { a: {} }\n", "services: [{ name: a }]\n"} {
		if schema.Validate(plainValue(t, []byte(whole))) == nil {
			t.Errorf("the schema takes %s", whole)
		}
	}
}

// Each word of the schema is taken by the checks, and no other one is.
func TestTheSchemasWordsAreThoseOfTheChecks(t *testing.T) {
	where := map[string]string{
		"execution_type": "  execution_type: %s\n", "validation": "  validation: %q\n",
		"method":             "  operations: [{ name: a, method: %s }]\n",
		"command_from_input": "  execution_type: shell\n  runner_config: { command_from_input: %s }\n",
		"network_access":     "  execution_type: shell\n  security_policy: { network_access: %s }\n",
		"file_access":        "  execution_type: shell\n  security_policy: { file_access: %s }\n",
		"isolation":          "  execution_type: shell\n  security_policy: { isolation: %s }\n",
		"mode":               "  execution_type: docker\n  runner_config: { volumes: [{ host_path: /a, container_path: /b, mode: %s }] }\n",
		"invocation_type":    "  execution_type: serverless\n  runner_config: { invocation_type: %s }\n",
		"severity":           "alerts: [{ name: a, condition: x > 1, severity: %s }]\n",
	}
	for name, words := range fieldWords {
		if where[name] == "" {
			t.Errorf("this test does not know where %s stands", name)
			continue
		}
		for _, word := range append(slices.Clone(words), "nonsense") {
			text := fmt.Sprintf(where[name], word)
			switch {
			case name == "severity":
			case name == "method":
				text = "services:\n- name: a\n  type: t\n  category: c\n" + text
			default:
				text = service(text)
			}
			_, diags := Parse("f", []byte(text), Options{LookupEnv: noEnv})
			refused := slices.ContainsFunc(diags, func(d Diagnostic) bool {
				return d.Code == CodeEnum && d.Severity == Error && (strings.Contains(d.Message, name) && strings.Contains(d.Message, " is not ") || strings.Contains(d.Message, "does not exist"))
			})
			if refused != (word == "nonsense") {
				t.Errorf("%s: %s is refused: %v, in %v", name, word, refused, diags)
			}
		}
	}
}
