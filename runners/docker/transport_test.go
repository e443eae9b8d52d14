package docker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// Every kind of connection carries a whole job: its input, its end, its answer.
func carriesJobs(t *testing.T, engine *client.Client, host string) {
	t.Helper()
	r := runnerOn(t, engine, Options{Host: host})
	call := newCall("stdin")
	call.Job.Input = []byte(`{"text": "` + strings.Repeat("x", 100_000) + `"}`)
	result := mustRun(t, r, call)
	if string(result.Output) != string(call.Job.Input) {
		t.Errorf("%d bytes came back of %d", len(result.Output), len(call.Job.Input))
	}
	if result.Security["usage"] != "sampled" {
		t.Errorf("usage of an engine on another host is marked %v", result.Security["usage"])
	}
	hang := newCall("hang")
	hang.Timeout = 3 * time.Second
	_, err := r.Run(t.Context(), hang)
	wantLimit(t, err, "timeout_seconds")
}

func TestAnEngineBehindTLSIsReachedWithTheClientsCertificate(t *testing.T) {
	engine := needEngine(t) // before the environment names the proxy's certificates
	certs := t.TempDir()
	server := makeCertificates(t, certs)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	proxy(t, listener)
	host := "tcp://" + listener.Addr().String()
	t.Run("with certificate", func(t *testing.T) {
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		t.Setenv("DOCKER_CERT_PATH", certs)
		carriesJobs(t, engine, host)
	})
	t.Run("with a stranger's", func(t *testing.T) {
		other := t.TempDir()
		makeCertificates(t, other)
		t.Setenv("DOCKER_TLS_VERIFY", "1")
		t.Setenv("DOCKER_CERT_PATH", other)
		r, err := New(Options{Host: host})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = r.Run(t.Context(), newCall("argv"))
		wantBusy(t, err)
		if !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%q does not say what is wrong", err)
		}
	})
}

// proxy hands connections on to the engine's socket.
func proxy(t *testing.T, listener net.Listener) {
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			theirs, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer theirs.Close()
				ours, err := net.Dial("unix", "/var/run/docker.sock")
				if err != nil {
					return
				}
				defer ours.Close()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = io.Copy(ours, theirs)
					_ = ours.(*net.UnixConn).CloseWrite()
				}()
				_, _ = io.Copy(theirs, ours)
				_ = theirs.(interface{ CloseWrite() error }).CloseWrite()
				<-done
			}()
		}
	}()
}

// makeCertificates writes ca.pem, cert.pem and key.pem as Docker's tools want
// them, and returns what a server needs that takes nobody else.
func makeCertificates(t *testing.T, dir string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: dir}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, content := range map[string][]byte{"ca.pem": cert, "cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
}

// The ssh of this test is a script that runs what it is given here: what the
// dialer does with a program's streams is real, the encryption is ssh's.
func TestAnEngineIsReachedThroughSSH(t *testing.T) {
	engine := needEngine(t)
	bin := t.TempDir()
	trace := filepath.Join(bin, "trace")
	script := "#!/bin/sh\necho \"$@\" >> " + trace + "\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nunset DOCKER_HOST\nexec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	carriesJobs(t, engine, "ssh://deploy@engine.example.com:2222")
	got, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if want := "-l deploy -p 2222 -- engine.example.com docker system dial-stdio\n"; !strings.HasSuffix(string(got), want) {
		t.Errorf("ssh was started with %q, want %q at the end", got, want)
	}
}

// The oldest version of the API that is promised.
func TestTheEngineIsSpokenToInVersion140(t *testing.T) {
	needEngine(t)
	t.Setenv("DOCKER_API_VERSION", "1.40")
	r := newRunner(t, Options{})
	f, err := r.engine.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.api != "1.40" {
		t.Errorf("spoken is %s", f.api)
	}
	call := newCall("stdin")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 64
	call.Service.SecurityPolicy.ResourceLimits.DiskMB = 16
	if got := string(mustRun(t, r, call).Output); got != "{}" {
		t.Errorf("answered %s", got)
	}
}
