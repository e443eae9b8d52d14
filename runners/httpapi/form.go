package httpapi

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
)

// setForm writes the input's fields as application/x-www-form-urlencoded. An
// object within becomes name[field] and a list name[0], name[1] …, as payment
// APIs and most frameworks read them; null is left out.
func (a *attempt) setForm(input json.RawMessage) error {
	fields := objectFields(input)
	if trimmed := bytes.TrimSpace(input); fields == nil && len(trimmed) > 0 && string(trimmed) != "null" {
		return a.config("the job's input_data is not an object, which body: form needs")
	}
	form := make(url.Values)
	addForm(form, "", fields)
	a.body = []byte(form.Encode())
	a.header.Set("Content-Type", "application/x-www-form-urlencoded")
	return nil
}

func addForm(form url.Values, below string, fields map[string]json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		key := name
		if below != "" {
			key = below + "[" + name + "]"
		}
		addFormValue(form, key, fields[name])
	}
}

func addFormValue(form url.Values, key string, raw json.RawMessage) {
	if value, ok := scalar(raw); ok {
		form.Add(key, value)
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		addForm(form, key, objectFields(raw))
		return
	}
	for i, element := range list {
		addFormValue(form, key+"["+strconv.Itoa(i)+"]", element)
	}
}
