package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A schema is written in one of two ways. The short one maps each field to a
// word (amount: integer) or to a JSON Schema of its own. The long one is a
// JSON Schema: a mapping that has $schema, $ref, or both type: object and
// properties. Fields of the short form are optional, and further fields are
// fine: HTTP-only applications were never held to their schemas.

var schemaWords = []string{"string", "integer", "number", "boolean", "object", "array"}

// isJSONSchema tells the long form from the short one.
func isJSONSchema(schema map[string]any) bool {
	if _, ok := schema["$schema"].(string); ok {
		return true
	}
	if _, ok := schema["$ref"].(string); ok {
		return true
	}
	_, properties := schema["properties"].(map[string]any)
	return properties && schema["type"] == "object"
}

// schemaFields lists the fields that a schema names, sorted.
func schemaFields(schema map[string]any) []string {
	fields := schema
	if isJSONSchema(schema) {
		fields, _ = schema["properties"].(map[string]any)
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// CompileSchema makes an operation's input_schema or output_schema ready to
// validate decoded JSON (draft 2020-12 unless $schema says otherwise). It
// returns nil for an empty schema, which everything fits. References to
// other documents are refused: nothing is fetched.
func CompileSchema(schema map[string]any) (*jsonschema.Schema, error) {
	if len(schema) == 0 {
		return nil, nil
	}
	document := schema
	if !isJSONSchema(schema) {
		properties := make(map[string]any, len(schema))
		for name, v := range schema {
			if word, ok := v.(string); ok {
				v = map[string]any{"type": word}
			}
			properties[name] = v
		}
		document = map[string]any{"type": "object", "properties": properties}
	}
	// By way of JSON, since the compiler wants its numbers.
	text, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("schema cannot be written as JSON: %w", err)
	}
	decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("schema cannot be read as JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{})
	const name = "registry:schema"
	if err := compiler.AddResource(name, decoded); err != nil {
		return nil, err
	}
	return compiler.Compile(name)
}

// schema checks a schema: words by looking at them, JSON Schemas by compiling
// them, which is what takes time.
func (c *checker) schema(n *node, name string, schema map[string]any) {
	if n == nil || n.kind != mapKind || len(schema) == 0 {
		return
	}
	if isJSONSchema(schema) {
		c.compile(n, name, schema)
		return
	}
	for i := range n.kids {
		k := &n.kids[i]
		switch k.node.kind {
		case mapKind:
			c.compile(k.node, name+"."+clip(k.key), map[string]any{k.key: schema[k.key]})
		case stringKind:
			if slices.Contains(schemaWords, k.node.value()) {
				continue
			}
			help := "use " + oneOf(schemaWords) + ", or a JSON Schema"
			if near := nearest(k.node.value(), schemaWords); near != "" {
				help = fmt.Sprintf("did you mean %q?", near)
			}
			if word := foreignTypes[strings.ToLower(k.node.value())]; word != "" {
				help = "write " + word
			}
			c.fault(CodeSchema, k.node, help, "%s.%s: there is no type %s", name, clip(k.key), shown(k.node))
		default:
			c.fault(CodeSchema, k.node, "use "+oneOf(schemaWords)+", or a JSON Schema",
				"%s.%s must be a type or a JSON Schema, not %s", name, clip(k.key), k.node.kind)
		}
	}
}

// foreignTypes are other languages' words for the types.
var foreignTypes = map[string]string{
	"int": "integer", "long": "integer", "bigint": "integer", "float": "number", "double": "number",
	"decimal": "number", "numeric": "number", "bool": "boolean", "text": "string", "str": "string",
	"varchar": "string", "uuid": "string", "date": "string", "timestamp": "string", "datetime": "string",
	"dict": "object", "map": "object", "json": "object", "jsonb": "object", "list": "array",
}

func (c *checker) compile(n *node, name string, schema map[string]any) {
	_, err := CompileSchema(schema)
	if err == nil {
		return
	}
	reason := err.Error()
	var invalid *jsonschema.SchemaValidationError
	var validation *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &validation) {
		for len(validation.Causes) > 0 {
			validation = validation.Causes[0]
		}
		reason = validation.Error()
		if i := strings.LastIndex(reason, "\n- "); i >= 0 {
			reason = reason[i+3:]
		}
	}
	help := "see json-schema.org for what a schema may hold"
	if strings.Contains(reason, "no URLLoader") || strings.Contains(reason, "loading") {
		reason, help = "it refers to another document", "put the definition under $defs of the same schema"
	}
	first, _, _ := strings.Cut(reason, "\n")
	c.fault(CodeSchema, n, help, "%s is not a valid JSON Schema: %s", name, clip(first))
}
