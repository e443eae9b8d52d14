package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

const maxRedirects = 10

// failure is a try that did not give the answer hoped for.
type failure struct {
	err        error
	status     int           // 0 when no whole answer came
	reached    bool          // a connection was made, so the service may have acted
	lasting    bool          // the same request cannot fare better within this attempt
	retryAfter time.Duration // what the service asked for; negative when nothing
}

// try sends the request once, follows permitted redirects, takes the answer
// into a.result and notes all of it in the attempt's log. It returns nil when
// the service succeeded.
func (a *attempt) try(ctx context.Context) *failure {
	a.tries++
	t, timed := newTiming(ctx, a.url.Scheme == "https")
	var answer *http.Response
	var f *failure
	if a.grant != nil { // by a connection to another server, which says nothing of this one
		f = a.takeToken(ctx, t)
	}
	if f == nil {
		answer, f = a.exchange(timed, t)
	}
	a.note(t, answer, f)
	return f
}

func (a *attempt) exchange(ctx context.Context, t *timing) (*http.Response, *failure) {
	request, err := a.request(ctx)
	if err != nil {
		return nil, &failure{err: a.config("the request cannot be made: " + a.secrets.mask(err.Error())), lasting: true, retryAfter: -1}
	}
	answer, at, err := a.send(request)
	peer := t.peer()
	if peer != "" {
		a.result.Security["address"] = peer
	}
	if err != nil {
		return nil, a.unanswered(ctx, err, at, peer != "")
	}
	defer answer.Body.Close()
	if answer.TLS != nil {
		a.result.Security["tls"] = strings.TrimPrefix(tls.VersionName(answer.TLS.Version), "TLS ")
	}
	return answer, a.take(ctx, answer)
}

// send sends the request and follows redirects. at is where it was when it
// failed. Only an answer that redirects needs a client, with its copies of all
// headers.
func (a *attempt) send(request *http.Request) (answer *http.Response, at *url.URL, err error) {
	at = a.url
	answer, err = a.route.RoundTrip(request)
	if err != nil || answer.StatusCode < 300 || answer.StatusCode > 399 {
		return answer, at, err
	}
	client := http.Client{
		Transport: &resumed{answer: answer, route: a.route},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			at = next.URL
			return a.redirect(next, via)
		},
	}
	answer, err = client.Do(request)
	return answer, at, err
}

// resumed is a transport whose first request has its answer already.
type resumed struct {
	answer *http.Response
	route  *route
}

// RoundTrip implements http.RoundTripper. A Location that is no URL is refused
// here: net/http would fail with all of it in the error.
func (r *resumed) RoundTrip(request *http.Request) (answer *http.Response, err error) {
	if answer, r.answer = r.answer, nil; answer == nil {
		if answer, err = r.route.RoundTrip(request); err != nil {
			return nil, err
		}
	}
	location := answer.Header.Get("Location")
	if _, err := request.URL.Parse(location); err != nil || strings.ContainsRune(location, '\\') {
		answer.Body.Close()
		return nil, r.route.policy.refuse("a redirect to what is not a URL", "")
	}
	return answer, nil
}

// request makes one try's request. The header is shared between tries:
// net/http reads it and makes a copy for each redirect.
func (a *attempt) request(ctx context.Context) (*http.Request, error) {
	var body io.Reader
	if a.body != nil {
		body = bytes.NewReader(a.body)
	}
	request, err := http.NewRequestWithContext(ctx, a.method, "", body)
	if err != nil {
		return nil, err
	}
	request.URL, request.Header, request.Host = a.url, a.header, a.host
	if a.signature != nil {
		err = a.sign(ctx, request)
	}
	return request, err
}

// redirect decides on one more hop before it is made. Once a redirect left
// the first origin, nothing private travels on, also not back.
func (a *attempt) redirect(next *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errRedirects
	}
	if err := a.route.policy.permitURL(next.URL, a.narrowed); err != nil {
		return err
	}
	next.Header.Del("Referer") // it would show one host another's query
	left := !sameOrigin(a.url, next.URL)
	for _, hop := range via {
		left = left || !sameOrigin(a.url, hop.URL)
	}
	if left {
		for _, name := range a.private {
			delete(next.Header, name)
		}
	}
	return nil
}

var errRedirects = fmt.Errorf("the service redirected %d times: check base_url and path", maxRedirects)

// sameOrigin tells whether what may be shown to one URL may be shown to the
// other: the same host, scheme and port, or its upgrade to https.
func sameOrigin(from, to *url.URL) bool {
	if !strings.EqualFold(from.Hostname(), to.Hostname()) {
		return false
	}
	a, errA := registry.PortOf(from)
	b, errB := registry.PortOf(to)
	if errA != nil || errB != nil {
		return false
	}
	return from.Scheme == to.Scheme && a == b || from.Scheme == "http" && to.Scheme == "https" && a == 80 && b == 443
}

// unanswered says why no answer came.
func (a *attempt) unanswered(ctx context.Context, err error, at *url.URL, reached bool) *failure {
	f := &failure{reached: reached, retryAfter: -1}
	var refusal *runners.PolicyError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refusal):
		f.err, f.lasting = refusal, true
	case overdue(ctx) != nil:
		f.err, f.lasting = a.ended(overdue(ctx)), true
	case errors.Is(err, errRedirects):
		f.err, f.lasting = &runners.FinalError{Err: a.describe(at, errRedirects)}, true
	default:
		f.err, f.lasting = a.describe(at, err), errors.As(err, &certificate)
	}
	return f
}

// overdue is why ctx is over: its error, or its deadline that has passed. The
// network's own timers may notice a deadline just before ctx does.
func overdue(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// ended is the error of an attempt whose context is over.
func (a *attempt) ended(cause error) error {
	what := "service " + a.call.Service.Name
	if a.url != nil {
		what = a.method + " " + a.show(a.url)
	}
	if !errors.Is(cause, context.DeadlineExceeded) {
		return &described{text: what + ": cancelled before the answer came", err: cause}
	}
	if a.timeout <= 0 {
		return &described{text: what + ": timed out", err: cause}
	}
	return &described{text: fmt.Sprintf("%s: timed out after %s", what, a.timeout), err: cause}
}

// described is an error with a text of its own: the cause's text may hold a
// whole URL or a secret.
type described struct {
	text string
	err  error
}

func (d *described) Error() string { return d.text }
func (d *described) Unwrap() error { return d.err }

// describe words an error of the connection for the operator.
func (a *attempt) describe(at *url.URL, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // u's text holds the URL whole
	}
	reason := cleanText(a.secrets.mask(err.Error()), maxExcerpt)
	var dns *net.DNSError
	if errors.As(err, &dns) {
		reason += "; check the host's name and the agent's DNS"
	}
	return &described{text: fmt.Sprintf("%s %s: %s", a.method, a.show(at), reason), err: err}
}

// take reads an answer into a.result and decides what it means.
func (a *attempt) take(ctx context.Context, answer *http.Response) *failure {
	limit := a.call.Service.SecurityPolicy.MaxResponseSize
	if limit <= 0 {
		limit = defaultMaxBytes
	}
	succeeded := answer.StatusCode >= 200 && answer.StatusCode <= 299
	body, over, err := readBody(answer, limit)
	if err != nil && (succeeded || overdue(ctx) != nil) {
		err = fmt.Errorf("the answer broke off after %d bytes: %w", len(body), err)
		return a.unanswered(ctx, err, answer.Request.URL, true)
	}
	if over || err != nil {
		// A secret cut in two would not be found, so its half goes too.
		body = body[:max(0, len(body)-a.secrets.longest())]
	}
	if over {
		size, exact := wholeSize(answer, limit)
		text := a.cutOutput(body, answer.StatusCode, size)
		if !succeeded {
			return a.refused(answer, text)
		}
		used := strconv.FormatInt(size, 10) + " bytes"
		if !exact {
			used = "more than " + used
		}
		return &failure{reached: true, lasting: true, retryAfter: -1, err: &runners.LimitError{
			Limit: "max_response_size", Used: used, Allowed: strconv.FormatInt(limit, 10) + " bytes",
		}}
	}
	output, begins := a.output(body, answer.Header.Get("Content-Type"), answer.StatusCode)
	a.result.Output = output
	if succeeded {
		return nil
	}
	return a.refused(answer, string(begins[:min(len(begins), 4*maxExcerpt)]))
}

// refused is the failure that a status other than 2xx means.
func (a *attempt) refused(answer *http.Response, body string) *failure {
	text := fmt.Sprintf("%s %s: the service answered %d", a.method, a.show(answer.Request.URL), answer.StatusCode)
	if name := http.StatusText(answer.StatusCode); name != "" {
		text += " " + name
	}
	if excerpt := cleanText(a.paths.mask(body), maxExcerpt); excerpt != "" {
		text += ": " + excerpt
	}
	f := &failure{
		err: errors.New(text), status: answer.StatusCode, reached: true,
		retryAfter: retryAfter(answer.Header.Get("Retry-After"), a.runner.opts.Now()),
	}
	switch code := answer.StatusCode; {
	case slices.Contains(a.retryStatuses(), code):
	case mayPass(code):
	default:
		f.err, f.lasting = &runners.FinalError{Err: f.err}, true
	}
	return f
}

// mayPass tells whether what a status says may be otherwise the next time.
func mayPass(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// readBody reads at most limit bytes; over tells that there were more. What was
// read is returned beside an error too.
func readBody(answer *http.Response, limit int64) (body []byte, over bool, err error) {
	if answer.Request.Method == http.MethodHead {
		return nil, false, nil // its length is the one that GET would have answered with
	}
	known := answer.ContentLength
	if known > 0 && known <= min(limit, 64<<10) {
		// net/http ends such a body where it was announced to end.
		body = make([]byte, known)
		n, err := io.ReadFull(answer.Body, body)
		return body[:n], false, err
	}
	var buf bytes.Buffer
	if known > 0 {
		// Trust an announced length for a start only: announcing is cheap.
		buf.Grow(64<<10 + bytes.MinRead)
	}
	_, err = buf.ReadFrom(io.LimitReader(answer.Body, limit+1))
	body = buf.Bytes()
	if int64(len(body)) > limit {
		return body[:limit], true, nil
	}
	return body, false, err
}

// wholeSize is the size of an answer of which limit bytes and one more were
// read: what it announced, or what it turns out to be when up to maxCounted
// more are read and thrown away. Where exact is false there is more. What comes
// packed is not read on: little of it can be very much.
func wholeSize(answer *http.Response, limit int64) (size int64, exact bool) {
	switch {
	case answer.Uncompressed:
		return limit + 1, false
	case answer.ContentLength > limit:
		return answer.ContentLength, true
	}
	more, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxCounted))
	return limit + 1 + more, err == nil && more < maxCounted
}
