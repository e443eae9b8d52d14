package registry

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
)

// decoder fills the types of this package from nodes, by their yaml tags. It
// reports every fault and goes on; a value at fault stays zero.
//
// In its shape mode (expand false) it looks at overlays that were not chosen:
// fields and types are checked, variables are not looked up.
type decoder struct {
	rep      *report
	vars     *variables
	expand   bool
	verbatim bool                // variables are not looked up and stand for themselves
	secrets  map[string]struct{} // values of variables with secret-looking names
	in       string              // what every message begins with: "service payments: "
	path     []string
}

// field is one yaml field of a struct.
type field struct {
	name  string
	index int
	// lenient says that a number is as good as a string: user ids, versions.
	lenient bool
	// literal says that the value names something and is never expanded.
	literal bool
}

type fields struct {
	list  []field
	names []string
}

var fieldCache sync.Map // reflect.Type → *fields

func fieldsOf(t reflect.Type) *fields {
	if known, ok := fieldCache.Load(t); ok {
		return known.(*fields)
	}
	out := &fields{}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		out.list = append(out.list, field{
			name: name, index: i,
			lenient: name == "user" || name == "qualifier",
			literal: strings.HasSuffix(name, "_env_var"),
		})
		out.names = append(out.names, name)
	}
	known, _ := fieldCache.LoadOrStore(t, out)
	return known.(*fields)
}

func (f *fields) find(name string) *field {
	for i := range f.list {
		if f.list[i].name == name {
			return &f.list[i]
		}
	}
	return nil
}

// where is the path of the value that is being decoded.
func (d *decoder) where() string {
	return strings.ReplaceAll(strings.Join(d.path, "."), ".[", "[")
}

func (d *decoder) fault(n *node, code Code, message, help string) {
	d.rep.add(Error, code, n.line, n.col, d.in+message, help)
}

// wrongType says what belongs at n and what stands there.
func (d *decoder) wrongType(n *node, want, help string) {
	d.fault(n, CodeWrongType, fmt.Sprintf("%s must be %s, not %s", d.where(), want, n.kind), help)
}

var durationType = reflect.TypeFor[time.Duration]()

// decode sets v from n.
func (d *decoder) decode(n *node, v reflect.Value, f *field) {
	if n.kind == nullKind {
		return // `key:` without a value is a key that was not given
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), f)
	case reflect.Struct:
		d.object(n, v)
	case reflect.Map:
		d.mapping(n, v, f)
	case reflect.Slice:
		d.list(n, v, f)
	case reflect.String:
		if s, ok := d.str(n, f); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if b, ok := d.boolean(n); ok {
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int64:
		if v.Type() == durationType {
			if t, ok := d.duration(n); ok {
				v.SetInt(int64(t))
			}
			return
		}
		if i, ok := d.integer(n, f); ok {
			v.SetInt(i)
		}
	case reflect.Float64:
		if x, ok := d.number(n, f); ok {
			v.SetFloat(x)
		}
	case reflect.Interface:
		if a := d.anything(n); a != nil {
			v.Set(reflect.ValueOf(a))
		}
	default:
		panic("registry: no decoding into " + v.Type().String())
	}
}

func (d *decoder) object(n *node, v reflect.Value) {
	if n.kind != mapKind {
		d.wrongType(n, "a mapping", objectHelp(v.Type()))
		return
	}
	known := fieldsOf(v.Type())
	for i := range n.kids {
		k := &n.kids[i]
		f := known.find(k.key)
		if f == nil {
			d.rep.add(Error, CodeUnknownField, k.line, k.col,
				fmt.Sprintf("%s%s has no field %q", d.in, structNames[v.Type()], clip(k.key)),
				unknownFieldHelp(k.key, v.Type()))
			continue
		}
		d.path = append(d.path, f.name)
		d.decode(k.node, v.Field(f.index), f)
		d.path = d.path[:len(d.path)-1]
	}
}

func (d *decoder) mapping(n *node, v reflect.Value, f *field) {
	if n.kind != mapKind {
		d.wrongType(n, "a mapping", "write key: value, one a line")
		return
	}
	elem := &field{name: f.name, lenient: true}
	out := reflect.MakeMapWithSize(v.Type(), len(n.kids))
	value := reflect.New(v.Type().Elem()).Elem()
	for i := range n.kids {
		k := &n.kids[i]
		value.SetZero()
		d.path = append(d.path, clip(k.key))
		d.decode(k.node, value, elem)
		d.path = d.path[:len(d.path)-1]
		out.SetMapIndex(reflect.ValueOf(k.key), value)
	}
	v.Set(out)
}

func (d *decoder) list(n *node, v reflect.Value, f *field) {
	if n.kind != seqKind {
		help := "write a list: " + f.name + ": [a, b]"
		if n.kind == stringKind && v.Type().Elem().Kind() == reflect.String && !hasVariables(n.text) {
			if f.name == "notify" { // one receiver needs no list
				v.Set(reflect.ValueOf([]string{n.text}))
				return
			}
			if !secretName(f.name) {
				help = fmt.Sprintf("write a list: %s: [%s]", f.name, maskLine(clip(strings.Join(strings.Fields(n.text), ", "))))
			}
		}
		d.wrongType(n, "a list", help)
		return
	}
	elem := &field{name: f.name, lenient: true}
	out := reflect.MakeSlice(v.Type(), len(n.kids), len(n.kids))
	for i := range n.kids {
		e := n.kids[i].node
		d.path = append(d.path, "["+strconv.Itoa(i)+"]")
		if e.kind == nullKind {
			d.wrongType(e, "a value", "remove the empty element")
		}
		d.decode(e, out.Index(i), elem)
		d.path = d.path[:len(d.path)-1]
	}
	v.Set(out)
}

// text returns a string's value with variables expanded; ok is false when it
// is not known.
func (d *decoder) text(n *node) (s string, ok bool) {
	if n.kind != stringKind || d.verbatim || !hasVariables(n.text) {
		return n.text, true
	}
	if !d.expand {
		return "", false
	}
	if n.exp == nil {
		exp, faults := d.vars.expand(n.text)
		for _, f := range faults {
			d.fault(n, f.code, d.where()+": "+f.message, f.help)
		}
		exp.broken = len(faults) > 0
		n.exp = &exp
	}
	if len(n.exp.secrets) > 0 {
		d.secrets[n.exp.value] = struct{}{}
		for _, secret := range n.exp.secrets {
			d.secrets[secret] = struct{}{}
		}
	}
	return n.exp.value, !n.exp.broken
}

func (d *decoder) str(n *node, f *field) (string, bool) {
	switch n.kind {
	case stringKind:
		if f.literal {
			return n.text, true
		}
		return d.text(n)
	case boolKind, intKind, floatKind:
		if f.lenient {
			return n.text, true
		}
		d.wrongType(n, "a string", fmt.Sprintf("quote it: %s: %q", f.name, clip(n.text)))
	default:
		d.wrongType(n, "a string", "")
	}
	return "", false
}

func (d *decoder) boolean(n *node) (value, ok bool) {
	s, known := d.scalar(n)
	if !known {
		if n.kind != stringKind {
			d.wrongType(n, "true or false", "")
		}
		return false, false
	}
	switch {
	case n.kind == boolKind, n.exp != nil:
		if s == "true" || s == "True" || s == "TRUE" {
			return true, true
		}
		if s == "false" || s == "False" || s == "FALSE" {
			return false, true
		}
	}
	d.wrongType(n, "true or false", "write true or false without quotes")
	return false, false
}

// scalar is the text of a value that is not to be a string: a number, or a
// string whose variables give one.
func (d *decoder) scalar(n *node) (string, bool) {
	if n.kind >= mapKind {
		return "", false
	}
	return d.text(n)
}

func (d *decoder) integer(n *node, f *field) (int64, bool) {
	s, known := d.scalar(n)
	if !known {
		if n.kind != stringKind {
			d.wrongType(n, "a whole number", "")
		}
		return 0, false
	}
	if n.kind == boolKind || n.kind == floatKind || n.kind == stringKind && n.exp == nil {
		if n.kind == stringKind && !n.quoted && strings.Trim(s, "0123456789") == "" && s != "" {
			d.fault(n, CodeRange, d.where()+" is too big a number", "") // the parser left it a string
			return 0, false
		}
		help := "write a whole number without quotes"
		if u := unitHelp(f.name); u != "" {
			help = u
		}
		d.wrongType(n, "a whole number", help)
		return 0, false
	}
	digits := strings.TrimLeft(strings.ReplaceAll(s, "_", ""), "+-")
	if len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		d.fault(n, CodeWrongType, d.where()+" begins with 0, which readers take for octal or decimal as they please",
			"write it without the leading 0")
		return 0, false
	}
	i, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(s), "+"), "_", ""), 0, 64)
	if err != nil {
		if n.exp != nil {
			d.fault(n, CodeWrongType, fmt.Sprintf("%s must be a whole number, and %s does not hold one",
				d.where(), oneOf(n.exp.names)), "set the variable to a whole number")
		} else {
			d.fault(n, CodeRange, d.where()+" is too big a number", "")
		}
		return 0, false
	}
	return i, d.within(n, f, float64(i))
}

func (d *decoder) number(n *node, f *field) (float64, bool) {
	s, known := d.scalar(n)
	if !known {
		if n.kind != stringKind {
			d.wrongType(n, "a number", "")
		}
		return 0, false
	}
	s = strings.ReplaceAll(strings.TrimSpace(s), "_", "")
	if n.kind == floatKind {
		s = strings.Replace(strings.ToLower(s), ".inf", "inf", 1)
		s = strings.Replace(s, ".nan", "nan", 1)
	}
	x, err := strconv.ParseFloat(s, 64)
	// The parser takes 1e3 for a string; YAML and people take it for a number.
	if err != nil || n.kind == boolKind || n.kind == stringKind && n.exp == nil && n.quoted {
		if n.exp != nil {
			d.fault(n, CodeWrongType, fmt.Sprintf("%s must be a number, and %s does not hold one",
				d.where(), oneOf(n.exp.names)), "set the variable to a number")
		} else {
			d.wrongType(n, "a number", "write a number without quotes")
		}
		return 0, false
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		d.fault(n, CodeRange, d.where()+" must be a finite number", "")
		return 0, false
	}
	return x, d.within(n, f, x)
}

func (d *decoder) duration(n *node) (time.Duration, bool) {
	s, known := d.scalar(n)
	if !known {
		if n.kind != stringKind {
			d.wrongType(n, "a duration", "write 30s, 10m, 1h or 1d")
		}
		return 0, false
	}
	t, err := parseDuration(s)
	if err != nil || t < 0 {
		d.fault(n, CodeWrongType, d.where()+" must be a duration", "write 30s, 10m, 1h or 1d")
		return 0, false
	}
	return t, true
}

// parseDuration reads Go's durations, whole days (7d) and bare seconds.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	return time.ParseDuration(s)
}

// anything decodes what has no type of its own, such as schemas: maps, lists,
// strings, booleans, int64 and float64.
func (d *decoder) anything(n *node) any {
	switch n.kind {
	case mapKind:
		out := make(map[string]any, len(n.kids))
		for i := range n.kids {
			out[n.kids[i].key] = d.anything(n.kids[i].node)
		}
		return out
	case seqKind:
		out := make([]any, len(n.kids))
		for i := range n.kids {
			out[i] = d.anything(n.kids[i].node)
		}
		return out
	case boolKind:
		return strings.EqualFold(n.text, "true")
	case intKind:
		if i, err := strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, 64); err == nil {
			return i
		}
		fallthrough
	case floatKind:
		if x, err := strconv.ParseFloat(strings.ReplaceAll(n.text, "_", ""), 64); err == nil && !math.IsInf(x, 0) && !math.IsNaN(x) {
			return x
		}
		d.fault(n, CodeRange, d.where()+" holds a number that is out of range", "")
	case stringKind:
		s, _ := d.text(n)
		return s
	}
	return nil
}
