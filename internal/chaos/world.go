//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/migrations"
)

// long asks for the long form of every scenario.
var long = os.Getenv("SPECQL_CHAOS") == "long"

// sized is how much of something a scenario does, in the short form and in
// the long one.
func sized(short, inLong int) int {
	if long {
		return inLong
	}
	return short
}

// setup says what world a scenario needs.
type setup struct {
	server  *devdb.Server      // its own: nil where it leaves the server alone
	jobs    int                // at least; a multiple of 50
	service func(n int) string // of a job; "work" when nil
	lease   time.Duration      // 2 s when 0
	slots   int                // 40 when 0
}

// world is one database, the ledger and the agents of a scenario.
type world struct {
	t      testing.TB
	ctx    context.Context // ends when the scenario has taken far too long
	setup  setup
	server *devdb.Server
	dbname string
	pool   *pgxpool.Pool // the scenario's own view of the database
	ledger *ledger
	began  time.Time

	mu     sync.Mutex
	agents []*process

	registry string       // the file
	fed      atomic.Int64 // jobs that were enqueued
	enough   atomic.Bool  // no more than the scenario's jobs need come
	fedAll   chan error
}

// newWorld makes a world without agents and begins to enqueue its jobs.
func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	if s.server == nil {
		s.server = calm(t)
	}
	if s.service == nil {
		s.service = func(int) string { return "work" }
	}
	if s.lease == 0 {
		s.lease = 2 * time.Second
	}
	if s.slots == 0 {
		s.slots = 40
	}
	if _, err := standard(); err != nil { // a cold build is not the scenario's time
		t.Fatal(err)
	}
	deadline := 3 * time.Minute
	if long {
		deadline = 20 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), deadline, errors.New("the scenario takes too long"))
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, setup: s, server: s.server, ledger: startLedger(t), began: time.Now(), fedAll: make(chan error, 1)}
	w.makeDatabase()
	w.registry = filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(w.registry, []byte(registry), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { w.fedAll <- w.feed() }()
	return w
}

// registry is every agent's. Each says in its calls which process it is.
const registry = `
services:
  - name: work
    type: test
    category: test
    runner_config: { base_url: "${CHAOS_LEDGER}", timeout: 600, headers: { X-Agent: "${CHAOS_AGENT}" } }
    security_policy: { allowed_domains: ["${CHAOS_HOST}"] }
    operations: [{ name: run, path: /work, input_schema: {}, output_schema: {} }]
  - name: poison
    type: test
    category: test
    runner_config: { base_url: "${CHAOS_LEDGER}", timeout: 600, headers: { X-Agent: "${CHAOS_AGENT}" } }
    security_policy: { allowed_domains: ["${CHAOS_HOST}"] }
    operations: [{ name: run, path: /poison, input_schema: {}, output_schema: {} }]
`

var databases atomic.Int32

// ownName is what the scenario's own sessions are called.
const ownName = "chaos"

func (w *world) makeDatabase() {
	w.t.Helper()
	w.dbname = "chaos_" + strconv.Itoa(int(databases.Add(1)))
	if err := w.server.CreateDatabase(w.ctx, w.dbname); err != nil {
		w.t.Fatal(err)
	}
	conn, err := pgx.Connect(w.ctx, w.server.URL(w.dbname))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	if _, err := migrations.Apply(w.ctx, conn, migrations.Options{}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(w.ctx, historySQL).ReadAll(); err != nil {
		w.t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(w.server.URL(w.dbname))
	if err != nil {
		w.t.Fatal(err)
	}
	config.MaxConns = 3
	config.ConnConfig.RuntimeParams["application_name"] = ownName
	if w.pool, err = pgxpool.NewWithConfig(w.ctx, config); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.pool.Close)
}

// feed enqueues the jobs as an application does that takes no failed INSERT
// for an answer: what it has enqueued was committed. A moderate number waits at
// any time, and when the scenario's jobs are through, a trickle goes on until
// it has broken what it wanted to, so that there is always work.
func (w *world) feed() error {
	const batch, waiting = 50, 500
	for n := 0; n < w.setup.jobs || !w.enough.Load(); n += batch {
		if err := within(w.ctx, "the ledger works off what waits", func() (bool, error) {
			return n-w.ledger.done() < waiting, nil
		}); err != nil {
			return err
		}
		if n >= w.setup.jobs {
			time.Sleep(100 * time.Millisecond)
		}
		if err := within(w.ctx, "the database takes new jobs", func() (bool, error) {
			err := w.enqueue(n, batch)
			return err == nil, err
		}); err != nil {
			return err
		}
		w.fed.Store(int64(n + batch))
	}
	return nil
}

func (w *world) enqueue(from, n int) error {
	numbers, services := make([]int, n), make([]string, n)
	for i := range n {
		numbers[i], services[i] = from+i, w.setup.service(from+i)
	}
	_, err := w.exec(`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, max_attempts)
		SELECT 'job-' || n, service, 'run', jsonb_build_object('n', n), CASE service WHEN 'poison' THEN 3 ELSE 100 END
		  FROM unnest($1::int[], $2::text[]) AS u(n, service) ON CONFLICT (identifier) DO NOTHING`, numbers, services)
	return err
}

// exec and number ask the database within a bound: it may be away, or behind
// a cut.
func (w *world) exec(sql string, args ...any) (int, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	tag, err := w.pool.Exec(ctx, sql, args...)
	return int(tag.RowsAffected()), err
}

func (w *world) number(sql string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	err = w.pool.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// until waits for what must come true.
func (w *world) until(what string, cond func() (bool, error)) {
	w.t.Helper()
	if err := within(w.ctx, what, cond); err != nil {
		w.t.Fatal(err)
	}
}

// untilDone waits until so many jobs were answered well: that is by what
// scenarios time what they break.
func (w *world) untilDone(n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d jobs were answered", n), func() (bool, error) { return w.ledger.done() >= n, nil })
}

// untilBusy waits until the agent has attempts under way.
func (w *world) untilBusy(p *process, open int) {
	w.t.Helper()
	w.until(p.name+" has attempts under way", func() (bool, error) { return w.ledger.openOf(p.name) >= open, nil })
}

// untilHeld waits until so many of its attempts last until they are let go.
func (w *world) untilHeld(p *process, held int) {
	w.t.Helper()
	w.until(p.name+" has attempts under way that are held", func() (bool, error) { return w.ledger.heldOf(p.name) >= held, nil })
}

// rounds calls f so many times, spread over the jobs.
func (w *world) rounds(n int, f func(round int)) {
	for round := range n {
		w.untilDone(w.setup.jobs * (round + 1) / (n + 2))
		f(round)
	}
}

// agent starts an agent of the standard program on this host.
func (w *world) agent(name string) *process {
	w.t.Helper()
	return w.agentAs(name, standard)
}

// agentAs starts an agent of another program.
func (w *world) agentAs(name string, program func() (string, error)) *process {
	w.t.Helper()
	path, err := program()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.launch(name, w.command(path, name, w.server.URL(w.dbname)), w.ledger.url, "127.0.0.1")
}

// command is an agent's command line.
func (w *world) command(path, name, url string) *exec.Cmd {
	return exec.Command(path, "--registry", w.registry, "--database-url", url, "--name", name, "--types", "http",
		"--slots", strconv.Itoa(w.setup.slots), "--lease", w.setup.lease.String(), "--log-level", "warn")
}

// launch starts an agent's command with the ledger's address as the agent sees it.
func (w *world) launch(name string, cmd *exec.Cmd, ledger, host string) *process {
	w.t.Helper()
	for _, variable := range []string{"PATH", "HOME", "TMPDIR"} {
		cmd.Env = append(cmd.Env, variable+"="+os.Getenv(variable))
	}
	cmd.Env = append(cmd.Env, "CHAOS_AGENT="+name, "CHAOS_LEDGER="+ledger, "CHAOS_HOST="+host,
		"SPECQL_LISTEN=off") // many agents, one host
	w.mu.Lock()
	defer w.mu.Unlock()
	p := launch(w.t, name, cmd)
	w.agents = append(w.agents, p)
	return p
}

// named is the agent's process.
func (w *world) named(name string) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.agents {
		if p.name == name {
			return p
		}
	}
	return nil
}
