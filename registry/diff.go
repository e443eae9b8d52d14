package registry

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Changes are what a reload changes, for logs and screens. Secrets are masked
// in it: a secret that changed shows as •••• → ••••.
type Changes struct {
	Added   []string        `json:"added,omitempty"`   // services, in the new file's order
	Removed []string        `json:"removed,omitempty"` // services, in the old file's order
	Changed []ServiceChange `json:"changed,omitempty"` // in the new file's order
	Alerts  bool            `json:"alerts,omitempty"`  // the alerts differ
}

// ServiceChange is one service whose fields differ.
type ServiceChange struct {
	Service string        `json:"service"`
	Fields  []FieldChange `json:"fields"`
}

// FieldChange is one field before and after. An empty text is a field that
// was not given.
type FieldChange struct {
	Path string `json:"path"` // such as runner_config.timeout or operations.refund.path
	Old  string `json:"old"`
	New  string `json:"new"`
}

// Empty tells whether nothing changed.
func (c Changes) Empty() bool {
	return len(c.Added) == 0 && len(c.Removed) == 0 && len(c.Changed) == 0 && !c.Alerts
}

// String says in one line what changed.
func (c Changes) String() string {
	var parts []string
	list := func(word string, names []string) {
		if len(names) > 0 {
			parts = append(parts, word+" "+strings.Join(names, ", "))
		}
	}
	list("added", c.Added)
	list("removed", c.Removed)
	for _, s := range c.Changed {
		fields := make([]string, len(s.Fields))
		for i, f := range s.Fields {
			fields[i] = fmt.Sprintf("%s %s → %s", f.Path, orNone(f.Old), orNone(f.New))
		}
		parts = append(parts, fmt.Sprintf("changed %s (%s)", s.Service, strings.Join(fields, ", ")))
	}
	if c.Alerts {
		parts = append(parts, "changed the alerts")
	}
	if len(parts) == 0 {
		return "no changes"
	}
	return strings.Join(parts, "; ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// Diff compares two snapshots; either may be nil, which has no services.
// Services are matched by name regardless of case, operations by name.
func Diff(before, after *Config) Changes {
	if before == nil {
		before = &Config{}
	}
	if after == nil {
		after = &Config{}
	}
	var out Changes
	for _, s := range before.Services {
		if _, kept := after.Service(s.Name); !kept {
			out.Removed = append(out.Removed, s.Name)
		}
	}
	d := differ{before: before, after: after}
	for _, s := range after.Services {
		old, existed := before.Service(s.Name)
		if !existed {
			out.Added = append(out.Added, s.Name)
			continue
		}
		if reflect.DeepEqual(old, s) {
			continue
		}
		d.fields = nil
		d.compare("", "", reflect.ValueOf(old).Elem(), reflect.ValueOf(s).Elem())
		if len(d.fields) > 0 {
			out.Changed = append(out.Changed, ServiceChange{Service: s.Name, Fields: d.fields})
		}
	}
	out.Alerts = !slices.EqualFunc(before.Alerts, after.Alerts, func(a, b Alert) bool { return reflect.DeepEqual(a, b) })
	return out
}

type differ struct {
	before, after *Config
	fields        []FieldChange
}

// compare walks two values of the same type. Either may be invalid: not
// there. key is the last part of path.
func (d *differ) compare(path, key string, a, b reflect.Value) {
	t := b
	if !b.IsValid() {
		t = a
	}
	switch {
	case t.Kind() == reflect.Pointer && t.Type().Elem().Kind() == reflect.Struct:
		d.compare(path, key, deref(a), deref(b))
	case t.Kind() == reflect.Struct:
		for _, f := range fieldsOf(t.Type()).list {
			d.compare(joinPath(path, f.name), f.name, fieldOf(a, f.index), fieldOf(b, f.index))
		}
	case t.Kind() == reflect.Map:
		for _, k := range mapKeys(a, b) {
			d.compare(joinPath(path, k), k, entryOf(a, k), entryOf(b, k))
		}
	case t.Kind() == reflect.Slice && t.Type().Elem() == reflect.TypeFor[Operation]():
		x, y := operations(a), operations(b)
		for _, k := range mapKeys(reflect.ValueOf(x), reflect.ValueOf(y)) {
			d.compare(joinPath(path, k), k, pointee(x, k), pointee(y, k))
		}
	default:
		old, now := plainText(a), plainText(b)
		if old != now {
			d.fields = append(d.fields, FieldChange{path, d.before.shownValue(key, old), d.after.shownValue(key, now)})
		}
	}
}

func deref(v reflect.Value) reflect.Value {
	if !v.IsValid() || v.IsNil() {
		return reflect.Value{}
	}
	return v.Elem()
}

func fieldOf(v reflect.Value, i int) reflect.Value {
	if !v.IsValid() {
		return v
	}
	return v.Field(i)
}

func entryOf(v reflect.Value, key string) reflect.Value {
	if !v.IsValid() {
		return v
	}
	return v.MapIndex(reflect.ValueOf(key))
}

func operations(v reflect.Value) map[string]*Operation {
	out := map[string]*Operation{}
	if v.IsValid() {
		list := v.Interface().([]Operation)
		for i := range list {
			out[list[i].Name] = &list[i]
		}
	}
	return out
}

func pointee(m map[string]*Operation, key string) reflect.Value {
	if op := m[key]; op != nil {
		return reflect.ValueOf(op).Elem()
	}
	return reflect.Value{}
}

func mapKeys(maps ...reflect.Value) []string {
	var keys []string
	for _, m := range maps {
		if m.IsValid() {
			for _, k := range m.MapKeys() {
				keys = append(keys, k.String())
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// plainText is a value as one reads it; zero values of a file are empty.
func plainText(v reflect.Value) string {
	if !v.IsValid() || v.IsZero() {
		return ""
	}
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() == 0 {
			return ""
		}
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = plainText(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		var parts []string
		for _, k := range mapKeys(v) {
			parts = append(parts, k+": "+plainText(v.MapIndex(reflect.ValueOf(k))))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case reflect.Struct:
		var parts []string
		for _, f := range fieldsOf(v.Type()).list {
			if s := plainText(v.Field(f.index)); s != "" {
				parts = append(parts, f.name+": "+s)
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(v.Interface())
}
