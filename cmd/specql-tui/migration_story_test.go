//go:build unix

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/internal/screen"
	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// prompt runs every job at once and well.
type prompt struct{ typ jobs.ExecutionType }

func (p prompt) Type() jobs.ExecutionType { return p.typ }
func (p prompt) Run(context.Context, runners.Call) (runners.Result, error) {
	return runners.Result{}, nil
}

const storyRegistry = `services:
  - name: stripe_api
    type: payment
    category: financial
    execution_type: http
    runner_config: { base_url: "http://192.0.2.1", timeout: 30 }
    operations: [{ name: charge, input_schema: { amount: integer }, output_schema: { id: string } }]
  - name: data_processor
    type: script
    category: automation
    execution_type: shell
    runner_config: { working_directory: /tmp, timeout: 30, base_url: "http://192.0.2.1/data" }
    security_policy: { allowed_commands: [/bin/true], resource_limits: { memory_mb: 64 } }
    operations: [{ name: process_data, input_schema: { records: integer }, output_schema: { status: string } }]
`

// operator sits before the console on a database.
type operator struct {
	t    *testing.T
	ctx  context.Context
	term *screen.Terminal
	db   *pgxpool.Pool
}

func (o *operator) expect(texts ...string) {
	o.t.Helper()
	if err := o.term.Expect(o.ctx, texts...); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) press(keys string) {
	o.t.Helper()
	if err := o.term.Type(keys); err != nil {
		o.t.Fatal(err)
	}
}

// onto moves the cursor down to a step by its title.
func (o *operator) onto(title string) {
	o.t.Helper()
	o.press("g")
	if err := o.term.Until(o.ctx, "the first step", func(s string) bool { return strings.Contains(marked(s), "Console version") }); err != nil {
		o.t.Fatal(err)
	}
	for range 60 {
		at := marked(o.term.Text())
		if strings.Contains(at, title) {
			return
		}
		// Each key is waited for: one more would go past the step.
		o.press("j")
		if err := o.term.Until(o.ctx, "the cursor moves", func(s string) bool { m := marked(s); return m != "" && m != at }); err != nil {
			o.t.Fatal(err)
		}
	}
	o.t.Fatalf("there is no step %q:\n%s", title, o.term.Text())
}

// marked is the list's title under the cursor.
func marked(s string) string {
	for line := range strings.Lines(s) {
		list, _, _ := strings.Cut(line, "│")
		if _, at, ok := strings.Cut(list, "▸ "); ok {
			title, _, _ := strings.Cut(strings.TrimLeft(at, "●◐○▲✕ "), "  ")
			return title
		}
	}
	return ""
}

// act opens the step's dialog and confirms it, with a reason where one is asked.
func (o *operator) act(verb, reason string) {
	o.t.Helper()
	o.press("\r")
	o.expect("▸[ Cancel ]")
	if reason != "" {
		pressUntil(o.ctx, o.t, o.term, "\x1b[A", "▸ Reason")
		o.press(reason + "\r")
		o.expect("▸[ Cancel ]")
	}
	pressUntil(o.ctx, o.t, o.term, "\x1b[C", "▸[ "+verb+" ]")
	o.press("\r")
	o.expect("[ Close ]")
	if strings.Contains(o.term.Text(), "✕ ") && !strings.Contains(o.term.Text(), "●") {
		o.t.Fatalf("%s went wrong:\n%s", verb, o.term.Text())
	}
	pressGone(o.ctx, o.t, o.term, "\x1b", "[ Close ]")
}

// pressGone types a key until the text is gone.
func pressGone(ctx context.Context, t *testing.T, term *screen.Terminal, key, text string) {
	t.Helper()
	for strings.Contains(term.Text(), text) {
		if err := term.Type(key); err != nil {
			t.Fatal(err)
		}
		try, cancel := context.WithTimeout(ctx, time.Second)
		term.Until(try, text+" is gone", func(s string) bool { return !strings.Contains(s, text) })
		cancel()
		if ctx.Err() != nil {
			t.Fatalf("%q stays:\n%s", text, term.Text())
		}
	}
}

func (o *operator) feed(service, operation string, n int) {
	o.t.Helper()
	if _, err := o.db.Exec(o.ctx, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
		SELECT $1 || '-' || gen_random_uuid(), $1, $2, '{}' FROM generate_series(1, $3)`, service, operation, n); err != nil {
		o.t.Fatal(err)
	}
}

func TestOperatorWalksTheWholeMigrationFromAnHTTPOnlyDatabase(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	url := devdbtest.New(t, application)
	command := exec.Command("specql-tui", "--database-url", url)
	term, err := screen.Start(120, 50, screen.Dark, command)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	db, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	o := &operator{t, ctx, term, db}

	// Phase 1: the console opens on the page, and the schema is what comes next.
	o.expect("[1 Migrate]", "Schema migration", "next")
	o.onto("Schema migration")
	o.act("Run the schema migration", "")
	o.expect("● Schema migration", "● Schema valid", "● No application change")
	file := filepath.Join(t.TempDir(), "service_registry.yaml")
	if err := os.WriteFile(file, []byte(storyRegistry), 0o600); err != nil {
		t.Fatal(err)
	}
	startStoryAgent(t, url, file)
	o.expect("● Agents alive", "● Registry valid", "● stripe_api", "● data_processor") // also phase 2
	o.feed("stripe_api", "charge", 20)
	o.expect("● Existing jobs process")

	// Phase 3: shell behind a canary, its first hundred jobs, then passed.
	o.onto("Enable shell")
	o.act("Roll shell out", "first type")
	o.expect("roll-out by", "stage")
	o.feed("data_processor", "process_data", 130)
	o.expect("● First hundred shell jobs", "● A shell job completed")

	// Phase 4: fallback there and back, a rollback and its undo, a signature.
	o.onto("Fallback exercised")
	o.act("Send a service to http", "exercise")
	o.expect("runs by http now")
	o.act("Take the fallback back", "exercise")
	o.expect("● Fallback exercised")
	o.onto("Rollback rehearsed")
	o.act("Roll back to http-only", "rehearsal")
	o.expect("not undone yet")
	o.act("Undo the rollback", "rehearsal")
	o.expect("● Rollback rehearsed")
	o.onto("Team trained")
	o.press("\r")
	o.expect("Your word for it")
	pressUntil(ctx, t, term, "\x1b[A", "▸ Note")
	o.press("Monday\r")
	pressUntil(ctx, t, term, "\x1b[C", "▸[ Sign off ]")
	o.press("\r")
	o.expect("Signed off.")
	pressGone(ctx, t, term, "\x1b", "[ Close ]")
	o.expect("● Team trained")

	// Another console, and a command, see the same.
	other, err := screen.Start(120, 50, screen.Dark, exec.Command("specql-tui", "--database-url", url))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Expect(ctx, "Live"); err != nil {
		t.Fatal(err)
	}
	pressUntil(ctx, t, other, "1", "● Schema valid")
	out, err := exec.Command("specql-tui", "--database-url", url, "migrate").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Phase 4") {
		t.Errorf("migrate: %v\n%s", err, out)
	}
	for _, id := range []string{"infrastructure", "registry-enhanced", "types-tested", "fallback", "rollback", "no-breaking-change", "team"} {
		if !strings.Contains(string(out), id) || !doneIn(string(out), id) {
			t.Errorf("%s is not done:\n%s", id, out)
		}
	}
	o.press("q")
	if err := term.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func doneIn(text, id string) bool {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == id {
			return fields[1] == "done"
		}
	}
	return false
}

func startStoryAgent(t *testing.T, url, file string) {
	t.Helper()
	config, diags, err := registry.Load(file, registry.Options{})
	if config == nil {
		t.Fatal(err, diags)
	}
	a, err := agent.New(agent.Options{DatabaseURL: url, Name: "worker", Version: version.Short(), Config: config, Lease: 3 * time.Second,
		Drain: time.Second, Runners: []runners.Runner{prompt{jobs.HTTP}, prompt{jobs.Shell}}})
	if err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(working) }()
	t.Cleanup(func() { stop(); a.Halt(); <-ended })
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
