package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// fake runs jobs by a function of the test's.
type fake struct {
	typ jobs.ExecutionType
	run func(ctx context.Context, call runners.Call) (runners.Result, error)
}

func (f fake) Type() jobs.ExecutionType { return f.typ }
func (f fake) Run(ctx context.Context, call runners.Call) (runners.Result, error) {
	return f.run(ctx, call)
}

// still is an agent as the test wants it to look.
type still struct {
	stats  agent.Stats
	health agent.Health
}

func (s *still) Stats() agent.Stats   { return s.stats }
func (s *still) Health() agent.Health { return s.health }

// world is one database.
type world struct {
	t    *testing.T
	ctx  context.Context
	url  string
	pool *pgxpool.Pool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	url := devdbtest.New(t, migrationstest.Migrated)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return &world{t, ctx, url, pool}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// until looks again whenever something may have changed, up to the test's end.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("never came true: %s", what)
		}
	}
}

// start runs an agent until the test is over.
func (w *world) start(o agent.Options) *agent.Agent {
	w.t.Helper()
	o.DatabaseURL = w.url
	a, err := agent.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	w.t.Cleanup(func() { a.Halt(); cancel(); <-ended })
	return a
}

// parse makes a registry of services, written name:type or name:type:policy.
func parse(t testing.TB, services ...string) *registry.Config {
	t.Helper()
	var b strings.Builder
	b.WriteString("services:\n")
	for _, s := range services {
		name, rest, _ := strings.Cut(s, ":")
		typ, policy, _ := strings.Cut(rest, ":")
		config := `{ base_url: "http://192.0.2.1" }`
		if typ == "shell" {
			config, policy = `{ working_directory: "/tmp" }`, `allowed_commands: ["/bin/true"]`
		}
		fmt.Fprintf(&b, "  - { name: %s, type: t, category: c, execution_type: %s, runner_config: %s, security_policy: {%s},\n"+
			"      operations: [{ name: run, input_schema: {}, output_schema: {} }] }\n", name, typ, config, policy)
	}
	config, diags := registry.Parse("test.yaml", []byte(b.String()), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

// journal is a log that tests read while it is written.
type journal struct {
	mu sync.Mutex
	b  strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

var discard = slog.New(slog.DiscardHandler)

// serve answers for a source on a loopback address until the test is over.
func serve(t *testing.T, o ServerOptions) (s *Server, address string) {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, o)
}

func serveOn(t *testing.T, l net.Listener, o ServerOptions) (*Server, string) {
	t.Helper()
	if o.Log == nil {
		o.Log = discard
	}
	if o.Level == nil {
		o.Level, _ = NewLevel(slog.LevelInfo, func(slog.Leveler) slog.Handler { return slog.DiscardHandler })
	}
	if o.Metrics == nil {
		o.Metrics = NewRegistry()
	}
	s := NewServer(l, o)
	go s.Serve()
	t.Cleanup(s.Close)
	return s, "http://" + s.Address()
}

func ask(t *testing.T, method, url, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(raw))
}
