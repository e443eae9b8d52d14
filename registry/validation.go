package registry

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	faultkind "github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// What a service's validation says.
const (
	ValidationOff    = "off"
	ValidationWarn   = "warn" // also when the file gives none
	ValidationStrict = "strict"
)

// ValidationMode is the service's validation, with its default.
func (s *Service) ValidationMode() string {
	if s.Validation == "" {
		return ValidationWarn
	}
	return s.Validation
}

// operationSchemas are an operation's schemas, compiled; nil where it has none.
type operationSchemas struct{ input, output *jsonschema.Schema }

// maxSchemaFaults bounds what is recorded of one document.
const maxSchemaFaults = 10

// CheckInput compares a job's input_data with the operation's input_schema. It
// returns what does not fit, nothing when all does. No value of the document
// is in it, since inputs may hold what is nobody's business. op must be an
// operation of this configuration.
func (c *Config) CheckInput(op *Operation, document []byte) []string {
	return schemaFaults(c.schemasOf(op).input, document)
}

// CheckOutput compares a job's output_data with the operation's output_schema.
func (c *Config) CheckOutput(op *Operation, document []byte) []string {
	return schemaFaults(c.schemasOf(op).output, document)
}

// schemasOf compiles an operation's schemas at their first use: few of a big
// registry's are ever used by one agent.
func (c *Config) schemasOf(op *Operation) *operationSchemas {
	if known, ok := c.schemas.Load(op); ok {
		return known.(*operationSchemas)
	}
	// They were compiled when the file was read, so they do compile.
	var made operationSchemas
	made.input, _ = CompileSchema(op.InputSchema)
	made.output, _ = CompileSchema(op.OutputSchema)
	known, _ := c.schemas.LoadOrStore(op, &made)
	return known.(*operationSchemas)
}

func schemaFaults(schema *jsonschema.Schema, document []byte) []string {
	if schema == nil {
		return nil
	}
	if len(bytes.TrimSpace(document)) == 0 {
		document = []byte("{}") // nothing was given: no field is there
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return []string{"it is not JSON"}
	}
	err = schema.Validate(value)
	if err == nil {
		return nil
	}
	invalid, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return []string{"it cannot be compared with its schema"}
	}
	var faults []string
	collectFaults(invalid, &faults)
	slices.Sort(faults)
	faults = slices.Compact(faults)
	if more := len(faults) - maxSchemaFaults; more > 0 {
		faults = append(faults[:maxSchemaFaults], fmt.Sprintf("and %d more", more))
	}
	return faults
}

// collectFaults words the leaves of a validation error, without its values.
func collectFaults(e *jsonschema.ValidationError, out *[]string) {
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			collectFaults(cause, out)
		}
		return
	}
	at := "the document"
	if len(e.InstanceLocation) > 0 {
		at = clip(strings.Join(e.InstanceLocation, "."))
	}
	var what string
	switch k := e.ErrorKind.(type) {
	case *faultkind.Type:
		what = fmt.Sprintf("is %s, not %s", k.Got, oneOf(k.Want))
	case *faultkind.Required:
		what = "lacks " + clip(strings.Join(k.Missing, ", "))
	case *faultkind.AdditionalProperties:
		what = "has fields that the schema does not allow: " + clip(strings.Join(k.Properties, ", "))
	case *faultkind.Format:
		what = "is not of the format " + clip(k.Want)
	default:
		what = "does not keep to the schema's " + clip(strings.Join(e.ErrorKind.KeywordPath(), "/"))
	}
	*out = append(*out, at+" "+what)
}
