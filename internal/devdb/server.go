//go:build unix

package devdb

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// ErrShared is the answer to what only a server's single user may do.
var ErrShared = errors.New("the PostgreSQL is shared with other processes: start one with devdb.Start for this")

// ErrStopped is the answer of a server after Stop.
var ErrStopped = errors.New("the private PostgreSQL has been stopped")

// Options says what Start starts. The zero value is a server for tests.
type Options struct {
	// Durable keeps PostgreSQL's defaults: commits wait for the disk, as
	// benchmarks need it. Otherwise fsync, synchronous_commit and
	// full_page_writes are off.
	Durable bool

	// Settings are lines of postgresql.conf. They come after those of
	// Durable. The port cannot be chosen.
	Settings map[string]string

	// Networks are this machine's addresses, each with its network, that the
	// server takes connections on from that network: for what runs in a
	// network namespace. They must be there when it starts.
	Networks []netip.Prefix

	// Folder is where the server's folder is made, such as a file system of
	// limited size; empty: a temporary folder. A Start of another process does
	// not look there for what killed processes left.
	Folder string

	// Log receives the server's log, which is also in the server's folder.
	// A writer that blocks stalls the server. It may be nil.
	Log io.Writer
}

func (o Options) settings() map[string]string {
	all := map[string]string{}
	if !o.Durable {
		maps.Copy(all, fastSettings)
	}
	maps.Copy(all, o.Settings)
	return all
}

// Server is a running private PostgreSQL. Its methods may be called by any
// number of goroutines. A Server need not be stopped for it to go away: it
// goes with the process.
type Server struct {
	cluster cluster
	state   state
	shared  bool
	hold    hold

	mu      sync.Mutex // for Restart and Stop
	stopped bool
	stopErr error
}

// state is what other processes must know to use the server.
type state struct {
	Port     int    `json:"port"`
	Password string `json:"password"`
}

// Start runs a PostgreSQL for this process alone, and first removes what
// killed processes left. ctx bounds the start, not the server's life: call
// Stop, or end the process in any way. A main that handles signals gives
// signal.NotifyContext's context and defers Stop.
//
// The error is a *NotFoundError when PostgreSQL is not installed.
func Start(ctx context.Context, opts Options) (*Server, error) {
	h, err := survey(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := h.sweep(ctx, opts.Log); err != nil {
		return nil, err
	}
	lock, err := h.base.lock(ctx)
	if err != nil {
		return nil, err
	}
	folder, hold, err := h.base.newFolder(h.as, privatePrefix)
	lock.Close()
	if err != nil {
		return nil, err
	}
	return h.boot(ctx, folder, hold, opts)
}

// host is what this machine offers to a server.
type host struct {
	bin  Binaries
	as   account
	base base
}

// survey finds the programs, the account and the place for a server.
func survey(ctx context.Context, opts Options) (host, error) {
	if err := checkSettings(opts.settings()); err != nil {
		return host{}, err
	}
	bin, err := Find(ctx)
	if err != nil {
		return host{}, err
	}
	as, err := serverAccount()
	if err != nil {
		return host{}, err
	}
	if err := as.reach(bin.Dir); err != nil {
		return host{}, fmt.Errorf("run PostgreSQL's programs: %w", err)
	}
	among := candidates(as)
	if opts.Folder != "" {
		among = basesIn(as, opts.Folder)
	}
	b, err := chooseBase(as, among)
	return host{bin, as, b}, err
}

// boot makes and starts a server in its folder. When that fails nothing is
// left of it.
func (h host) boot(ctx context.Context, folder string, hold hold, opts Options) (*Server, error) {
	s := &Server{
		cluster: cluster{folder: folder, bin: h.bin, as: h.as, log: opts.Log},
		state:   state{Password: rand.Text()},
		hold:    hold,
	}
	err := s.cluster.init(ctx, s.state.Password, opts.settings(), opts.Networks)
	if err == nil {
		s.state.Port, err = s.cluster.startAnywhere(ctx)
	}
	if err == nil {
		err = s.state.write(folder)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("private PostgreSQL: %w", err), s.destroy())
	}
	return s, nil
}

// URL is a database's address by the unix socket, for pgx, psql and libpq. It
// needs no password; only this user and root get at the socket.
func (s *Server) URL(database string) string {
	query := url.Values{
		"host":    {s.cluster.sockets()},
		"port":    {strconv.Itoa(s.state.Port)},
		"user":    {superuser},
		"sslmode": {"disable"},
	}
	u := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// TCPURL is a database's address on 127.0.0.1, with the password in it: for
// processes and containers that cannot reach the socket.
func (s *Server) TCPURL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.state.Password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.state.Port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// PID is the server's main process now, 0 when none runs. It changes with
// Restart.
func (s *Server) PID() int { return postmaster(s.cluster.folder) }

// Version is the server's version as `postgres --version` words it.
func (s *Server) Version() string { return s.cluster.bin.Version }

// CreateDatabase creates an empty database.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Restart stops the server and starts it on the same port, data kept.
// Immediate ends it as a crash would, and the start recovers. The error is
// ErrShared for a shared server. When the start fails, another Restart may
// mend it.
func (s *Server) Restart(ctx context.Context, immediate bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	how := unix.SIGINT
	if immediate {
		how = unix.SIGQUIT
	}
	switch {
	case s.shared:
		return ErrShared
	case s.stopped:
		return ErrStopped
	}
	if err := shutdown(s.cluster.folder, how); err != nil {
		return err
	}
	return s.cluster.start(ctx, s.state.Port)
}

// Stop stops the server and removes its folder: a fast shutdown, and an
// immediate one after 20 seconds. For a shared server it ends this process's
// use; the last user's end stops the server soon after. Further calls return
// the first one's error.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return s.stopErr
	}
	s.stopped = true
	if s.shared {
		s.hold.release()
		return nil
	}
	s.stopErr = s.destroy()
	return s.stopErr
}

// destroy stops the server and removes its folder. Only then it lets go of
// the pipe: should this process end half-way, the guard does the rest.
func (s *Server) destroy() error {
	err := shutdown(s.cluster.folder, unix.SIGINT)
	if err == nil {
		s.cluster.copies.Wait()
		err = removeAll(s.cluster.folder)
	}
	s.hold.release()
	return err
}

func stateFile(folder string) string { return filepath.Join(folder, "state.json") }

func (st state) write(folder string) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return os.WriteFile(stateFile(folder), text, 0o600)
}

func readState(folder string) (state, error) {
	var st state
	text, err := os.ReadFile(stateFile(folder))
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(text, &st)
}
