package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/client"
)

const (
	// askTime bounds a question to the engine that takes no time.
	askTime = 3 * time.Second
	// actTime bounds what the engine does for a container; a busy one takes
	// its time.
	actTime = 2 * time.Minute
	// awayAgain is how long an engine that did not answer is not asked again.
	awayAgain = time.Second
)

// facts are what the engine says of itself.
type facts struct {
	version, api      string
	os, arch          string
	cpus              int
	memory            int64 // bytes
	root              string
	cgroupDriver      string
	cgroupVersion     string
	liveRestore       bool
	securityOptions   []string
	local             bool // the agent and the engine share a host
	insecureTransport bool // tcp without TLS
}

// engine is the connection to a Docker engine that may come and go.
type engine struct {
	*client.Client
	host string // as DOCKER_HOST names it

	mu    sync.Mutex
	facts facts
	there bool
	err   error       // of the last question, where the engine is away
	asked time.Time   // of that question
	came  func(facts) // called when the engine came or came back; it must not ask
}

// connect makes the client; it talks to nobody yet. host overrides DOCKER_HOST.
func connect(host string) (*engine, error) {
	if host == "" {
		host = os.Getenv(client.EnvOverrideHost)
	}
	if host == "" {
		host = client.DefaultDockerHost
	}
	options := []client.Opt{client.FromEnv, client.WithHost(host), client.WithUserAgent("specql-agent")}
	if target, ok := strings.CutPrefix(host, "ssh://"); ok {
		u, err := url.Parse("ssh://" + target)
		if err != nil || u.Hostname() == "" {
			return nil, fmt.Errorf("DOCKER_HOST %q: write ssh://user@host", host)
		}
		options = []client.Opt{client.WithAPIVersionFromEnv(), client.WithHost("http://" + client.DummyHost),
			client.WithDialContext(sshDialer(u)), client.WithUserAgent("specql-agent")}
	}
	cli, err := client.New(options...)
	if err != nil {
		return nil, fmt.Errorf("DOCKER_HOST %q: %w", host, err)
	}
	return &engine{Client: cli, host: host}, nil
}

// socket is the path of the engine's local socket; empty where it has none.
func (e *engine) socket() string {
	path, _ := strings.CutPrefix(e.host, "unix://")
	if path == e.host {
		return ""
	}
	return path
}

// ready returns the engine's facts, or why it cannot be used now. It asks
// only an engine that was away.
func (e *engine) ready(ctx context.Context) (facts, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.there {
		return e.facts, nil
	}
	if e.err != nil && time.Since(e.asked) < awayAgain {
		return facts{}, e.err
	}
	f, err := e.ask(ctx)
	e.asked = time.Now()
	if err != nil {
		if ctx.Err() == nil {
			e.err = fmt.Errorf("the Docker engine at %s does not answer: %w", e.host, plainly(err))
			return facts{}, e.err
		}
		return facts{}, ctx.Err()
	}
	e.facts, e.there, e.err = f, true, nil
	if e.came != nil {
		e.came(f)
	}
	return f, nil
}

func (e *engine) ask(ctx context.Context) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	// Anew each time: a restart may have been an upgrade.
	if _, err := e.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true, ForceNegotiate: true}); err != nil {
		return facts{}, err
	}
	got, err := e.Info(ctx, client.InfoOptions{})
	if err != nil {
		return facts{}, err
	}
	i := got.Info
	f := facts{version: i.ServerVersion, api: e.ClientVersion(), os: i.OSType, arch: i.Architecture, cpus: i.NCPU,
		memory: i.MemTotal, root: i.DockerRootDir, cgroupDriver: i.CgroupDriver, cgroupVersion: i.CgroupVersion,
		liveRestore: i.LiveRestoreEnabled, securityOptions: i.SecurityOptions, local: e.socket() != "",
		insecureTransport: strings.HasPrefix(e.host, "tcp://") && os.Getenv(client.EnvOverrideCertPath) == ""}
	if f.cgroupVersion == "" {
		f.cgroupVersion = "1" // engines before API 1.41 know no other
	}
	if f.os != "linux" {
		return facts{}, fmt.Errorf("it runs %s containers, and only linux ones are supported", f.os)
	}
	return f, nil
}

// isGone tells an error of the connection from an answer of the engine's, and
// remembers that the engine has to be asked again.
func (e *engine) isGone(err error) bool {
	if !connectionFailed(err) {
		return false
	}
	e.mu.Lock()
	e.there = false
	e.mu.Unlock()
	return true
}

// open tells whether the engine takes new connections. One that shuts down
// does not any more, while it stops its containers and still says on the old
// connections how they ended: their programs were interrupted.
func (e *engine) open(ctx context.Context) error {
	conn, err := e.Dialer()(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// isThere tells whether the engine answered the last time.
func (e *engine) isThere() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.there
}

func connectionFailed(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var network *net.OpError
	return client.IsErrConnectionFailed(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
		errors.As(err, &network) && !network.Timeout()
}

// plainly takes the client's advice out of an error that names the host
// already.
func plainly(err error) error {
	var network *net.OpError
	if errors.As(err, &network) {
		return network.Err
	}
	return err
}
