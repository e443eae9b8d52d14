package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// text reads the only value of a query's only row.
func (w *world) text(sql string, args ...any) (s string) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, "SELECT coalesce(("+sql+")::text, '')", args...).Scan(&s); err != nil {
		w.t.Fatalf("%v\n%s", err, sql)
	}
	return s
}

const history = `SELECT string_agg(environment || ' ' || left(hash, 8), ', ' ORDER BY id) FROM jobs.tb_registry_version`

// withSecrets is a registry that holds the secret hunter2 in every way that a
// valid file can.
func withSecrets(t *testing.T, name string) *registry.Config {
	t.Helper()
	config, diags := registry.Parse("test.yaml", []byte(`
# the old login: password: hunter2
# client_secret: |
#   hunter2
services:
  - name: `+name+`
    type: t
    category: c
    runner_config:
      base_url: "http://192.0.2.1"
      headers: { Authorization: "Bearer hunter2", X-Api-Key: hunter2, X-Var: "${API_TOKEN}", X-Login: "http://u:hunter2@h/?token=hunter2",
        X-Default: "${DB_PASSWORD:-hunter2}" } # token=hunter2
    operations: [{ name: run, input_schema: { password: { type: string, default: hunter2 } }, output_schema: {} }]
  - name: script
    type: t
    category: c
    execution_type: shell
    runner_config:
      working_directory: /tmp
      environment:
        PRIVATE_KEY: |
          -----BEGIN RSA PRIVATE KEY-----
          hunter2
          -----END RSA PRIVATE KEY-----
        NOTE: the value hunter2-of-the-token written out
    security_policy: { allowed_commands: ["/bin/true"] }
    operations: [{ name: run, input_schema: {}, output_schema: {}, command: ["/bin/true", "--password", "hunter2"] }]
alerts:
  - { name: a, condition: "error_rate > 0.1", notify: ["https://hooks.slack.com/services/T/B/hunter2"] }
production:
  services:
    - name: script
      runner_config: { environment: { TOKEN: hunter2 } }
`), registry.Options{LookupEnv: func(name string) (string, bool) { return "hunter2-of-the-token", name == "API_TOKEN" }})
	if config == nil {
		t.Fatal(diags.Err())
	}
	return config
}

func TestEveryAppliedVersionIsKeptOnceAndNoTableHoldsASecret(t *testing.T) {
	w := newWorld(t)
	a, b := withSecrets(t, "a"), withSecrets(t, "b")
	both := []runners.Runner{fake{jobs.HTTP, ok}, fake{jobs.Shell, ok}}
	one, _ := w.start(Options{Name: "one", Config: a, Runners: both})
	two, _ := w.start(Options{Name: "two", Config: a, Runners: both})
	want := " " + a.Hash[:8]
	for _, next := range []*registry.Config{b, a} {
		w.until("the history "+want, func() bool { return w.text(history) == want })
		one.Apply(next)
		two.Apply(next)
		want += ",  " + next.Hash[:8]
	}
	w.until("the history "+want, func() bool { return w.text(history) == want })
	applied := w.text(`SELECT string_agg(concat_ws(' ', left(before_value->>'hash', 8), left(after_value->>'hash', 8), after_value->>'changes'), '; ' ORDER BY id)
		FROM jobs.tb_audit WHERE action = 'registry-applied' AND actor LIKE 'agent %' AND target = 'test.yaml'`)
	for _, part := range []string{a.Hash[:8] + " first version; ", a.Hash[:8] + " " + b.Hash[:8] + " added b; removed a; ", b.Hash[:8] + " " + a.Hash[:8] + " added a; removed b"} {
		if !strings.Contains(applied, part) {
			t.Errorf("the audit log lacks %q: %s", part, applied)
		}
	}
	w.until("the lanes", func() bool { return w.text(`SELECT count(*) > 1 FROM jobs.tb_lane`) == "true" })
	for _, table := range []string{"tb_registry_version", "tb_audit", "tb_agent", "tb_lane", "tb_upkeep"} {
		all := w.text(`SELECT string_agg(t::text, E'\n') FROM jobs.` + table + ` t`)
		if i := strings.Index(all, "hunter"); i >= 0 {
			t.Errorf("jobs.%s holds a secret: …%s…", table, all[max(0, i-60):min(len(all), i+40)])
		}
		if all == "" {
			t.Errorf("jobs.%s is empty", table)
		}
	}
	if kept := w.text(`SELECT document FROM jobs.tb_registry_version LIMIT 1`); !strings.Contains(kept, "X-Var: \"${API_TOKEN}\"") || !strings.Contains(kept, "error_rate > 0.1") {
		t.Errorf("the text is not the file's own:\n%s", kept)
	}
}

func TestAnAgentThatStartsWithAChangedFileSaysWhatChanged(t *testing.T) {
	w := newWorld(t)
	web := []runners.Runner{fake{jobs.HTTP, ok}}
	_, stop := w.start(Options{Name: "old", Config: parse(t, "a:http"), Runners: web})
	w.until("the first version", func() bool { return w.text(history) != "" })
	stop()
	w.start(Options{Name: "new", Config: parse(t, "a:http", "b:http"), Runners: web})
	w.until("the change", func() bool {
		return w.text(`SELECT after_value->>'changes' FROM jobs.tb_audit WHERE actor = 'agent new'`) == "added b"
	})
}

// follow runs an agent on a registry file that is looked at only when asked.
func (w *world) follow(path string) *Agent {
	w.t.Helper()
	config, diags, err := registry.Load(path, registry.Options{})
	if err != nil || config == nil {
		w.t.Fatal(err, diags)
	}
	a, _ := w.start(Options{Config: config, Runners: []runners.Runner{fake{jobs.HTTP, ok}}})
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	watcher := registry.NewWatcher(path, registry.Options{}, registry.WatchOptions{Loaded: config, Poll: time.Hour, Debounce: time.Hour})
	go a.Follow(ctx, watcher)
	w.until("the agent follows its file", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.reload != nil })
	w.until("it is registered", func() bool { return w.text(`SELECT count(*) FROM jobs.tb_agent`) == "1" })
	return a
}

func one(name string) string {
	return "services:\n- name: " + name + "\n  type: t\n  category: c\n  runner_config: {base_url: 'http://192.0.2.1'}\n  operations: [{name: run}]\n"
}

// reload asks for one as an operator does and waits for the answer.
func (w *world) reload() {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, `UPDATE jobs.tb_agent SET reload_asked_at = now()`); err != nil {
		w.t.Fatal(err)
	}
	w.until("the order is answered", func() bool {
		return w.text(`SELECT count(*) FROM jobs.tb_agent WHERE reload_asked_at IS NOT NULL`) == "0"
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOperatorsOrderToReloadIsObeyedAndAnswered(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "r.yaml")
	write(t, path, one("a"))
	w.follow(path)
	w.reload() // nothing changed, and yet it is answered
	hash := w.text(`SELECT registry_hash FROM jobs.tb_agent`)
	write(t, path, one("b"))
	w.enqueue(1, "b")
	w.reload()
	if now := w.text(`SELECT registry_hash FROM jobs.tb_agent`); now == hash {
		t.Error("the order was answered before the new file was shown")
	}
	w.until("the new service's job", func() bool { return w.count("status = 'completed'") == 1 })
}

func TestBadFileChangesNothingAndIsToldOnceAFault(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "r.yaml")
	write(t, path, one("a"))
	w.follow(path)
	hash := w.text(`SELECT registry_hash FROM jobs.tb_agent`)
	rejected := func() string {
		return w.text(`SELECT count(*) FROM jobs.tb_audit WHERE action = 'registry-rejected' AND actor LIKE 'agent %' AND target = $1`, path)
	}
	told := "0"
	for _, step := range []struct{ text, fault, times string }{
		{"services: {", "r.yaml:1:", "1"},
		{"services: {\n# more", "r.yaml:1:", "1"}, // the same fault
		{one("a") + "  nonsense: 1\n", "nonsense", "2"},
		{one("c"), "", "2"},
		{"services: {", "r.yaml:1:", "3"}, // again, after a good one
	} {
		write(t, path, step.text)
		w.reload()
		shown := w.text(`SELECT registry_error FROM jobs.tb_agent`)
		if step.fault == "" && shown != "" || !strings.Contains(shown, step.fault) {
			t.Errorf("%q shows the fault %q, want %q", step.text, shown, step.fault)
		}
		if told != step.times {
			w.until("it is told "+step.times+" times", func() bool { return rejected() == step.times })
			told = step.times
		}
		if step.fault != "" && told < "3" && w.text(`SELECT registry_hash FROM jobs.tb_agent`) != hash {
			t.Error("a bad file took the place of a good one")
		}
	}
	if rejected() != "3" {
		t.Errorf("told %s times, want 3", rejected())
	}
	if f := w.text(`SELECT after_value->>'fault' FROM jobs.tb_audit WHERE action = 'registry-rejected' AND after_value->>'fault' LIKE '%nonsense%'`); f == "" {
		t.Error("the audit log does not name the fault")
	}
	w.enqueue(1, "c")
	w.until("the last good registry goes on", func() bool { return w.count("status = 'completed'") == 1 })
}

func TestWaitingJobsGetTheTypesOfTheNewRegistryOnce(t *testing.T) {
	w := newWorld(t)
	if _, err := w.pool.Exec(w.ctx, `UPDATE jobs.tb_execution_type SET enabled = false`); err != nil { // all are held
		t.Fatal(err)
	}
	const n = 30_000
	w.enqueue(n, "a")
	w.enqueue(10, "stranger")
	both := []runners.Runner{fake{jobs.HTTP, ok}, fake{jobs.Shell, ok}}
	shell, web := parse(t, "a:shell"), parse(t, "a:http")
	first, _ := w.start(Options{Name: "one", Lease: time.Second, Config: shell, Runners: both})
	second, _ := w.start(Options{Name: "two", Lease: time.Second, Config: shell, Runners: both})
	outcome := func() string { return w.text(`SELECT outcome FROM jobs.tb_upkeep WHERE task = 'types'`) }
	w.until("they are shell jobs", func() bool { return outcome() == shell.Hash })
	if got := w.count("service_name = 'a' AND status = 'pending' AND execution_type = 'shell'"); got != n {
		t.Fatalf("%d of %d waiting jobs are shell", got, n)
	}
	for _, a := range []*Agent{first, second} {
		a.Apply(web)
		a.Apply(shell) // before the walk is over
		a.Apply(web)
	}
	w.until("they are http jobs again", func() bool { return outcome() == web.Hash })
	if got := w.count("status = 'pending' AND execution_type = 'http'"); got != n+10 {
		t.Errorf("%d of %d waiting jobs are http", got, n+10)
	}
	if lost := first.counts.leasesLost.Load() + second.counts.leasesLost.Load(); lost > 0 {
		t.Errorf("%d leases ran out meanwhile", lost)
	}
}

func TestLanesAreWrittenAgainWhenTheirAgentIsGone(t *testing.T) {
	w := newWorld(t)
	web := []runners.Runner{fake{jobs.HTTP, ok}}
	old, _ := w.start(Options{Name: "old", Lease: time.Second, Config: parse(t, "a:http"), Runners: web})
	w.until("the lane", func() bool { return w.text(`SELECT count(*) FROM jobs.tb_lane`) == "1" })
	_, stop := w.start(Options{Name: "new", Config: parse(t, "a:http", "b:http"), Runners: web})
	w.until("both lanes", func() bool { return w.text(`SELECT count(DISTINCT registry_hash) + count(*) FROM jobs.tb_lane`) == "3" })
	stop()
	conn, err := old.connect(w.ctx, forUpkeep)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	if stand, err := jobs.LanesStand(w.ctx, conn, []string{"a"}); err != nil || stand {
		t.Fatalf("the lane of an agent that is gone stands: %v", err)
	}
	// keepLease owns these, so another agent of the same registry looks here.
	again, err := New(Options{DatabaseURL: w.url, Name: "old", Config: old.config(), Runners: web})
	if err != nil {
		t.Fatal(err)
	}
	again.published, again.lanesSeen = old.config(), time.Now().Add(-2*lanesEvery)
	if err := again.publish(w.ctx, conn); err != nil {
		t.Fatal(err)
	}
	if stand, err := jobs.LanesStand(w.ctx, conn, []string{"a"}); err != nil || !stand {
		t.Errorf("the lane was not written again: %v", err)
	}
}
