package registry

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specql/specql-ops/jobs"
)

// WriteYAML writes the registry as one environment's agents see it: merged,
// with variables in place, in the fields' order. Secrets are masked, so it is
// for reading and comparing; where none was, it reads as the same registry.
func (c *Config) WriteYAML(w io.Writer) error {
	y := yamlWriter{config: c}
	fmt.Fprintf(&y.out, "# %s", clip(c.File))
	if c.Env != "" {
		fmt.Fprintf(&y.out, ", environment %s", clip(c.Env))
	}
	y.out.WriteString("; secrets are masked\nservices:")
	if len(c.Services) == 0 {
		y.out.WriteString(" []")
	}
	y.out.WriteString("\n")
	for _, s := range c.Services {
		fields := y.fields(reflect.ValueOf(s).Elem())
		if !s.ExplicitType {
			fields = slices.DeleteFunc(fields, func(f yamlField) bool { return f.key == "execution_type" })
		}
		y.item(fields, 2)
	}
	if len(c.Alerts) > 0 {
		y.out.WriteString("alerts:\n")
	}
	for i := range c.Alerts {
		y.item(y.fields(reflect.ValueOf(&c.Alerts[i]).Elem()), 2)
	}
	_, err := io.WriteString(w, y.out.String())
	return err
}

type yamlWriter struct {
	config *Config
	out    strings.Builder
	schema bool // below input_schema or output_schema, where nothing is a secret's value
}

type yamlField struct {
	key   string
	value reflect.Value
}

// fields are those of a struct or map that hold something, or that were given
// though they hold nothing.
func (y *yamlWriter) fields(v reflect.Value) []yamlField {
	var out []yamlField
	if v.Kind() == reflect.Map {
		for _, k := range mapKeys(v) {
			out = append(out, yamlField{k, v.MapIndex(reflect.ValueOf(k))})
		}
		return out
	}
	for _, f := range fieldsOf(v.Type()).list {
		value := v.Field(f.index)
		if value.IsZero() {
			continue
		}
		if value.Kind() == reflect.Pointer {
			value = value.Elem()
		}
		out = append(out, yamlField{f.name, value})
	}
	return out
}

// item writes a mapping as an element of a list, its dash in column indent.
func (y *yamlWriter) item(fields []yamlField, indent int) {
	at := y.out.Len()
	y.mapping(fields, indent+2)
	text := y.out.String()
	y.out.Reset()
	if len(fields) == 0 {
		y.out.WriteString(text[:at] + strings.Repeat(" ", indent) + "- {}\n")
		return
	}
	y.out.WriteString(text[:at] + strings.Repeat(" ", indent) + "- " + text[at+indent+2:])
}

func (y *yamlWriter) mapping(fields []yamlField, indent int) {
	for _, f := range fields {
		y.out.WriteString(strings.Repeat(" ", indent) + yamlKey(f.key) + ":")
		schema := y.schema
		y.schema = schema || f.key == "input_schema" || f.key == "output_schema"
		y.value(f.key, f.value, indent)
		y.schema = schema
	}
}

func (y *yamlWriter) value(key string, v reflect.Value, indent int) {
	for v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		fields := y.fields(v)
		if len(fields) == 0 {
			y.out.WriteString(" {}\n")
			return
		}
		y.out.WriteString("\n")
		y.mapping(fields, indent+2)
	case reflect.Slice:
		if v.Len() == 0 {
			y.out.WriteString(" []\n")
			return
		}
		y.out.WriteString("\n")
		for i := range v.Len() {
			e := v.Index(i)
			for e.Kind() == reflect.Interface || e.Kind() == reflect.Pointer {
				e = e.Elem()
			}
			switch e.Kind() {
			case reflect.Struct, reflect.Map:
				y.item(y.fields(e), indent+2)
			default:
				y.out.WriteString(strings.Repeat(" ", indent+2) + "-")
				y.value(key, e, indent+2)
			}
		}
	default:
		y.out.WriteString(" " + y.scalar(key, v) + "\n")
	}
}

func (y *yamlWriter) scalar(key string, v reflect.Value) string {
	switch {
	case !v.IsValid():
		return "null"
	case v.Type() == durationType:
		return time.Duration(v.Int()).String()
	case v.Kind() == reflect.String:
		text := v.String()
		if v.Type() == reflect.TypeFor[jobs.ExecutionType]() {
			return text
		}
		shown := y.config.Redact(text)
		if !y.schema {
			shown = y.config.shownValue(key, text)
		}
		if strings.HasSuffix(key, "_env_var") {
			return yamlString(text) // a name, which is not expanded
		}
		return yamlString(strings.ReplaceAll(shown, "${", "$${"))
	case v.CanFloat():
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

func yamlKey(s string) string {
	if plainWord(s) {
		return s
	}
	return strconv.Quote(s)
}

// yamlString writes a string so that every reader takes it for one.
func yamlString(s string) string {
	if plainWord(s) {
		return s
	}
	return strconv.Quote(s)
}
