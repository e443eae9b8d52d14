//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
	"github.com/specql/specql-ops/runners/shell"
)

// shop is the application's HTTP service.
type shop struct {
	server *httptest.Server

	mu     sync.Mutex
	status int
	held   chan struct{} // nil, or closed when callers need wait no more
}

func newShop() *shop {
	s := &shop{status: http.StatusOK}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

func (s *shop) serve(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	status, held := s.status, s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"id": "ch_1", "status": "%s"}`, http.StatusText(status))
}

// answers sets the status of the answers to come, or holds them until the next.
func (s *shop) answers(word string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if word == "hold" {
		if s.held == nil {
			s.held = make(chan struct{})
		}
		return nil
	}
	status, err := strconv.Atoi(word)
	if err != nil {
		return errors.New("usage: answers STATUS|hold")
	}
	if s.status = status; s.held != nil {
		close(s.held)
		s.held = nil
	}
	return nil
}

func (s *shop) close() {
	s.answers("200")
	s.server.Close()
}

// storyAgent is an agent with the real runners, in this process.
type storyAgent struct {
	agent *agent.Agent
	link  *link
	log   *journal
	stop  func()
}

// journal keeps what an agent says, for a story that fails.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// explain tells what the agents said and how the jobs stand, where a story fails.
func (s *story) explain(ts *testscript.TestScript) {
	for _, name := range slices.Sorted(maps.Keys(s.agents)) {
		ts.Logf("agent %s:\n%s", name, s.agents[name].log)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := s.db.Query(ctx, `SELECT format('%s %s as %s, %s after %s attempts %s', id, service_name, execution_type, status, attempts, error_message)
		FROM jobs.tb_job_run ORDER BY created_at DESC LIMIT 20`)
	var all []string
	if err == nil {
		all, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		ts.Logf("the jobs could not be read: %v", err)
		return
	}
	ts.Logf("the newest jobs:\n%s", strings.Join(all, "\n"))
}

func (s *story) startAgent(args []string) (err error) {
	if err := takes(args, 1, 2, "agent NAME [role]"); err != nil {
		return err
	}
	databaseURL := s.url
	if len(args) == 2 {
		if databaseURL, err = s.login("agent"); err != nil {
			return err
		}
	}
	vars := map[string]string{"SHOP": s.shop.server.URL, "SCRIPTS": s.scripts}
	read := registry.Options{LookupEnv: func(name string) (string, bool) { v, ok := vars[name]; return v, ok }}
	file := filepath.Join(s.dir, "registry.yaml")
	config, diags, err := registry.Load(file, read)
	if err == nil {
		err = diags.Err()
	}
	if err != nil {
		return err
	}
	programs, err := shell.New(shell.Options{})
	if err != nil {
		return err
	}
	web := httpapi.New(httpapi.Options{LookupEnv: read.LookupEnv, Version: version.Short()})
	line, err := newLink(s.url)
	if err != nil {
		return err
	}
	log := &journal{}
	a, err := agent.New(agent.Options{Log: slog.New(slog.NewTextHandler(log, nil)), DatabaseURL: line.url(databaseURL), Name: args[0], Version: version.Short(), Config: config, Lease: 3 * time.Second,
		Drain: time.Second, RetryBase: 50 * time.Millisecond, Slots: 20, Isolation: programs.Host().Isolation,
		Abilities: agent.Abilities{jobs.Shell: programs.Checks()}, Runners: []runners.Runner{web, programs}})
	if err != nil {
		return err
	}
	working, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go a.Follow(working, registry.NewWatcher(file, read, registry.WatchOptions{Loaded: config}))
	go func() {
		err := a.Run(working)
		if err != nil {
			fmt.Fprintf(log, "the agent ended: %v\n", err)
		}
		ended <- err
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		a.Halt()
		<-ended
		web.Close()
		programs.Close()
		line.close()
	})
	s.agents[args[0]] = &storyAgent{a, line, log, stop}
	s.release(stop)
	return nil
}

func (s *story) known(args []string) (*storyAgent, error) {
	name := strings.Join(args, " ")
	if a := s.agents[name]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("there is no agent %q", name)
}

func (s *story) stopAgent(args []string) error {
	a, err := s.known(args)
	if err == nil {
		a.stop()
	}
	return err
}

// killAgent has an agent vanish for the database, as where its machine did.
func (s *story) killAgent(args []string) error {
	a, err := s.known(args)
	if err == nil {
		a.link.cut()
	}
	return err
}

// link is a network between programs and the database that can be cut.
type link struct {
	listener net.Listener
	target   string // the server's socket

	mu      sync.Mutex
	down    bool
	stalled chan struct{} // nil, or closed when bytes go on
	conns   map[net.Conn]bool
	group   sync.WaitGroup
}

func newLink(databaseURL string) (*link, error) {
	c, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{listener: listener, target: filepath.Join(c.Host, fmt.Sprintf(".s.PGSQL.%d", c.Port)), conns: map[net.Conn]bool{}}
	l.group.Go(l.accept)
	return l, nil
}

// url is the database's, by way of the link.
func (l *link) url(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return databaseURL
	}
	u.Host = l.listener.Addr().String()
	q := u.Query()
	q.Del("host") // a socket's folder
	q.Del("port")
	u.RawQuery = q.Encode()
	return u.String()
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("unix", l.target)
		if err != nil {
			near.Close()
			continue
		}
		if !l.keep(near, far) {
			continue
		}
		l.group.Go(func() { l.pipe(near, far) })
		l.group.Go(func() { l.pipe(far, near) })
	}
}

// keep lists the two ends, or closes them where the link is down.
func (l *link) keep(ends ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range ends {
		if l.down {
			c.Close()
		} else {
			l.conns[c] = true
		}
	}
	return !l.down
}

func (l *link) pipe(from, to net.Conn) {
	defer func() { from.Close(); to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		stalled := l.stalled
		l.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}

// cut ends every connection and takes no new one.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	l.flow()
	for c := range l.conns {
		c.Close()
	}
	clear(l.conns)
}

// stall keeps connections, but no byte comes through.
func (l *link) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled == nil {
		l.stalled = make(chan struct{})
	}
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
	l.flow()
}

func (l *link) flow() {
	if l.stalled != nil {
		close(l.stalled)
		l.stalled = nil
	}
}

func (l *link) close() {
	l.listener.Close()
	l.cut()
	l.group.Wait()
}
