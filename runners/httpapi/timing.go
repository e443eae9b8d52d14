package httpapi

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"
)

// timing is the context of one try, and what happened in it when. net/http
// does not promise which goroutine calls a hook, and one may come late: a dial
// goes on for the next request where this one got another connection.
type timing struct {
	context.Context
	hooks httptrace.ClientTrace
	began time.Time

	mu                      sync.Mutex
	address                 string
	reused                  bool
	dnsBegan, connectBegan  time.Time
	tlsBegan, got           time.Time
	dns, connect, handshake time.Duration // 0: there was none
	firstByte               time.Duration // since the connection was got; 0: none came
	token                   time.Duration // asking for an access token, before all that; 0: none was asked for

	// What came of the try, set once by note.
	number int
	method string
	took   time.Duration
	answer *http.Response // nil: none came
	err    error          // nil: the service succeeded

	secrets, paths secrets // as they were then
}

// timingKey leads the dialer from a request's context to its timing.
type timingKey struct{}

func newTiming(ctx context.Context, secure bool) (*timing, context.Context) {
	t := &timing{Context: ctx, began: time.Now()}
	t.hooks.GotConn = t.gotConn
	t.hooks.GotFirstResponseByte = t.gotFirstByte
	if secure {
		t.hooks.TLSHandshakeStart = t.startTLS
		t.hooks.TLSHandshakeDone = t.endTLS
	}
	return t, httptrace.WithClientTrace(t, &t.hooks)
}

// Value implements context.Context.
func (t *timing) Value(key any) any {
	if key == (timingKey{}) {
		return t
	}
	return t.Context.Value(key)
}

// dialing is the context for a dial on behalf of a request. Its hooks are for
// new connections alone: most requests make none, and need not pay for them.
func dialing(ctx context.Context) context.Context {
	t, ok := ctx.Value(timingKey{}).(*timing)
	if !ok {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { t.begin(&t.dnsBegan) },
		DNSDone:      func(httptrace.DNSDoneInfo) { t.end(&t.dns, &t.dnsBegan) },
		ConnectStart: func(string, string) { t.begin(&t.connectBegan) },
		ConnectDone:  func(string, string, error) { t.end(&t.connect, &t.connectBegan) },
	})
}

func (t *timing) begin(at *time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*at = time.Now()
}

func (t *timing) end(took *time.Duration, began *time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*took = time.Since(*began)
}

func (t *timing) startTLS()                         { t.begin(&t.tlsBegan) }
func (t *timing) endTLS(tls.ConnectionState, error) { t.end(&t.handshake, &t.tlsBegan) }
func (t *timing) gotFirstByte()                     { t.end(&t.firstByte, &t.got) }

func (t *timing) gotConn(info httptrace.GotConnInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.address, t.reused, t.got, t.firstByte = addressOf(info.Conn), info.Reused, time.Now(), 0
}

// dialed is a connection that knows its address as text: it is asked for in
// every request.
type dialed struct {
	net.Conn
	address string
}

func addressOf(conn net.Conn) string {
	under := conn
	if secure, ok := conn.(*tls.Conn); ok {
		under = secure.NetConn()
	}
	if d, ok := under.(*dialed); ok {
		return d.address
	}
	return conn.RemoteAddr().String()
}

// peer is the address that the try was connected to; empty: none.
func (t *timing) peer() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.address
}

// note leaves the try to the attempt's log: what came of it, how long it took,
// and where that time went.
func (a *attempt) note(t *timing, answer *http.Response, f *failure) {
	if a.call.Log == nil {
		return
	}
	t.number, t.method, t.answer, t.took = a.tries, a.method, answer, time.Since(t.began)
	t.secrets, t.paths = a.secrets, a.paths
	if f != nil {
		t.err = f.err
	}
	a.call.Log.NoteLater((*line)(t))
}

// line is a try as the attempt's log shows it.
type line timing

// String implements fmt.Stringer.
func (t *line) String() string {
	b := append(make([]byte, 0, 192), "try "...)
	b = strconv.AppendInt(b, int64(t.number), 10)
	switch {
	case t.err == nil:
		b = append(append(append(b, ": "...), t.method...), ' ')
		b = append(append(append(b, shown(t.answer.Request.URL, t.secrets, t.paths)...), ": "...), t.answer.Status...)
	default:
		b = append(append(b, " failed: "...), t.err.Error()...)
	}
	b = append(appendDuration(append(b, "; took "...), t.took), " ("...)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.reused:
		b = append(append(b, "connection kept to "...), t.address...)
	case t.address != "":
		b = append(append(b, "new connection to "...), t.address...)
	default:
		b = append(b, "no connection"...)
	}
	for _, phase := range [...]struct {
		name string
		took time.Duration
	}{{"token", t.token}, {"DNS", t.dns}, {"connect", t.connect}, {"TLS", t.handshake}, {"first byte", t.firstByte}} {
		if phase.took > 0 {
			b = appendDuration(append(append(append(b, ", "...), phase.name...), ' '), phase.took)
		}
	}
	if t.answer != nil && t.answer.ProtoMajor != 1 {
		b = append(append(b, ", "...), t.answer.Proto...)
	}
	return string(append(b, ')'))
}

// appendDuration writes a duration in milliseconds, to the microsecond.
func appendDuration(b []byte, d time.Duration) []byte {
	us := d.Microseconds()
	b = append(strconv.AppendInt(b, us/1000, 10), '.')
	return append(b, byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10), ' ', 'm', 's')
}
