package httpapi

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// fillPath replaces each {field} of an operation's path by that input field;
// {a.b} is a field of the object a.
// The part before a ? is returned escaped, each value as one path segment or
// a piece of one; the part after it with each value escaped for a query. used
// names the fields that were taken.
func fillPath(template string, fields map[string]json.RawMessage) (path, query string, used map[string]bool, err error) {
	path, query, _ = strings.Cut(template, "?")
	if strings.ContainsRune(template, '{') {
		used = make(map[string]bool)
		if path, err = fill(path, fields, used, url.PathEscape); err != nil {
			return "", "", nil, err
		}
		if query, err = fill(query, fields, used, url.QueryEscape); err != nil {
			return "", "", nil, err
		}
		if err := keepSegments(template, path); err != nil {
			return "", "", nil, err
		}
	}
	if _, err := url.PathUnescape(path); err != nil {
		return "", "", nil, fmt.Errorf("path %q has a %% that is not followed by two hexadecimal digits", template)
	}
	return path, query, used, nil
}

func fill(template string, fields map[string]json.RawMessage, used map[string]bool, escape func(string) string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" {
			return "", fmt.Errorf("path has a { without a field name and a }")
		}
		raw, given := field(fields, name)
		if !given {
			return "", fmt.Errorf("the job's input_data has no field %q, which the path needs", name)
		}
		value, ok := scalar(raw)
		if !ok {
			return "", fmt.Errorf("the job's input_data field %q is not a string, number or boolean, which the path needs", name)
		}
		if value == "" {
			return "", fmt.Errorf("the job's input_data field %q is empty, which the path cannot hold", name)
		}
		out.WriteString(escape(value))
		top, _, _ := strings.Cut(name, ".")
		used[name], used[top] = true, true
		template = after
	}
}

// field finds a field of the input: one of that very name, or a.b within a.
func field(fields map[string]json.RawMessage, name string) (json.RawMessage, bool) {
	if raw, ok := fields[name]; ok {
		return raw, true
	}
	for {
		top, rest, deeper := strings.Cut(name, ".")
		raw, ok := fields[top]
		if !ok || !deeper {
			return raw, ok
		}
		fields, name = objectFields(raw), rest
	}
}

// keepSegments refuses values that make a segment mean "here" or "up": such a
// path is another one to the service, or to a proxy before it.
func keepSegments(template, filled string) error {
	segments := strings.Split(filled, "/")
	original, _, _ := strings.Cut(template, "?")
	for i, pattern := range strings.Split(original, "/") {
		if strings.ContainsRune(pattern, '{') && i < len(segments) && (segments[i] == "." || segments[i] == "..") {
			return fmt.Errorf("the job's input_data makes the path segment %s into %q, which would change the path", pattern, segments[i])
		}
	}
	return nil
}

// join puts an escaped path and query under the base URL.
func join(base *url.URL, path, query string) *url.URL {
	u := *base
	u.Fragment, u.RawFragment = "", ""
	escaped := strings.TrimRight(base.EscapedPath(), "/") + "/" + strings.TrimLeft(path, "/")
	// Both come from escapers or were checked; an error leaves the escaped
	// form, which is a valid path too.
	if plain, err := url.PathUnescape(escaped); err == nil {
		u.Path, u.RawPath = plain, escaped
	} else {
		u.Path, u.RawPath = escaped, ""
	}
	switch {
	case query == "":
	case u.RawQuery == "":
		u.RawQuery = query
	default:
		u.RawQuery += "&" + query
	}
	return &u
}
