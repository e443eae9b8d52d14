package httpapi

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

const (
	// idlePerHost keeps a connection for each of as many concurrent jobs as
	// one agent is made for, so that a burst is not a storm of handshakes.
	idlePerHost = 2048
	idleTimeout = 90 * time.Second
	dialTimeout = 10 * time.Second // of one connection, handshake not counted
	tlsTimeout  = 10 * time.Second
	// maxHeaderBytes bounds an answer's headers; its body has a limit of its
	// own.
	maxHeaderBytes = 1 << 20
)

// route is what a service's requests share: where they go, what is permitted,
// and the connections.
type route struct {
	base      *url.URL // nil: the row gives the endpoint
	policy    *policy
	refused   error           // why base is not permitted; nil: it is
	allowed   map[string]any  // Result.Security's policy; read-only
	recorded  json.RawMessage // allowed, as every attempt records it
	transport *http.Transport
	clear     *http.Transport // for http URLs of rows, where the service has credentials; nil: transport is
	token     *http.Transport // to auth_config.token_url; nil without one
}

// RoundTrip implements http.RoundTripper.
func (r *route) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.clear != nil && request.URL.Scheme == "http" {
		return r.clear.RoundTrip(request)
	}
	return r.transport.RoundTrip(request)
}

// closeIdle closes the connections that nobody uses.
func (r *route) closeIdle() {
	r.transport.CloseIdleConnections()
	if r.clear != nil {
		r.clear.CloseIdleConnections()
	}
	if r.token != nil {
		r.token.CloseIdleConnections()
	}
}

// routes keeps one route per service identity: its name, base_url, policy,
// proxy and certificates. The identity is made of values, so a reload of the registry that
// leaves them alone keeps the connections too.
type routes struct {
	opts Options

	mu    sync.Mutex
	byKey map[string]*list.Element // of *kept
	order *list.List               // most recently used first
}

type kept struct {
	key   string
	route *route
}

func newRoutes(opts Options) *routes {
	return &routes{opts: opts, byKey: make(map[string]*list.Element), order: list.New()}
}

// of returns the service's route, and makes it at first use. The error is a
// *runners.ConfigError.
func (rs *routes) of(s *registry.Service) (*route, error) {
	var buf [256]byte // on the stack: looking a route up allocates nothing
	key := appendKey(buf[:0], s)

	rs.mu.Lock()
	defer rs.mu.Unlock()
	if e, ok := rs.byKey[string(key)]; ok {
		rs.order.MoveToFront(e)
		return e.Value.(*kept).route, nil
	}
	made, err := rs.make(s)
	if err != nil {
		return nil, err
	}
	if rs.order.Len() >= rs.opts.MaxRoutes {
		oldest := rs.order.Back()
		gone := rs.order.Remove(oldest).(*kept)
		delete(rs.byKey, gone.key)
		// Requests in flight go on; their connections end by idleTimeout.
		gone.route.closeIdle()
	}
	k := &kept{key: string(key), route: made}
	rs.byKey[k.key] = rs.order.PushFront(k)
	return made, nil
}

// appendKey writes the service's identity. NUL cannot stand in YAML text, so
// it keeps the parts apart.
func appendKey(b []byte, s *registry.Service) []byte {
	b = append(append(b, s.Name...), 0)
	b = append(append(b, s.RunnerConfig.BaseURL...), 0)
	if guardsClear(s) {
		b = append(b, 0)
	}
	for _, d := range s.SecurityPolicy.AllowedDomains {
		b = append(append(b, d...), 0)
	}
	b = append(b, 0)
	for _, n := range s.SecurityPolicy.AllowedNetworks {
		b = append(append(b, n...), 0)
	}
	rc := &s.RunnerConfig
	b = append(append(b, 0), rc.Proxy...)
	b = append(append(b, 0), rc.AuthConfig.TokenURL...)
	if rc.TLS != (registry.TLSConfig{}) {
		b = appendFiles(append(b, 0), rc.TLS)
	}
	return b
}

// guardsClear tells whether the service has credentials and leaves it to the row
// whether they go by https: the registry names no scheme.
func guardsClear(s *registry.Service) bool {
	if s.RunnerConfig.BaseURL != "" {
		return false
	}
	if auth := s.RunnerConfig.AuthType; auth != "" && !strings.EqualFold(auth, "none") || len(s.Hidden) > 0 {
		return true
	}
	for name := range s.RunnerConfig.Headers {
		if isCredential(name) {
			return true
		}
	}
	return false
}

func (rs *routes) make(s *registry.Service) (*route, error) {
	r := &route{}
	if raw := s.RunnerConfig.BaseURL; raw != "" {
		base, err := parseEndpoint(raw)
		if err != nil {
			return nil, &runners.ConfigError{Service: s.Name, Problem: "runner_config.base_url " + err.Error()}
		}
		r.base = base
	}
	p, err := newPolicy(s, r.base)
	if err != nil {
		return nil, err
	}
	r.policy = p
	if r.base != nil {
		r.refused = p.permitURL(r.base, nil)
	}
	r.allowed = map[string]any{"allowed_domains": p.domains.Sources()}
	if len(p.networks) > 0 {
		r.allowed["allowed_networks"] = s.SecurityPolicy.AllowedNetworks
	}
	via, proxy, err := rs.proxy(s)
	if err != nil {
		return nil, err
	}
	security, err := newTLS(s.RunnerConfig.TLS, rs.opts)
	if err != nil {
		return nil, &runners.ConfigError{Service: s.Name, Problem: err.Error()}
	}
	if proxy != nil {
		p = via // the policy of what is dialled; where names lead, the proxy decides
		r.allowed["proxy"] = proxy.Host
	}
	r.transport = newTransport(p, proxy, security, rs.opts)
	if guardsClear(s) {
		r.policy.guarded, r.policy.proxied = true, proxy != nil
		r.clear = newTransport(p.forClear(), proxy, security.Clone(), rs.opts)
	}
	if raw := s.RunnerConfig.AuthConfig.TokenURL; raw != "" && strings.EqualFold(s.RunnerConfig.AuthType, "oauth2") {
		at, err := granted(s, "runner_config.auth_config.token_url", raw)
		if err != nil {
			return nil, err
		}
		if proxy != nil {
			at = via
		}
		r.token = newTransport(at, proxy, security.Clone(), rs.opts)
	}
	r.recorded, err = json.Marshal(r.allowed)
	return r, err
}

// proxy is the one that the registry names, and the policy for dialling it;
// nil without one.
func (rs *routes) proxy(s *registry.Service) (*policy, *url.URL, error) {
	raw := s.RunnerConfig.Proxy
	if raw == "" {
		return nil, nil, nil
	}
	p, err := granted(s, "runner_config.proxy", raw)
	if err != nil {
		return nil, nil, err
	}
	u, err := url.Parse(raw)
	return p, u, err
}

// granted is the policy for a URL besides base_url that the registry itself
// names: its host, at public addresses or those of allowed_networks.
func granted(s *registry.Service, field, raw string) (*policy, error) {
	u, err := parseEndpoint(raw)
	if err != nil {
		return nil, &runners.ConfigError{Service: s.Name, Problem: field + " " + err.Error()}
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, &runners.ConfigError{Service: s.Name, Problem: field + " is not an http or https URL without user and password"}
	}
	alone := *s
	alone.SecurityPolicy.AllowedDomains = nil
	return newPolicy(&alone, u)
}

// newTransport makes connections. Each is dialled under the policy p, so that
// reusing one can never reach what it refuses. proxy is the registry's, or nil:
// the environment's is never used.
func newTransport(p *policy, proxy *url.URL, security *tls.Config, opts Options) *http.Transport {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		dialer := net.Dialer{
			Timeout:   dialTimeout,
			KeepAlive: 30 * time.Second,
			Resolver:  opts.Resolver,
			Control:   p.control(host),
		}
		conn, err := dialer.DialContext(dialing(ctx), network, address)
		if err != nil {
			return nil, err
		}
		return &dialed{conn, conn.RemoteAddr().String()}, nil
	}
	t := &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        security,
		TLSHandshakeTimeout:    tlsTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           0, // bounded per host
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
	}
	return t
}

// close ends idle connections and forgets the routes.
func (rs *routes) close() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for e := rs.order.Front(); e != nil; e = e.Next() {
		e.Value.(*kept).route.closeIdle()
	}
	rs.order.Init()
	clear(rs.byKey)
}
