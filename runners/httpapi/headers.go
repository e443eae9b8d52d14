package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/specql/specql-ops/runners"
)

// setHeaders writes the headers of every try: what the runner says of the
// job, then what the registry gives the service, then the credentials, each
// over the ones before it.
func (a *attempt) setHeaders() error {
	job, h := a.call.Job, a.header
	// One piece of memory for all values, and names in their canonical form:
	// this is done for every request.
	values := make([]string, 0, 9)
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	if a.body != nil && h["Content-Type"] == nil {
		set("Content-Type", "application/json")
	}
	if h["Accept"] == nil {
		set("Accept", "application/json")
	}
	set("User-Agent", a.runner.userAgent)
	id := job.ID.String()
	for _, field := range [...]struct{ name, value string }{
		{"X-Specql-Job-Id", id},
		{"X-Specql-Identifier", job.Identifier},
		{"X-Specql-Attempt", strconv.Itoa(job.Attempt)},
		{"X-Specql-Correlation-Id", job.CorrelationID},
		{"X-Specql-Tenant-Id", job.TenantID},
	} {
		if field.value != "" {
			set(field.name, headerText(field.value))
		}
	}
	// The row's key, or the job's id, which is the same for each of its
	// attempts.
	if key := cmp.Or(job.IdempotencyKey, id); a.safe {
		set("Idempotency-Key", headerText(key))
	} else {
		set(unrepeated["Idempotency-Key"], key)
	}
	if err := a.setServiceHeaders(); err != nil {
		return err
	}
	return a.authorize()
}

// unrepeated are other spellings of the headers at which net/http repeats a
// request by itself when a kept connection breaks; it looks for exactly these. What
// is not safe to send twice has them in a spelling that it does not know. Names are
// the same to a service in any case.
var unrepeated = map[string]string{"Idempotency-Key": "Idempotency-key", "X-Idempotency-Key": "X-Idempotency-key"}

// setHeader sets a header of the registry's or the row's, which stays with the
// first host.
func (a *attempt) setHeader(canonical, value string) {
	key := canonical
	if other := unrepeated[canonical]; other != "" && !a.safe {
		delete(a.header, canonical)
		key = other
	}
	a.header[key] = []string{value}
	a.private = append(a.private, key)
}

// headerCount is about how many headers a request will have: up to eight take
// a third of the memory of more.
func (a *attempt) headerCount() int {
	n := 7 + len(a.call.Service.RunnerConfig.Headers)
	for _, optional := range [...]string{a.call.Job.CorrelationID, a.call.Job.TenantID, a.call.Service.RunnerConfig.AuthType} {
		if optional != "" {
			n++
		}
	}
	return n
}

// setServiceHeaders adds runner_config.headers. Its values may hold secrets,
// so errors never show one.
func (a *attempt) setServiceHeaders() error {
	for name, value := range a.call.Service.RunnerConfig.Headers {
		canonical := http.CanonicalHeaderKey(name)
		if !isToken(name) || !isHeaderValue(value) {
			return a.config(fmt.Sprintf("runner_config.headers: %q is not a header's name, or its value holds a control character", name))
		}
		a.hideHeader(name, value)
		switch canonical {
		case "Host":
			a.host = value
			continue
		case "Accept-Encoding":
			// net/http unpacks gzip only where it asked for it itself.
			continue
		}
		a.setHeader(canonical, value)
	}
	return nil
}

// reserved are the headers that a row may not set: those that belong to the
// connection, those that say who asks, and those that the runner sets.
var reserved = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Content-Length": true, "Expect": true,
	"Host": true, "Accept-Encoding": true, "Forwarded": true, "User-Agent": true, "Idempotency-Key": true,
	"Authorization": true, "Cookie": true, "Traceparent": true, "Tracestate": true,
}

var reservedPrefixes = []string{"Proxy-", "X-Specql-", "X-Forwarded-"}

// takeRowHeaders takes input_data.headers, which only a service without
// base_url reads. Where the row asks for a header that is not its own to set,
// the attempt is refused rather than sent without it: its author expects the
// header to count.
func (a *attempt) takeRowHeaders(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var headers map[string]string
	if json.Unmarshal(raw, &headers) != nil {
		return a.config("the job's input_data.headers is not an object of strings")
	}
	config := a.call.Service.RunnerConfig
	for name, value := range headers {
		canonical := http.CanonicalHeaderKey(name)
		refused := reserved[canonical] || !isToken(name) || !isHeaderValue(value)
		for _, prefix := range reservedPrefixes {
			refused = refused || strings.HasPrefix(canonical, prefix)
		}
		for own := range config.Headers {
			refused = refused || strings.EqualFold(own, name)
		}
		refused = refused || strings.EqualFold(config.AuthType, "api_key") && strings.EqualFold(apiKeyHeader(config.AuthConfig.HeaderName), name)
		if refused {
			return &runners.PolicyError{
				Service: a.call.Service.Name, Rule: "headers",
				Offered: fmt.Sprintf("input_data.headers %s (only the registry may set it, under runner_config)", headerText(name)),
			}
		}
		a.hideHeader(name, value)
		a.setHeader(canonical, value)
	}
	return nil
}

// trace adds the W3C traceparent of the span that ctx carries, if any.
func trace(ctx context.Context, h http.Header) {
	if !oteltrace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
}

// headerText writes any text as a header can carry it: bytes outside visible
// ASCII and space are percent-encoded, which keeps different texts different
// in all but contrived cases.
func headerText(s string) string {
	clean := true
	for i := range len(s) {
		clean = clean && s[i] >= 0x20 && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 0x20 && c < 0x7f {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// isToken tells whether s is a header's name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// isHeaderValue tells whether a header can carry s (RFC 9110, section 5.5).
func isHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
