package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// defaultMaxBytes bounds a request or an answer whose service sets no bound.
const defaultMaxBytes = 10 << 20

// attempt is one call on its way: what to send, and what came of it.
type attempt struct {
	runner *Runner
	call   runners.Call

	route    *route
	narrowed registry.Domains // the row's allowed_domains; nil when it gives none
	timeout  time.Duration    // call.Timeout, or less where the row asks for it

	method  string
	url     *url.URL
	header  http.Header
	host    string // the registry's Host header; empty for the URL's
	body    []byte // nil: none
	secrets secrets
	paths   secrets  // hidden beside secrets where a URL is shown
	private []string // keys of header that stay with the first host
	safe    bool     // sending it twice does no more than sending it once

	tries     int        // begun
	grant     *grant     // of oauth2; nil for every other auth_type
	token     string     // that the header has of grant
	renewed   bool       // a refused token was replaced
	signature *signature // of aws_sigv4; nil for every other auth_type

	result runners.Result
}

// prepare makes the request from the registry and the row, and holds it
// against the policy. Its error is a PolicyError or a ConfigError.
func (a *attempt) prepare() (err error) {
	a.hideValues()
	if a.route, err = a.runner.routes.of(a.call.Service); err != nil {
		return err
	}
	if err := a.narrow(); err != nil {
		return err
	}
	a.result.Security = map[string]any{"policy": a.route.recorded}
	if a.narrowed != nil {
		policy := map[string]any{"narrowed_to": a.narrowed.Sources()}
		maps.Copy(policy, a.route.allowed)
		a.result.Security["policy"] = policy
	}

	a.header = make(http.Header, a.headerCount())
	if a.route.base == nil {
		err = a.fromRow()
	} else {
		err = a.fromOperation()
	}
	if err != nil {
		return err
	}
	if err := a.permitURL(); err != nil {
		return err
	}
	if err := a.permitSize(); err != nil {
		return err
	}
	return a.setHeaders()
}

// permitURL holds the request's URL against the policy. A path changes neither
// scheme, user, host nor port, so that what holds for base_url holds for the
// whole route.
func (a *attempt) permitURL() error {
	if a.route.base != nil && a.narrowed == nil {
		return a.route.refused
	}
	return a.route.policy.permitURL(a.url, a.narrowed)
}

// narrow reads what the row may ask: fewer domains, less time. Anything else
// in its runner_config and security_context is the registry's to say, and
// ignored.
func (a *attempt) narrow() error {
	a.timeout = a.call.Timeout
	if raw := a.call.Job.RunnerConfig; len(raw) > 0 {
		var asked struct {
			Timeout *float64 `json:"timeout"` // seconds
		}
		if err := json.Unmarshal(raw, &asked); err != nil {
			return a.config("the job's runner_config is not an object with a number as timeout")
		}
		if asked.Timeout != nil {
			if *asked.Timeout <= 0 {
				return a.config("the job's runner_config.timeout is not above 0 seconds")
			}
			// Compared as seconds: a huge number must not overflow a Duration.
			if a.timeout == 0 && *asked.Timeout < float64(24*3600) || *asked.Timeout < a.timeout.Seconds() {
				a.timeout = time.Duration(*asked.Timeout * float64(time.Second))
			}
		}
	}
	if raw := a.call.Job.SecurityContext; len(raw) > 0 {
		var asked struct {
			AllowedDomains []string `json:"allowed_domains"`
		}
		if err := json.Unmarshal(raw, &asked); err != nil {
			return a.config("the job's security_context is not an object with a list of host names as allowed_domains")
		}
		if asked.AllowedDomains != nil {
			list, err := registry.ParseDomains(asked.AllowedDomains)
			if err != nil {
				return a.config("the job's security_context." + err.Error())
			}
			a.narrowed = list
		}
	}
	return nil
}

// fromOperation makes the request that the registry describes: method and
// path of the operation under base_url, the input as its body or query.
func (a *attempt) fromOperation() error {
	op := a.call.Operation
	input := a.call.Job.Input
	if err := a.setMethod(op.Method); err != nil {
		return err
	}
	path := op.Path
	if path == "" {
		path = url.PathEscape(op.Name)
	}
	var fields map[string]json.RawMessage
	if strings.ContainsRune(path, '{') || !takesBody(a.method) {
		fields = objectFields(input)
	}
	filled, query, used, err := fillPath(path, fields)
	if err != nil {
		return a.config(fmt.Sprintf("operation %s: %v", op.Name, err))
	}
	a.url = join(a.route.base, filled, query)
	switch {
	case !takesBody(a.method):
		a.addQuery(fields, used)
		return nil
	case strings.EqualFold(op.Body, "form"):
		return a.setForm(input)
	default:
		a.setBody(input)
		return nil
	}
}

// fromRow makes the request that the row describes, for a service without
// base_url: input_data holds endpoint and may hold method, headers and
// payload. Without payload, the input's other fields are the payload.
func (a *attempt) fromRow() error {
	fields := objectFields(a.call.Job.Input)
	var endpoint, method string
	if json.Unmarshal(fields["endpoint"], &endpoint) != nil || endpoint == "" {
		return a.config("it has no runner_config.base_url, and the job's input_data has no endpoint: give one of them")
	}
	var err error
	if a.url, err = parseEndpoint(endpoint); err != nil {
		return a.route.policy.refuse(fmt.Sprintf("input_data.endpoint (it %v)", err), "")
	}
	a.url.Fragment, a.url.RawFragment = "", ""
	if raw, ok := fields["method"]; ok && json.Unmarshal(raw, &method) != nil {
		return a.config("the job's input_data.method is not a string")
	}
	if err := a.setMethod(method); err != nil {
		return err
	}
	if err := a.takeRowHeaders(fields["headers"]); err != nil {
		return err
	}
	payload, given := fields["payload"]
	if !given {
		for _, own := range []string{"endpoint", "method", "headers"} {
			delete(fields, own)
		}
		if payload, err = json.Marshal(fields); err != nil {
			return a.config("the job's input_data cannot be written as JSON: " + err.Error())
		}
	}
	if takesBody(a.method) {
		a.setBody(payload)
		return nil
	}
	a.addQuery(objectFields(payload), nil)
	return nil
}

func (a *attempt) setMethod(method string) error {
	a.method = strings.ToUpper(method)
	switch a.method {
	case "":
		a.method = http.MethodPost
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete, http.MethodPost, http.MethodPatch:
	default:
		return a.config(fmt.Sprintf("method %q is not one of GET, HEAD, OPTIONS, POST, PUT, PATCH and DELETE", method))
	}
	switch a.method {
	case http.MethodPost, http.MethodPatch:
		a.safe = a.call.Job.IdempotencyKey != ""
	default:
		a.safe = true // idempotent by RFC 9110, section 9.2.2
	}
	return nil
}

// takesBody tells whether the input goes into the body; otherwise it becomes
// the query.
func takesBody(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		return false
	}
	return true
}

// setBody takes JSON as it is. A job without input sends an empty object:
// services read objects.
func (a *attempt) setBody(raw json.RawMessage) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		raw = json.RawMessage("{}")
	}
	a.body = raw
}

// addQuery puts the scalar fields into the query. A parameter that the
// registry's own path sets is not the row's to change.
func (a *attempt) addQuery(fields map[string]json.RawMessage, used map[string]bool) {
	if len(fields) == 0 {
		return
	}
	fixed := a.url.Query()
	query := make(url.Values)
	for name, raw := range fields {
		if value, ok := scalar(raw); ok && !used[name] && !fixed.Has(name) {
			query.Set(name, value)
		}
	}
	if added := query.Encode(); added != "" {
		if a.url.RawQuery != "" {
			added = a.url.RawQuery + "&" + added
		}
		a.url.RawQuery = added
	}
}

// permitSize holds what the input makes of the request against
// max_request_size.
func (a *attempt) permitSize() error {
	size, allowed := int64(len(a.body)+len(a.url.RawQuery)), a.call.Service.SecurityPolicy.MaxRequestSize
	if allowed <= 0 {
		allowed = defaultMaxBytes
	}
	if size <= allowed {
		return nil
	}
	return &runners.PolicyError{
		Service: a.call.Service.Name, Rule: "max_request_size",
		Offered: strconv.FormatInt(size, 10) + " bytes",
		Permit:  "max_request_size: " + strconv.FormatInt(size, 10),
	}
}

func (a *attempt) config(problem string) error {
	return &runners.ConfigError{Service: a.call.Service.Name, Problem: a.paths.mask(a.secrets.mask(problem))}
}

// objectFields are the fields of a JSON object; none of anything else.
func objectFields(raw json.RawMessage) map[string]json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	return fields
}

// scalar is a string, number or boolean as a query or path writes it.
func scalar(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 {
		return "", false
	}
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err == nil
	case '{', '[', 'n':
		return "", false
	}
	return string(raw), true // a number keeps all of its digits
}
