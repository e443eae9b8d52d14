package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners/httpapi"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// issue makes a certificate for name and 127.0.0.1, in PEM form.
func (a *authority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", secret)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// serveTLS starts a server with a certificate of a. Its own clients need one of
// clients, where that is given.
func serveTLS(t *testing.T, a, clients *authority, http2 bool, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	certPEM, keyPEM := a.issue(t, "service")
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = discard
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		server.TLS.ClientCAs.AddCert(clients.cert)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func save(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPrivateAuthorityAndAClientCertificateAreUsed(t *testing.T) {
	private, others := newAuthority(t), newAuthority(t)
	var who atomic.Value
	server := serveTLS(t, private, private, false, func(w http.ResponseWriter, r *http.Request) {
		who.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		io.WriteString(w, `{}`)
	})
	dir := t.TempDir()
	certPEM, keyPEM := private.issue(t, "agent-1")
	foreignCert, foreignKey := others.issue(t, "agent-1")
	files := registry.TLSConfig{
		CAFile:   save(t, filepath.Join(dir, "ca.pem"), pemOf("CERTIFICATE", private.cert.Raw)),
		CertFile: save(t, filepath.Join(dir, "client.pem"), certPEM),
		KeyFile:  save(t, filepath.Join(dir, "client.key"), keyPEM),
	}
	r := newRunner(t, httpapi.Options{})
	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.TLS = files
	mustRun(t, r, call)
	if who.Load() != "agent-1" {
		t.Errorf("the service saw %v", who.Load())
	}

	// A renewed certificate counts from the next attempt on.
	certPEM, keyPEM = private.issue(t, "agent-1 renewed")
	save(t, files.CertFile, append(certPEM, '\n')) // another size: file times may be coarse
	save(t, files.KeyFile, keyPEM)
	mustRun(t, r, call)
	if who.Load() != "agent-1 renewed" {
		t.Errorf("after its renewal the service saw %v", who.Load())
	}

	for name, c := range map[string]struct {
		change func(*registry.TLSConfig)
		words  string
	}{
		"no client certificate": {func(f *registry.TLSConfig) { f.CertFile, f.KeyFile = "", "" }, "certificate required"},
		"a foreign client certificate": {func(f *registry.TLSConfig) {
			f.CertFile, f.KeyFile = save(t, filepath.Join(dir, "foreign.pem"), foreignCert), save(t, filepath.Join(dir, "foreign.key"), foreignKey)
		}, "certificate"},
		"the host's authorities": {func(f *registry.TLSConfig) { f.CAFile = "" }, "unknown authority"},
		"a foreign authority": {func(f *registry.TLSConfig) {
			f.CAFile = save(t, filepath.Join(dir, "other.pem"), pemOf("CERTIFICATE", others.cert.Raw))
		}, "unknown authority"},
	} {
		call := newCall(server.URL, `{}`)
		call.Service.RunnerConfig.TLS = files
		c.change(&call.Service.RunnerConfig.TLS)
		if _, err := r.Run(t.Context(), call); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for words, f := range map[string]registry.TLSConfig{
		"ca_file cannot be read":           {CAFile: filepath.Join(dir, "none.pem")},
		"no certificate in PEM form":       {CAFile: files.KeyFile},
		"both cert_file and key_file":      {CertFile: files.CertFile},
		"make no client certificate":       {CertFile: files.CertFile, KeyFile: filepath.Join(dir, "foreign.key")},
		"key_file make no client certific": {CertFile: files.CertFile, KeyFile: filepath.Join(dir, "none.key")},
	} {
		call := newCall(server.URL, `{}`)
		call.Service.RunnerConfig.TLS = f
		configFault(t, r, call, words)
	}
}

func TestHTTP2IsSpokenWhereTheServiceDoes(t *testing.T) {
	private := newAuthority(t)
	var connections sync.Map
	server := serveTLS(t, private, nil, true, func(w http.ResponseWriter, r *http.Request) {
		connections.Store(r.RemoteAddr, r.Proto)
		io.WriteString(w, `{"protocol": "`+r.Proto+`"}`)
	})
	roots := x509.NewCertPool()
	roots.AddCert(private.cert)
	r := newRunner(t, httpapi.Options{RootCAs: roots})
	sameJSON(t, mustRun(t, r, newCall(server.URL, `{}`)).Output, `{"protocol": "HTTP/2.0"}`)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := r.Run(t.Context(), newCall(server.URL, `{}`)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("21 requests took %d connections, want one that they share", n)
	}
}

// forwardProxy is a proxy as most are: it takes whole URLs, and CONNECT.
type forwardProxy struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newForwardProxy(t *testing.T) *forwardProxy {
	p := &forwardProxy{}
	p.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r.Method+" "+r.RequestURI)
		p.mu.Unlock()
		if r.Method != http.MethodConnect {
			io.WriteString(w, `{"through": "proxy"}`)
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer near.Close()
		io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(far, near); far.Close() }()
		io.Copy(near, far)
	})
	return p
}

func TestAProxyIsUsedOnlyWhereTheRegistryNamesOne(t *testing.T) {
	proxy := newForwardProxy(t)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	private := newAuthority(t)
	server := serveTLS(t, private, nil, false, ok)
	roots := x509.NewCertPool()
	roots.AddCert(private.cert)
	r := newRunner(t, httpapi.Options{RootCAs: roots})
	mustRun(t, r, newCall(server.URL, `{}`))
	if len(proxy.seen) != 0 {
		t.Errorf("the environment's proxy got %q", proxy.seen)
	}

	call := newCall(server.URL, `{}`)
	call.Service.RunnerConfig.Proxy = proxy.URL
	result := mustRun(t, r, call)
	if len(proxy.seen) != 1 || proxy.seen[0] != "CONNECT "+server.Listener.Addr().String() {
		t.Errorf("the registry's proxy got %q", proxy.seen)
	}
	if policy, _ := json.Marshal(result.Security["policy"]); !strings.Contains(string(policy), `"proxy":"`+strings.TrimPrefix(proxy.URL, "http://")+`"`) {
		t.Errorf("recorded: %s", policy)
	}

	plain := newCall("http://api.example.com", `{}`) // a name that only the proxy need know
	plain.Service.RunnerConfig.Proxy = proxy.URL
	sameJSON(t, mustRun(t, r, plain).Output, `{"through": "proxy"}`)

	// What allowed_domains does not cover does not go to the proxy either.
	plain.Service.SecurityPolicy.AllowedDomains = []string{"api.example.org"}
	refusal(t, r, plain)
	if len(proxy.seen) != 2 {
		t.Errorf("the proxy got %q", proxy.seen)
	}
}

func TestAProxysNameDoesNotLeadToASpecialPurposeAddress(t *testing.T) {
	c := newCanary(t)
	call := newCall("http://api.example.com", `{}`)
	call.Service.RunnerConfig.Proxy = "http://proxy.example.com:" + c.port
	r := newRunner(t, httpapi.Options{Resolver: resolving("127.0.0.1")})
	if policy := refusal(t, r, call); policy.Rule != "allowed_networks" {
		t.Errorf("rule = %s", policy.Rule)
	}
	c.untouched(t)
	call.Service.RunnerConfig.Proxy = "socks5://127.0.0.1:1"
	configFault(t, r, call, "runner_config.proxy is not an http or https URL")
}
