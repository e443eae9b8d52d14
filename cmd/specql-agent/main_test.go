//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/migrations/migrationstest"
	"github.com/specql/specql-ops/runners/docker/waiter"
	"github.com/specql/specql-ops/runners/shell"
)

const runsAgent = "SPECQL_TEST_RUNS_AGENT"

// The tests start the program itself, which is this binary.
func TestMain(m *testing.M) {
	shell.ShimMain()
	waiter.Main()
	if os.Getenv(runsAgent) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is the agent with its arguments and variables, and nothing else of
// this process's SPECQL_* and OTEL_*.
func program(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SPECQL_") && !strings.HasPrefix(v, "OTEL_") && !strings.HasPrefix(v, "NOTIFY_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, runsAgent+"=1"), env...)
	return cmd
}

func TestWrongUsageSaysWhatIsWrongAndEndsWithTwo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		env, args []string
		says      string
	}{
		{nil, []string{"--listen", taken.Addr().String()}, `--listen ` + taken.Addr().String() + `: .*address already in use: give another address, .* or off`},
		{[]string{"SPECQL_LISTEN=" + taken.Addr().String()}, nil, `address already in use`},
		{nil, []string{"--listen", "nonsense"}, `--listen nonsense: `},
		{[]string{"SPECQL_PPROF=perhaps"}, nil, `SPECQL_PPROF: .*perhaps`},
		{nil, []string{"--listen", "off", "--log-level", "loud"}, `--log-level: "loud" is not debug, info, warn or error`},
		{nil, []string{"--listen", "off", "--log-format", "xml"}, `--log-format: "xml" is not text or json`},
		{[]string{"SPECQL_LISTEN=", "OTEL_TRACES_EXPORTER=zipkin"}, nil, `OTEL_TRACES_EXPORTER: "zipkin" is not otlp or none`},
		{nil, []string{"--listen", "off", "--registry", "nowhere.yaml"}, `nowhere.yaml`}, // and not the address
	} {
		said, err := program(t.Context(), c.env, c.args...).CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
			t.Errorf("%v %v: %v", c.env, c.args, err)
		}
		if !regexp.MustCompile(c.says).Match(said) {
			t.Errorf("%v %v: it says %q, want %s", c.env, c.args, said, c.says)
		}
	}
}

func TestHelpListsTheFlags(t *testing.T) {
	said, err := program(t.Context(), nil, "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`--listen string .*127\.0\.0\.1:9464`, `--pprof `, `--log-level string `, `SIGUSR1`, `OTEL_EXPORTER_OTLP_ENDPOINT`} {
		if !regexp.MustCompile(want).Match(said) {
			t.Errorf("--help does not say %s:\n%s", want, said)
		}
	}
}

// supervisor is systemd's end of the notifications.
type supervisor struct {
	*net.UnixConn
	t *testing.T
}

func newSupervisor(t *testing.T) (s supervisor, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // short, as socket names must be
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); os.RemoveAll(dir) })
	return supervisor{conn, t}, socket
}

// hear waits for a notification that matches, over any others.
func (s supervisor) hear(pattern string) {
	s.t.Helper()
	s.SetReadDeadline(time.Now().Add(time.Minute))
	var heard []string
	for b := make([]byte, 4096); ; {
		n, err := s.Read(b)
		if err != nil {
			s.t.Fatalf("systemd never heard %s, but %q: %v", pattern, heard, err)
		}
		if heard = append(heard, string(b[:n])); regexp.MustCompile(pattern).Match(b[:n]) {
			return
		}
	}
}

// started is an agent that runs.
type started struct {
	*exec.Cmd
	t       *testing.T
	address string // of metrics and probes
	ended   chan error

	mu  sync.Mutex
	log bytes.Buffer
}

// start runs the agent and waits until it says where it serves.
func start(t *testing.T, env []string, args ...string) *started {
	t.Helper()
	a := &started{Cmd: program(context.Background(), env, append(args, "--listen", "127.0.0.1:0")...), t: t, ended: make(chan error, 1)}
	stderr, err := a.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		serves := regexp.MustCompile(`metrics and probes.* address=(\S+)`)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			a.mu.Lock()
			fmt.Fprintln(&a.log, lines.Text())
			a.mu.Unlock()
			if m := serves.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			}
		}
	}()
	go func() { <-read; a.ended <- a.Wait() }()
	t.Cleanup(func() {
		if a.ProcessState == nil {
			a.Process.Kill()
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s", a.said())
		}
	})
	select {
	case at := <-address:
		a.address = "http://" + at
	case err := <-a.ended:
		t.Fatalf("the agent ended: %v\n%s", err, a.said())
	}
	return a
}

func (a *started) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

func (a *started) signal(s os.Signal) {
	a.t.Helper()
	if err := a.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

func (a *started) get(path string) (status int, body string) {
	a.t.Helper()
	response, err := http.Get(a.address + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// until asks again until the answer is as wanted, for a minute.
func (a *started) until(path string, status int, pattern string) {
	a.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	gone := time.After(time.Minute)
	for {
		got, body := a.get(path)
		if got == status && regexp.MustCompile(pattern).MatchString(body) {
			return
		}
		select {
		case <-tick.C:
		case <-gone:
			a.t.Fatalf("%s answers %d %s, want %d %s", path, got, body, status, pattern)
		}
	}
}

func TestAnAgentIsWatchedFromStartToEnd(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	asked, release := make(chan string, 1), make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then a caller's end is noticed
		asked <- r.Header.Get("Traceparent")
		select {
		case <-release:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, `{"done": true}`)
	}))
	t.Cleanup(service.Close) // which waits for the agent to be gone
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, fmt.Appendf(nil, `services:
  - { name: shop, type: api, category: test, runner_config: { base_url: %q }, security_policy: { allowed_networks: [127.0.0.0/8] },
      operations: [{ name: charge, input_schema: {}, output_schema: {} }] }
`, service.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	url := devdbtest.New(t, migrationstest.Migrated)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	systemd, socket := newSupervisor(t)
	a := start(t, []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=600000", "SPECQL_TYPES=http", "SPECQL_LOG_LEVEL=warn", "SPECQL_SLOTS=7"},
		"--registry", registry, "--database-url", url, "--log-level", "info")

	systemd.hear(`^READY=1$`)
	a.until("/readyz", 200, `"ready"`)
	systemd.hear(`^WATCHDOG=1$`)
	if _, err := pool.Exec(t.Context(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
		VALUES ('one', 'shop', 'charge', jsonb_build_object('traceparent', $1::text))`, parent); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != parent {
		t.Errorf("the service got traceparent %q, want the row's", got)
	}
	a.until("/metrics", 200, `(?m)^specql_running 1$`)
	systemd.hear(`^STATUS=running 1 of 7$`)

	a.signal(syscall.SIGUSR1)
	a.until("/loglevel", 200, `"debug"`)
	a.signal(syscall.SIGUSR2)
	a.until("/loglevel", 200, `"info"`)

	a.signal(syscall.SIGTERM)
	systemd.hear(`^STOPPING=1$`)
	a.until("/readyz", 503, `the agent is draining`)
	a.until("/healthz", 200, `"ok"`)
	a.until("/metrics", 200, `(?m)^specql_agent_state\{state="draining"\} 1$`)
	systemd.hear(`^WATCHDOG=1$`) // for as long as the drain takes
	close(release)
	if err := <-a.ended; err != nil {
		t.Errorf("the agent ended: %v", err)
	}
	var output json.RawMessage
	if err := pool.QueryRow(t.Context(), "SELECT output_data FROM jobs.tb_job_run WHERE status = 'completed'").Scan(&output); err != nil {
		t.Errorf("the job that ran: %v", err)
	}
	if strings.Contains(a.said(), url) {
		t.Error("the log holds the database's URL")
	}
}
