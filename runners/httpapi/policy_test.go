package httpapi_test

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// canary listens on the loopback addresses and counts connections.
type canary struct {
	port  string
	count atomic.Int64
	last  chan struct{}
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{last: make(chan struct{}, 1024)}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, c.port, _ = net.SplitHostPort(listener.Addr().String())
	listeners := []net.Listener{listener}
	if six, err := net.Listen("tcp6", "[::1]:"+c.port); err == nil {
		listeners = append(listeners, six)
	}
	for _, l := range listeners {
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				c.count.Add(1)
				conn.Close()
				c.last <- struct{}{}
			}
		}()
	}
	return c
}

// untouched fails the test when anyone connected. Connections are accepted in
// order, so once one of its own was seen, none before it can be missing.
func (c *canary) untouched(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("tcp4", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case <-c.last:
	case <-time.After(10 * time.Second):
		t.Fatal("the canary is dead")
	}
	if n := c.count.Load() - 1; n != 0 {
		t.Errorf("%d connections reached the loopback listener", n)
	}
}

// badURLs name the canary, or a place as bad, in ways that have worked on
// somebody. PORT is the canary's.
var badURLs = []struct{ trick, url string }{
	{"loopback", "http://127.0.0.1:PORT/"},
	{"loopback, another of its addresses", "http://127.0.0.2:PORT/"},
	{"localhost", "http://localhost:PORT/"},
	{"localhost in capitals", "http://LOCALHOST:PORT/"},
	{"localhost with a dot at its end", "http://localhost.:PORT/"},
	{"a name below localhost", "http://sub.localhost:PORT/"},
	{"IPv6 loopback", "http://[::1]:PORT/"},
	{"IPv6 loopback written out", "http://[0:0:0:0:0:0:0:1]:PORT/"},
	{"IPv6 unspecified", "http://[::]:PORT/"},
	{"unspecified", "http://0.0.0.0:PORT/"},
	{"unspecified as one number", "http://0:PORT/"},
	{"shortened to two parts", "http://127.1:PORT/"},
	{"shortened to three parts", "http://127.0.1:PORT/"},
	{"decimal", "http://2130706433:PORT/"},
	{"hexadecimal", "http://0x7f000001:PORT/"},
	{"hexadecimal part", "http://0x7f.0.0.1:PORT/"},
	{"hexadecimal part in capitals", "http://0X7F.0.0.1:PORT/"},
	{"octal part", "http://0177.0.0.1:PORT/"},
	{"octal", "http://017700000001:PORT/"},
	{"address with a dot at its end", "http://127.0.0.1.:PORT/"},
	{"hexadecimal at its end", "http://127.0.0.0x1:PORT/"},
	{"IPv4-mapped", "http://[::ffff:127.0.0.1]:PORT/"},
	{"IPv4-mapped in hexadecimal", "http://[::ffff:7f00:1]:PORT/"},
	{"IPv4-compatible", "http://[::127.0.0.1]:PORT/"},
	{"NAT64", "http://[64:ff9b::127.0.0.1]:PORT/"},
	{"NAT64, local prefix", "http://[64:ff9b:1::7f00:1]:PORT/"},
	{"6to4", "http://[2002:7f00:1::]:PORT/"},
	{"Teredo", "http://[2001:0:7f00:1::]:PORT/"},
	{"link-local with a zone", "http://[fe80::1%25lo]:PORT/"},
	{"loopback with a zone", "http://[::1%25lo]:PORT/"},
	{"EC2 metadata over IPv6", "http://[fd00:ec2::254]:PORT/"},
	{"metadata", "http://169.254.169.254/latest/meta-data/"},
	{"metadata by name", "http://metadata.google.internal/"},
	{"Alibaba metadata", "http://100.100.100.200/"},
	{"Azure wire server", "http://168.63.129.16/"},
	{"Oracle metadata", "http://192.0.0.192/"},
	{"private 10/8", "http://10.0.0.1/"},
	{"private 172.16/12", "http://172.16.0.1/"},
	{"private 192.168/16", "http://192.168.0.1/"},
	{"multicast", "http://224.0.0.1/"},
	{"broadcast", "http://255.255.255.255/"},
	{"benchmarking range", "http://198.18.0.1/"},
	{"full-width digits", "http://１２７.0.0.1:PORT/"},
	{"ideographic dots", "http://127。0。0。1:PORT/"},
	{"circled letters", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/"},
	{"the permitted host as user name", "http://api.example.com@127.0.0.1:PORT/"},
	{"user and password", "http://user:password@api.example.com/"},
	{"backslash before @", "http://127.0.0.1:PORT\\@api.example.com/"},
	{"backslashes for slashes", "http:\\\\127.0.0.1:PORT/"},
	{"backslash in the host", "http://api.example.com\\.127.0.0.1:PORT/"},
	{"fragment before @", "http://127.0.0.1:PORT#@api.example.com/"},
	{"query before @", "http://127.0.0.1:PORT?@api.example.com/"},
	{"the permitted name as a prefix", "http://api.example.com.evil.test/"},
	{"the permitted name as a suffix", "http://evilapi.example.com/"},
	{"the permitted name in the path", "http://evil.test/api.example.com"},
	{"the parent of the permitted name", "http://example.com/"},
	{"port 0", "http://api.example.com:0/"},
	{"a port that there is not", "http://api.example.com:99999/"},
	{"an empty label", "http://api..example.com/"},
	{"NUL in the host", "http://api.example.com%00.evil.test/"},
	{"an escaped slash before @", "http://api.example.com%2f@127.0.0.1:PORT/"},
	{"no slashes", "http:127.0.0.1:PORT/"},
	{"no host", "http:///127.0.0.1:PORT/"},
	{"no scheme", "//127.0.0.1:PORT/"},
	{"a path alone", "/relative"},
	{"host and port alone", "127.0.0.1:PORT"},
	{"ftp", "ftp://api.example.com/"},
	{"file", "file:///etc/passwd"},
	{"gopher", "gopher://127.0.0.1:PORT/_x"},
	{"a socket", "unix:///var/run/docker.sock"},
	{"javascript", "javascript:alert(1)"},
	{"a blank first", " http://127.0.0.1:PORT/"},
	{"a header in the URL", "http://127.0.0.1:PORT/\r\nHost: api.example.com"},
	{"punycode look-alike (Cyrillic а)", "http://xn--pi-6kc.example.com/"},
	{"look-alike letters", "http://аpi.example.com/"},
	{"site-local", "http://[fec0::1]:PORT/"},
	{"IPv6 multicast", "http://[ff02::1]:PORT/"},
	{"carrier-grade NAT", "http://100.64.0.1/"},
	{"documentation range", "http://192.0.2.1/"},
	{"soft hyphen", "http://local\u00adhost:PORT/"},
	{"tab in the host", "http://127.0.0.1\t:PORT/"},
}

func TestNoRowReachesAnAddressThatTheRegistryDidNotPermit(t *testing.T) {
	c := newCanary(t)
	r := newRunner(t, httpapi.Options{})
	for _, bad := range badURLs {
		url := strings.ReplaceAll(bad.url, "PORT", c.port)
		input, _ := json.Marshal(map[string]any{"endpoint": url, "payload": map[string]any{"a": 1}})
		t.Run(bad.trick, func(t *testing.T) {
			policy := refusal(t, r, rowCall(string(input), "api.example.com"))
			if strings.Contains(policy.Error(), "password@") {
				t.Errorf("%s: the refusal shows the URL's password: %v", bad.url, policy)
			}
		})
	}
	c.untouched(t)
}

func TestNoRedirectReachesAnAddressThatTheRegistryDidNotPermit(t *testing.T) {
	c := newCanary(t)
	var target atomic.Value
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Location"] = []string{target.Load().(string)}
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	r := newRunner(t, httpapi.Options{})
	for _, bad := range badURLs {
		url := strings.ReplaceAll(bad.url, "PORT", c.port)
		if strings.HasPrefix(url, "/relative") || strings.ContainsAny(url, "\r\n") {
			continue // a path on the permitted host; not a header at all
		}
		target.Store(url)
		call := newCall(server.URL, `{}`)
		// Exactly the server, not its host's other ports.
		call.Service.SecurityPolicy.AllowedDomains = []string{server.Listener.Addr().String()}
		policy := refusal(t, r, call)
		if policy.Rule != "allowed_domains" || policy.Offered == "" {
			t.Errorf("%s: %v", bad.trick, policy)
		}
		for _, private := range []string{"password@", "latest/meta-data"} {
			if strings.Contains(policy.Error(), private) {
				t.Errorf("%s: the refusal shows more of the URL than where it leads: %v", bad.trick, policy)
			}
		}
	}
	c.untouched(t)
}

// resolving makes a Resolver to which every name means addr.
func resolving(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answerDNS(server, netip.MustParseAddr(addr))
		return client, nil
	}}
}

// answerDNS answers the queries of one connection (RFC 1035, section 4, with
// TCP's length prefix): net.Resolver speaks TCP to what is no packet
// connection.
func answerDNS(conn net.Conn, addr netip.Addr) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		end := 12 // of the question: labels, a zero, type and class
		for query[end] != 0 {
			end += int(query[end]) + 1
		}
		end += 5
		kind := binary.BigEndian.Uint16(query[end-4:])
		reply := append([]byte{}, query[:end]...)
		copy(reply[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
		if kind == 1 && addr.Is4() || kind == 28 && addr.Is6() {
			reply[7] = 1
			reply = append(reply, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(addr.BitLen()/8))
			reply = append(reply, addr.AsSlice()...)
		}
		binary.BigEndian.PutUint16(length[:], uint16(len(reply)))
		if _, err := conn.Write(append(length[:], reply...)); err != nil {
			return
		}
	}
}

func TestAPermittedNameDoesNotLeadToASpecialPurposeAddress(t *testing.T) {
	c := newCanary(t)
	for _, addr := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.31.255.255", "192.168.1.1", "100.64.0.1",
		"100.100.100.200", "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "192.0.2.1",
		"192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fec0::1", "fd00:ec2::254", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
		"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "2001::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
	} {
		t.Run(addr, func(t *testing.T) {
			r := newRunner(t, httpapi.Options{Resolver: resolving(addr)})
			call := newCall("http://api.example.com:"+c.port, `{}`)
			// What localhost or a listed address may be, a name may not.
			call.Service.SecurityPolicy.AllowedDomains = []string{"api.example.com", "localhost", "127.0.0.1", "::1"}
			call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
			policy := refusal(t, r, call)
			if policy.Rule != "allowed_networks" || !strings.Contains(policy.Offered, "api.example.com") {
				t.Errorf("refusal = %+v, want one of allowed_networks that names the host", policy)
			}
		})
	}
	c.untouched(t)
}

// TestANameThatChangesBetweenLookupAndConnectIsCheckedWhereItLeads: each look-up
// of the name gives another address, and what is dialled is what was checked.
func TestANameThatChangesBetweenLookupAndConnectIsCheckedWhereItLeads(t *testing.T) {
	c := newCanary(t)
	var lookups atomic.Int64
	r := newRunner(t, httpapi.Options{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		addr := "127.0.0.1"
		if lookups.Add(1) <= 2 { // A and AAAA of the first look-up
			addr = "240.0.0.1" // nobody is there, and the policy refuses it too
		}
		go answerDNS(server, netip.MustParseAddr(addr))
		return client, nil
	}}})
	call := newCall("http://api.example.com:"+c.port, `{}`)
	call.Operation.Method = "GET"
	call.Service.SecurityPolicy.AllowedNetworks = []string{"240.0.0.0/8"} // the first answer is granted
	call.Service.RunnerConfig.RetryConfig.MaxRetries = 3
	var err error
	for range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err = r.Run(ctx, call)
		cancel()
	}
	if rule, offered, ok := runners.Violation(err); !ok || rule != "allowed_networks" || !strings.Contains(offered, "127.0.0.1") {
		t.Errorf("after %d look-ups: %v", lookups.Load(), err)
	}
	c.untouched(t)
}

func TestAllowedNetworksCoverWhatANameResolvesTo(t *testing.T) {
	server, requests := record(t)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	r := newRunner(t, httpapi.Options{Resolver: resolving("127.0.0.1")})
	call := newCall("http://api.example.com:"+port, `{}`)
	call.Service.SecurityPolicy.AllowedNetworks = []string{"127.0.0.0/8"}
	mustRun(t, r, call)
	if got := <-requests; got.Host != "api.example.com:"+port {
		t.Errorf("Host = %q", got.Host)
	}

	call.Service.SecurityPolicy.AllowedNetworks = []string{"10.0.0.0/8", "::/0"}
	if policy := refusal(t, r, call); policy.Permit != `allowed_networks: ["127.0.0.1/32"]` {
		t.Errorf("Permit = %q", policy.Permit)
	}
	call.Service.SecurityPolicy.AllowedNetworks = []string{"10.0.0.0"}
	configFault(t, r, call, `"10.0.0.0" is not a network`)
}

// TestARowSendsCredentialsUnencryptedOnlyWhereNobodyElseListens: a service without
// base_url leaves the scheme and the port to the row, and its secrets are the
// registry's.
func TestARowSendsCredentialsUnencryptedOnlyWhereNobodyElseListens(t *testing.T) {
	private := newAuthority(t)
	roots := x509.NewCertPool()
	roots.AddCert(private.cert)
	plain, requests := record(t)
	secure := serveTLS(t, private, nil, false, ok)
	const public = "93.184.215.14"
	_, port, _ := net.SplitHostPort(plain.Listener.Addr().String())
	bearer := func(s *registry.Service) {
		s.RunnerConfig.AuthType, s.RunnerConfig.AuthConfig.TokenEnvVar = "bearer", "TOKEN"
	}
	for _, c := range []struct {
		name, endpoint, resolves string
		networks                 []string
		change                   func(*registry.Service)
		refused                  string // in the refusal; empty: it is sent
	}{
		{"https", secure.URL, "", nil, bearer, ""},
		{"loopback", plain.URL, "", nil, bearer, ""},
		{"localhost", "http://localhost:" + port, "127.0.0.1", nil, bearer, ""},
		{"a name in allowed_networks", "http://api.example.com:" + port, "127.0.0.1", []string{"127.0.0.0/8"}, bearer, ""},
		{"a name", "http://api.example.com/", public, nil, bearer, "http://api.example.com (a service with credentials"},
		{"another port", "http://api.example.com:8443/", public, nil, bearer, "http://api.example.com:8443 (a service"},
		{"a name beside allowed_networks", "http://api.example.com/", public, []string{"10.0.0.0/8"}, bearer, "http://api.example.com, which is " + public + " (a service"},
		{"a private address", "http://10.1.2.3/", "", nil, bearer, "http://10.1.2.3 (a service"},
		{"a public address", "http://" + public, "", []string{"10.0.0.0/8"}, bearer, "http://" + public + " (a service"},
		{"through a proxy", "http://api.example.com/", "127.0.0.1", []string{"127.0.0.0/8"}, func(s *registry.Service) {
			bearer(s)
			s.RunnerConfig.Proxy = plain.URL
		}, "http://api.example.com (a service"},
		{"a key in a header", "http://api.example.com/", public, nil, func(s *registry.Service) {
			s.RunnerConfig.Headers = map[string]string{"X-Api-Key": "k-12345678"}
		}, "http://api.example.com (a service"},
		{"a variable in a header", "http://api.example.com/", public, nil, func(s *registry.Service) {
			s.RunnerConfig.Headers, s.Hidden = map[string]string{"X-Scope": "sc-12345678"}, []registry.Hidden{{Text: "sc-12345678"}}
		}, "http://api.example.com (a service"},
		{"no credentials", "http://api.example.com:" + port, "127.0.0.1", []string{"127.0.0.0/8"}, func(s *registry.Service) {
			s.RunnerConfig.Headers = map[string]string{"X-Mode": "live"}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := httpapi.Options{RootCAs: roots, LookupEnv: env(map[string]string{"TOKEN": "sk_live_12345678"})}
			if c.resolves != "" {
				opts.Resolver = resolving(c.resolves)
			}
			call := rowCall(`{"endpoint": "`+c.endpoint+`"}`, "api.example.com", "localhost", "127.0.0.1", "10.1.2.3", public)
			call.Service.SecurityPolicy.AllowedNetworks = c.networks
			c.change(call.Service)
			r := newRunner(t, opts)
			if c.refused == "" {
				mustRun(t, r, call)
				return
			}
			if policy := refusal(t, r, call); !strings.HasPrefix(policy.Offered, c.refused) || policy.Permit != "" {
				t.Errorf("refusal = %+v, want %q", policy, c.refused)
			}
		})
	}
	if n := len(requests); n != 4 {
		t.Errorf("%d requests went unencrypted, want the four that may", n)
	}
	// The registry's own word: base_url says http.
	call := newCall("http://api.example.com:"+port, `{}`)
	call.Service.SecurityPolicy.AllowedNetworks = []string{"127.0.0.0/8"}
	bearer(call.Service)
	mustRun(t, newRunner(t, httpapi.Options{Resolver: resolving("127.0.0.1"), LookupEnv: env(map[string]string{"TOKEN": "sk_live_12345678"})}), call)
}

// TestAConnectionMadeWithoutCredentialsIsNotUsedForThem: the registry gives the
// service a token while a connection is kept.
func TestAConnectionMadeWithoutCredentialsIsNotUsedForThem(t *testing.T) {
	server, requests := record(t)
	r := newRunner(t, httpapi.Options{Resolver: resolving("127.0.0.1"), LookupEnv: env(map[string]string{"TOKEN": "sk_live_12345678"})})
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	call := rowCall(`{"endpoint": "http://api.example.com:`+port+`"}`, "api.example.com")
	call.Service.SecurityPolicy.AllowedNetworks = []string{"127.0.0.0/8"}
	mustRun(t, r, call)
	first := (<-requests).RemoteAddr
	other := *call.Service
	other.RunnerConfig.AuthType, other.RunnerConfig.AuthConfig.TokenEnvVar = "bearer", "TOKEN"
	call.Service = &other
	mustRun(t, r, call)
	if second := (<-requests).RemoteAddr; second == first {
		t.Error("the credentials went over a connection that was dialled for anything")
	}
}

func TestAListedAddressOrLocalhostIsPermitted(t *testing.T) {
	server, _ := record(t)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, permitted := range []struct{ host, entry string }{
		{"127.0.0.1", "127.0.0.1"},
		{"127.0.0.1", "127.0.0.1:" + port},
		{"127.0.0.1", "localhost"},
		{"localhost", "localhost"},
		{"LocalHost", "localhost:" + port},
		{"localhost", "LOCALHOST"},
	} {
		r := newRunner(t, httpapi.Options{})
		input := fmt.Sprintf(`{"endpoint": "http://%s:%s/hook"}`, permitted.host, port)
		if _, err := r.Run(t.Context(), rowCall(input, permitted.entry)); err != nil {
			t.Errorf("%s with %s: %v", permitted.host, permitted.entry, err)
		}
		mustRun(t, r, newCall(fmt.Sprintf("http://%s:%s", permitted.host, port), `{}`)) // base_url's own host
	}
	for _, refused := range []string{"127.0.0.1:1", "localhost:1", "127.0.0.2", "*.localhost", "*.0.0.1"} {
		r := newRunner(t, httpapi.Options{})
		_, err := r.Run(t.Context(), rowCall(fmt.Sprintf(`{"endpoint": "http://127.0.0.1:%s/"}`, port), refused))
		if err == nil || runners.Retryable(err) {
			t.Errorf("with %s: %v", refused, err)
		}
	}
}

func TestARefusalGivesTheLineThatWouldPermitTheHost(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	policy := refusal(t, r, rowCall(`{"endpoint": "https://api.paypal.com/v1"}`, "api.stripe.com", "*.stripe.dev"))
	if want := `allowed_domains: ["api.stripe.com", "*.stripe.dev", "api.paypal.com"]`; policy.Permit != want {
		t.Errorf("Permit = %s, want %s", policy.Permit, want)
	}
	policy = refusal(t, r, rowCall(`{"endpoint": "http://169.254.169.254/"}`, "api.stripe.com"))
	if policy.Permit != "" {
		t.Errorf("the metadata service is recommended: %s", policy.Permit)
	}
}

func TestWithoutBaseURLAndAllowedDomainsNothingIsPermitted(t *testing.T) {
	c := newCanary(t)
	r := newRunner(t, httpapi.Options{})
	refusal(t, r, rowCall(`{"endpoint": "http://127.0.0.1:`+c.port+`/"}`))
	refusal(t, r, rowCall(`{"endpoint": "https://example.com/"}`))
	c.untouched(t)
}

func TestARowNarrowsThePolicyAndNeverWidensIt(t *testing.T) {
	server, requests := record(t)
	c := newCanary(t)
	r := newRunner(t, httpapi.Options{})
	call := newCall(server.URL, `{}`)
	call.Service.SecurityPolicy.AllowedDomains = []string{server.Listener.Addr().String(), "api.example.com"}

	call.Job.SecurityContext = json.RawMessage(`{"allowed_domains": ["api.example.com"]}`)
	if policy := refusal(t, r, call); policy.Permit != "" {
		t.Errorf("a line of the registry cannot undo the row's own narrowing: %s", policy.Permit)
	}
	call.Job.SecurityContext = json.RawMessage(`{"allowed_domains": []}`)
	refusal(t, r, call)
	call.Job.SecurityContext = json.RawMessage(`{"allowed_domains": [7]}`)
	configFault(t, r, call, "security_context")

	call.Job.SecurityContext = json.RawMessage(`{"allowed_domains": ["127.0.0.1"], "allowed_networks": ["0.0.0.0/0"]}`)
	call.Job.RunnerConfig = json.RawMessage(`{"base_url": "http://127.0.0.1:` + c.port + `", "auth_type": "bearer",
		"headers": {"X-Evil": "1"}, "timeout": 3600, "max_request_size": 99}`)
	result := mustRun(t, r, call)
	if got := (<-requests).Header; got.Get("X-Evil") != "" || got.Get("Authorization") != "" {
		t.Errorf("the row set headers: %v", got)
	}
	recorded, _ := json.Marshal(result.Security["policy"])
	sameJSON(t, recorded, fmt.Sprintf(`{"allowed_domains": [%q, "api.example.com"], "narrowed_to": ["127.0.0.1"]}`, server.Listener.Addr()))

	input, _ := json.Marshal(map[string]string{"endpoint": "http://127.0.0.1:" + c.port})
	row := rowCall(string(input), "api.example.com")
	row.Job.SecurityContext = json.RawMessage(`{"allowed_domains": ["127.0.0.1"]}`)
	refusal(t, r, row)
	c.untouched(t)
}

func TestAMeaninglessDomainIsAConfigurationFault(t *testing.T) {
	r := newRunner(t, httpapi.Options{})
	for _, entry := range []string{"", "*", "*.", "https://api.example.com", "api.example.com/v1", "a b", "*.10.0.0.1", "a.*.com", "host:port", "host:0", "host:70000", "0x7f.1", "127.1", "bücher.example", "::ffff:10.0.0.1", "[::1", "fe80::1%lo"} {
		_, err := r.Run(t.Context(), rowCall(`{"endpoint": "https://api.example.com/"}`, "api.example.com", entry))
		if err == nil || runners.Retryable(err) {
			t.Errorf("%q: %v", entry, err)
			continue
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", entry)) {
			t.Errorf("%q is not named: %v", entry, err)
		}
	}
}

func TestWhatHeldIsRecorded(t *testing.T) {
	server, _ := record(t)
	result := mustRun(t, newRunner(t, httpapi.Options{}), newCall(server.URL, `{}`))
	recorded, _ := json.Marshal(result.Security)
	sameJSON(t, recorded, fmt.Sprintf(`{"policy": {"allowed_domains": ["127.0.0.1"]}, "address": %q}`, server.Listener.Addr()))
}
