package registry

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"reflect"
	"strings"

	"github.com/specql/specql-ops/jobs"
)

// typesSource is where the fields' descriptions come from: their comments.
//
//go:embed types.go
var typesSource string

// fieldWords are the words that a field takes, where it takes certain ones. A
// test compares them with what the checks take.
var fieldWords = map[string][]string{
	"execution_type":     executionTypes(),
	"validation":         {ValidationOff, ValidationWarn, ValidationStrict},
	"method":             methods,
	"command_from_input": {"script", "command"},
	"invocation_type":    {"request_response", "event", "response_stream"},
	"network_access":     {"none", "localhost", "all"},
	"file_access":        {"none", "read", "read_write"},
	"isolation":          {"full", "process", "none"},
	"mode":               {"ro", "rw"},
	"severity":           severities,
}

func executionTypes() []string {
	var words []string
	for _, t := range jobs.ExecutionTypes() {
		words = append(words, string(t))
	}
	return words
}

// required are the fields that each mapping of a type needs.
var required = map[reflect.Type][]string{
	reflect.TypeFor[Service]():   {"name", "type", "category", "operations"},
	reflect.TypeFor[Operation](): {"name"},
	reflect.TypeFor[Volume]():    {"host_path", "container_path"},
	reflect.TypeFor[Alert]():     {"name", "condition"},
}

// withVariable is a string that a variable makes into something else.
var withVariable = map[string]any{"type": "string", "pattern": `\$\{`}

// JSONSchema is the JSON Schema (draft 2020-12) of registry files, made from
// this package's types, bounds and comments, for editors. It knows fields,
// types, words and bounds; what depends on several fields at once is
// Parse's alone.
func JSONSchema() []byte {
	g := schemaWriter{defs: map[string]any{}, comments: fieldComments()}
	service := g.ref(reflect.TypeFor[Service]())
	// What an environment lays over a service names it and no more.
	overlay := map[string]any{}
	for k, v := range g.defs["Service"].(map[string]any) {
		overlay[k] = v
	}
	overlay["required"] = []string{"name"}
	g.defs["ServiceOverlay"] = overlay
	orNothing := func(schema map[string]any) map[string]any {
		return map[string]any{"anyOf": []any{schema, map[string]any{"type": "null"}}}
	}
	list := func(of any) map[string]any { return orNothing(map[string]any{"type": "array", "items": of}) }
	document := map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "SpecQL service registry",
		"description": "registry/service_registry.yaml: what SpecQL jobs may call, and within which bounds.",
		"type":        "object",
		"properties": map[string]any{
			"services": list(service),
			"alerts":   list(g.ref(reflect.TypeFor[Alert]())),
		},
		"patternProperties": map[string]any{"^x-": true},
		"additionalProperties": map[string]any{
			"description":          "An environment: services that are laid over those above by name, for --env or SPECQL_ENV.",
			"type":                 "object",
			"properties":           map[string]any{"services": list(map[string]any{"$ref": "#/$defs/ServiceOverlay"})},
			"required":             []string{"services"},
			"additionalProperties": false,
		},
		"$defs": g.defs,
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(document); err != nil {
		panic("registry: its JSON Schema cannot be written: " + err.Error()) // maps, strings and numbers always can
	}
	return out.Bytes()
}

type schemaWriter struct {
	defs     map[string]any
	comments map[string]string // Type.Field → description
}

// ref defines a struct once and refers to it.
func (g *schemaWriter) ref(t reflect.Type) map[string]any {
	if _, known := g.defs[t.Name()]; !known {
		g.defs[t.Name()] = nil // it is being made
		properties := map[string]any{}
		for _, f := range fieldsOf(t).list {
			schema := g.field(t, f)
			if text := g.comments[t.Name()+"."+t.Field(f.index).Name]; text != "" {
				described := map[string]any{"description": text}
				for k, v := range schema {
					described[k] = v
				}
				schema = described
			}
			properties[f.name] = schema
		}
		def := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
		if text := g.comments[t.Name()]; text != "" {
			def["description"] = text
		}
		if names := required[t]; names != nil {
			def["required"] = names
		}
		g.defs[t.Name()] = def
	}
	return map[string]any{"$ref": "#/$defs/" + t.Name()}
}

// field is a field's schema; `key:` without a value counts as not given.
func (g *schemaWriter) field(t reflect.Type, f field) map[string]any {
	schema := g.value(t.Field(f.index).Type, f)
	if t == reflect.TypeFor[Alert]() && f.name == "execution_type" {
		schema = map[string]any{"enum": append([]string{"any"}, executionTypes()...)}
	}
	return map[string]any{"anyOf": []any{schema, map[string]any{"type": "null"}}}
}

func (g *schemaWriter) value(t reflect.Type, f field) map[string]any {
	if words := fieldWords[f.name]; words != nil && t.Kind() == reflect.String {
		return map[string]any{"anyOf": []any{map[string]any{"enum": append([]string{}, words...)}, withVariable}}
	}
	number := func(kind string) map[string]any {
		b, ok := fieldBounds[f.name]
		if !ok {
			b = bounds{0, math.MaxInt32}
		}
		return map[string]any{"anyOf": []any{map[string]any{"type": kind, "minimum": b.min, "maximum": b.max}, withVariable}}
	}
	switch {
	case t == durationType:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "string", "pattern": `^([0-9]+d|([0-9.]+(ns|us|µs|ms|s|m|h))+|.*\$\{.*)$`},
			map[string]any{"type": "integer", "minimum": 0}}}
	case t.Kind() == reflect.Pointer:
		return g.value(t.Elem(), f)
	case t.Kind() == reflect.Struct:
		return g.ref(t)
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Interface:
		return map[string]any{"type": "object"}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": []string{"string", "number", "boolean", "null"}}}
	case t.Kind() == reflect.Slice:
		items := g.value(t.Elem(), field{name: f.name, lenient: true})
		list := map[string]any{"type": "array", "items": items}
		if f.name == "notify" { // one receiver needs no list
			return map[string]any{"anyOf": []any{list, map[string]any{"type": "string"}}}
		}
		return list
	case t.Kind() == reflect.Bool:
		return map[string]any{"anyOf": []any{map[string]any{"type": "boolean"}, withVariable}}
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return number("integer")
	case t.Kind() == reflect.Float64:
		return number("number")
	case f.lenient:
		return map[string]any{"type": []string{"string", "number", "boolean"}}
	}
	return map[string]any{"type": "string"}
}

// fieldComments reads the types' comments: of each type and of each field.
func fieldComments() map[string]string {
	out := map[string]string{}
	file, err := parser.ParseFile(token.NewFileSet(), "types.go", typesSource, parser.ParseComments)
	if err != nil {
		panic("registry: its own source cannot be read: " + err.Error()) // it was compiled
	}
	text := func(groups ...*ast.CommentGroup) string {
		var parts []string
		for _, c := range groups {
			if t := strings.Join(strings.Fields(c.Text()), " "); t != "" {
				parts = append(parts, t)
			}
		}
		return strings.Join(parts, ". ")
	}
	ast.Inspect(file, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok {
			return true
		}
		for _, spec := range decl.Specs {
			typ, isType := spec.(*ast.TypeSpec)
			if !isType {
				continue
			}
			out[typ.Name.Name] = text(decl.Doc)
			fields, isStruct := typ.Type.(*ast.StructType)
			if !isStruct {
				continue
			}
			for _, f := range fields.Fields.List {
				doc := f.Doc
				if doc != nil && !strings.Contains(strings.TrimSpace(doc.Text()), " ") {
					doc = nil // a heading, such as "// http"
				}
				for _, name := range f.Names {
					out[fmt.Sprintf("%s.%s", typ.Name.Name, name.Name)] = text(doc, f.Comment)
				}
			}
		}
		return false
	})
	return out
}
