package ops

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Operation is what a job may ask of a service, with the fields of its input.
type Operation struct {
	Service, Name string
	Type          jobs.ExecutionType
	Fields        []OperationField // by name, the required ones first
}

// OperationField is one field of an operation's input.
type OperationField struct {
	Name     string
	Type     string // string, integer, number, boolean, object or array; empty: any
	Required bool
	Values   []string // the only ones; nil: any of the type
	About    string
}

// ListOperations lists what the newest registry that agents applied offers, by
// service and name.
func ListOperations(ctx context.Context, db jobs.Querier) ([]Operation, error) {
	config, _, err := newestRegistry(ctx, db)
	if err != nil || config == nil {
		return nil, Explain(err)
	}
	var out []Operation
	for _, s := range config.Services {
		for i := range s.Operations {
			out = append(out, Operation{Service: s.Name, Name: s.Operations[i].Name, Type: s.ExecutionType,
				Fields: operationFields(&s.Operations[i])})
		}
	}
	slices.SortFunc(out, func(a, b Operation) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// operationFields reads both ways to write a schema: field → type, of which
// every field is required, and a JSON Schema.
func operationFields(op *registry.Operation) []OperationField {
	var out []OperationField
	properties, isSchema := op.InputSchema["properties"].(map[string]any)
	if !isSchema {
		for name, t := range op.InputSchema {
			out = append(out, OperationField{Name: name, Type: fmt.Sprint(t), Required: true})
		}
	}
	required, _ := op.InputSchema["required"].([]any)
	for name, p := range properties {
		f := OperationField{Name: name, Required: slices.Contains(required, any(name))}
		if m, ok := p.(map[string]any); ok {
			f.Type, _ = m["type"].(string)
			f.About, _ = m["description"].(string)
			values, _ := m["enum"].([]any)
			for _, v := range values {
				f.Values = append(f.Values, fmt.Sprint(v))
			}
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b OperationField) int {
		if a.Required != b.Required {
			if a.Required {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return out
}

// Parse reads a field's value from what an operator typed; nil stands for a
// field that is left out.
func (f OperationField) Parse(text string) (any, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "" && f.Required:
		return nil, errors.New("it is required")
	case text == "":
		return nil, nil
	case f.Values != nil && !slices.Contains(f.Values, text):
		return nil, fmt.Errorf("give one of %s", strings.Join(f.Values, ", "))
	}
	switch f.Type {
	case "integer":
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", text)
		}
		return n, nil
	case "number":
		n := json.Number(text)
		if _, err := n.Float64(); err != nil || !json.Valid([]byte(text)) {
			return nil, fmt.Errorf("%q is not a number", text)
		}
		return n, nil
	case "boolean":
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q is neither true nor false", text)
		}
		return b, nil
	case "object", "array":
		var v any
		want := map[string]byte{"object": '{', "array": '['}[f.Type]
		if err := json.Unmarshal([]byte(text), &v); err != nil || text[0] != want {
			return nil, fmt.Errorf("%q is not a JSON %s", text, f.Type)
		}
		return v, nil
	}
	return text, nil
}

// Input makes an operation's input of what an operator typed; the error names
// the field that is wrong.
func (o Operation) Input(typed map[string]string) (json.RawMessage, error) {
	input := map[string]any{}
	for _, f := range o.Fields {
		v, err := f.Parse(typed[f.Name])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if v != nil {
			input[f.Name] = v
		}
	}
	return json.Marshal(input)
}

const newJobSQL = `
INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, input_data, execution_type)
VALUES ($1, $2, $3, $4, $5, $6)`

// Enqueue puts one job in the queue, as the application does, and writes the
// audit log.
func Enqueue(ctx context.Context, db jobs.Beginner, o Operation, input json.RawMessage, by jobs.By) (jobs.ID, error) {
	id := jobs.NewID()
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, newJobSQL, id, "operator-"+id.String(), o.Service, o.Name, input, string(cmp.Or(o.Type, jobs.HTTP))); err != nil {
			return err
		}
		return jobs.Audit(ctx, tx, by, "enqueue-job", id.String(), nil, map[string]any{"service": o.Service, "operation": o.Name})
	})
	return id, Explain(err)
}
