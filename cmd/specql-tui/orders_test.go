//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// slow runs jobs until they are stopped.
type slow struct{ began, stopped chan string }

func (slow) Type() jobs.ExecutionType { return jobs.HTTP }
func (s slow) Run(ctx context.Context, c runners.Call) (runners.Result, error) {
	s.began <- c.Job.Identifier
	<-ctx.Done()
	s.stopped <- c.Job.Identifier
	return runners.Result{}, ctx.Err()
}

// operated is an agent on a registry file, and the commands on its database.
type operated struct {
	t    *testing.T
	ctx  context.Context
	conn *pgx.Conn
	url  string
	file string
	slow
}

func operate(t *testing.T) *operated {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	o := &operated{t: t, ctx: ctx, url: devdbtest.New(t, migrationstest.Migrated), file: filepath.Join(t.TempDir(), "registry.yaml"),
		slow: slow{make(chan string, 10), make(chan string, 10)}}
	var err error
	if o.conn, err = pgx.Connect(ctx, o.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.conn.Close(context.Background()) })
	o.write(600)
	config, diags, err := registry.Load(o.file, registry.Options{})
	if config == nil {
		t.Fatal(err, diags)
	}
	a, err := agent.New(agent.Options{DatabaseURL: o.url, Name: "worker", Config: config, Lease: time.Minute, Drain: time.Second, Runners: []runners.Runner{o.slow}})
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(context.Background())
	go a.Follow(working, registry.NewWatcher(o.file, registry.Options{}, registry.WatchOptions{Loaded: config, Poll: time.Hour, Debounce: time.Hour}))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(working) }()
	t.Cleanup(func() { stop(); a.Halt(); <-ended })
	o.until("the agent's registry is kept", `SELECT count(*) = 1 FROM jobs.tb_registry_version`)
	return o
}

func (o *operated) write(timeout int) {
	o.t.Helper()
	text := fmt.Sprintf("# token: hunter2\nservices:\n- name: billing\n  type: t\n  category: c\n  operations: [{name: charge}]\n"+
		"  runner_config: { base_url: \"http://192.0.2.1\", timeout: %d, headers: { X-Api-Key: hunter2 } }\n", timeout)
	if err := os.WriteFile(o.file, []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operated) until(what, sql string) {
	o.t.Helper()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		var is bool
		if err := o.conn.QueryRow(o.ctx, sql).Scan(&is); err != nil {
			o.t.Fatalf("%s never came true: %v", what, err)
		}
		if is {
			return
		}
		<-tick.C
	}
}

// run runs a command, which must end with the status and print what matches.
func (o *operated) run(status int, want string, args ...string) string {
	o.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(o.ctx, "specql-tui", append(args, "--database-url", o.url)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	have := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		have = exit.ExitCode()
	} else if err != nil {
		o.t.Fatal(err)
	}
	if have != status || !regexp.MustCompile(want).Match(out.Bytes()) {
		o.t.Errorf("%s ended with %d, want %d and %s:\n%s", strings.Join(args, " "), have, status, want, out.String())
	}
	return out.String()
}

func (o *operated) next(from chan string, want string) {
	o.t.Helper()
	select {
	case got := <-from:
		if got != want {
			o.t.Errorf("it was %s, want %s", got, want)
		}
	case <-o.ctx.Done():
		o.t.Fatalf("%s never came", want)
	}
}

func (o *operated) enqueue(identifier string) (id string) {
	o.t.Helper()
	err := o.conn.QueryRow(o.ctx, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, max_attempts)
		VALUES ($1, 'billing', 'charge', 1) RETURNING id::text`, identifier).Scan(&id)
	if err != nil {
		o.t.Fatal(err)
	}
	return id
}

func TestOperatorsPauseDrainAndResumeAgents(t *testing.T) {
	o := operate(t)
	o.run(0, `^worker \([0-9a-f-]+\): is paused\n$`, "agents", "pause", "worker", "--reason", "maintenance", "--wait")
	o.run(0, `worker +paused +– `, "agents")
	o.enqueue("waits")
	o.run(0, `held: all agents are paused or drain`, "jobs", "list", "waits")
	o.run(0, `pause was ordered already`, "agents", "pause", "--all")
	o.run(0, `"state": "running",\s+"wanted": "running"`, "agents", "resume", "--all", "--wait", "--output", "json")
	o.next(o.began, "waits")
	o.run(0, `drain is ordered`, "agents", "drain", "worker")
	o.next(o.stopped, "waits") // it does not end by itself within the drain time
	o.run(0, `worker .*: is drained`, "agents", "drain", "worker", "--wait")
	o.until("the job is handed back", `SELECT status = 'pending' AND attempts = 0 FROM jobs.tb_job_run`)
	o.run(4, `there is no live agent "nobody": there are worker \(`, "agents", "pause", "nobody")
	o.until("each order is audited once", `SELECT string_agg(action || ' ' || reason, ', ' ORDER BY id) = 'pause-agent maintenance, resume-agent , drain-agent '
		FROM jobs.tb_audit WHERE action LIKE '%-agent' AND actor LIKE '%@%'`)
}

func TestOperatorsReloadTheRegistryAndLookAtItsHistory(t *testing.T) {
	o := operate(t)
	first := strings.TrimSpace(o.run(0, `^\[`, "registry", "history", "--output", "json"))
	o.write(700)
	o.run(0, `has the registry [0-9a-f]{11}…`, "agents", "reload", "worker", "--wait")
	o.until("the new version is kept", `SELECT count(*) = 2 FROM jobs.tb_registry_version`)
	if err := os.WriteFile(o.file, []byte("services: {"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.run(1, `the file is not good: .*registry.yaml:1:`, "agents", "reload", "--all", "--wait")
	o.run(0, `worker +running .*\(registry.yaml:1:`, "agents")
	o.until("the fault is audited", `SELECT count(*) = 1 FROM jobs.tb_audit WHERE action = 'registry-rejected' AND actor = 'agent worker'`)

	o.run(0, `(?s)APPLIED.*worker.*worker`, "registry", "history")
	hash := regexp.MustCompile(`"hash": "([0-9a-f]{64})"`).FindStringSubmatch(first)
	if hash == nil {
		t.Fatalf("the history shows no hash: %s", first)
	}
	o.run(0, `(?s)^# token: ••••\nservices:.*timeout: 600, headers: \{ X-Api-Key: •••• \}`, "registry", "show", hash[1][:10])
	o.run(0, `"document": ".*timeout: 7`, "registry", "show", "latest", "--output", "json")
	o.run(0, `(?s)^changed billing \(runner_config.timeout 600 → 700\)\n--- .*\n-  runner_config: .*timeout: 600.*\n\+  runner_config: .*timeout: 700`, "registry", "diff", "previous", "latest")
	o.run(0, `"path": "runner_config.timeout"`, "registry", "diff", hash[1], "latest", "--output", "json")
	o.run(0, `have the same text`, "registry", "diff", "latest", "latest")
	o.run(4, `there is no registry version "zz": there are [0-9a-f]{12}, [0-9a-f]{12}`, "registry", "show", "zz")
	o.run(4, `there is no registry version "latest": there is none at all`, "registry", "show", "latest", "--env", "staging")
}

func TestOperatorsCancelARunningJobAndPutItBack(t *testing.T) {
	o := operate(t)
	id := o.enqueue("one")
	o.next(o.began, "one")
	o.run(0, `1 job would be cancelled, 1 of them running; nothing was changed`, "jobs", "cancel", "service:billing")
	o.run(0, `^1 job cancelled\n$`, "jobs", "cancel", id, "--reason", "wrong amount")
	o.next(o.stopped, "one")
	o.run(0, `1 of 1 jobs`, "jobs", "list", "status:cancelled")
	o.run(0, `^1 job retried\n$`, "jobs", "retry", "service:billing", "--attempts", "2", "--yes")
	o.next(o.began, "one")
	o.until("it runs its second of three attempts", `SELECT status = 'running' AND attempts = 2 AND max_attempts = 3 FROM jobs.tb_job_run`)
	o.until("both are audited", `SELECT string_agg(concat_ws(' ', action, target, after_value->>'jobs', reason), '; ' ORDER BY id)
		= 'cancel-jobs id:`+id+` 1 wrong amount; retry-jobs service:billing 1 ' FROM jobs.tb_audit WHERE action LIKE '%-jobs'`)
}

func TestOperatorsStopRollBackAndUndoByCommandUnderLoad(t *testing.T) {
	o := operate(t)
	o.run(0, `billing +http +enabled`, "services")
	o.run(0, `^billing is disabled: 0 pending jobs are held, 0 running finish\n$`, "services", "--disable", "billing", "--reason", "their outage")
	o.enqueue("held")
	o.run(0, `held: the service is switched off: their outage`, "jobs", "list", "held")
	o.run(0, `^billing stands so already\n$`, "services", "--disable", "billing")
	o.run(1, `billing has no http fallback`, "services", "--fallback", "billing")
	o.run(4, `there is no service "nobody": there are billing`, "services", "--enable", "nobody")
	o.run(0, `all claiming is stopped on 1 agent: 1 pending jobs are held`, "emergency-stop", "--reason", "fire")
	o.run(0, `billing is enabled: 1 pending jobs go on`, "services", "--enable", "billing")
	o.run(0, `held: emergency stop: fire`, "jobs", "list", "held")
	o.run(0, `emergency stop since .*: fire; nothing is claimed until specql-tui resume`, "execution-types")
	o.run(0, `^claiming goes on: 1 pending jobs`, "resume")
	o.next(o.began, "held")
	o.run(2, `disabling http holds every HTTP job`, "execution-types", "--disable", "http")
	o.run(0, `http is disabled: .*what runs is stopped\n1 running job cancelled`, "execution-types", "--disable", "http", "--force", "--cancel-running", "--reason", "stop")
	o.next(o.stopped, "held")
	o.run(0, `http is enabled`, "execution-types", "--enable", "http")

	plan := o.run(0, `plan: switch off shell, docker, serverless\nplan: 0 waiting jobs will be held, unchanged; 0 running jobs waited for`, "rollback", "--to", "http-only", "--dry-run")
	if !strings.HasSuffix(plan, "nothing was changed\n") {
		t.Errorf("a dry run: %s", plan)
	}
	o.run(0, `http-only: 0 waiting jobs held`, "rollback", "--to", "http-only", "--grace", "0s", "--reason", "errors")
	o.run(0, `nothing to do: it is http-only already, rolled back by `, "rollback", "--to", "http-only")
	o.run(0, `is undone: shell, docker, serverless switched on`, "rollback", "--undo")
	o.run(1, `there is no rollback to undo`, "rollback", "--undo")
	o.write(900)
	o.run(0, `has the registry`, "agents", "reload", "worker", "--wait")
	o.until("the second version is kept", `SELECT count(*) = 2 FROM jobs.tb_registry_version`)
	o.run(4, `holds secrets, which the history does not keep`, "rollback", "--to", "http-only", "--registry", "previous")
	o.run(2, `it can only be http-only`, "rollback", "--to", "shell")
}
