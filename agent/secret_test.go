package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// kept gathers what is logged, from any goroutine.
type kept struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all.Write(p)
}

func (k *kept) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all.String()
}

func TestASecretOfAFileIsReadAnewAndStandsNowhere(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "token"), filepath.Join(dir, "registry.yaml")
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := "services:\n- name: shop\n  type: t\n  category: c\n  runner_config:\n    base_url: http://192.0.2.1\n    headers: { X-Trace: \"v ${file:" + secret + "}\" }\n  operations: [{ name: run }]\n"
	put(secret, "planted-first\n")
	put(file, text)
	var logged kept
	log := slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	config, diags, err := registry.Load(file, registry.Options{})
	if err != nil || config == nil {
		t.Fatal(err, diags)
	}
	seen := make(chan string, 10)
	run := fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		seen <- c.Service.RunnerConfig.Headers["X-Trace"]
		return runners.Result{}, nil
	}}
	a, _ := w.start(Options{Config: config, Runners: []runners.Runner{run}, Log: log})
	watcher := registry.NewWatcher(file, registry.Options{}, registry.WatchOptions{Loaded: config, Poll: time.Hour, Debounce: time.Millisecond, Logger: log})
	watching, stop := context.WithCancel(context.Background())
	defer stop()
	go a.Follow(watching, watcher)

	w.enqueue(1, "shop")
	if got := <-seen; got != "v planted-first" {
		t.Fatalf("the job got %q", got)
	}
	put(secret, "planted-second\n")
	// A claim that is under way goes by the snapshot that it began with.
	w.until("a job gets the new secret", func() bool {
		w.enqueue(1, "shop")
		return <-seen == "v planted-second"
	})
	put(file, strings.Replace(text, "type: t", "tpye: t", 1)) // a rejected file
	w.until("the file is rejected", func() bool { return a.Stats().Rejected != "" })
	put(file, strings.Replace(text, "category: c", "category: d", 1)) // a version more
	w.until("the history has both", func() bool {
		var n int
		w.scan(&n, "SELECT count(*) FROM jobs.tb_registry_version")
		return n == 2
	})
	w.until("all jobs are recorded", func() bool { return w.count("status <> 'completed'") == 0 })

	programs, err := devdb.Find(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	dump, err := exec.CommandContext(w.ctx, filepath.Join(programs.Dir, "pg_dump"), "--dbname", w.url).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(dump, []byte("category: d")) {
		t.Error("the dump does not hold the history: this test searches in nothing")
	}
	if !strings.Contains(logged.String(), "registry applied") {
		t.Error("the log does not hold what was applied: this test searches in nothing")
	}
	v := registry.Validate(file, registry.Options{})
	var shown strings.Builder
	asJSON, err := json.Marshal(v)
	for _, err := range []error{err, v.WriteText(&shown, true), v.Diagnostics.WriteSARIF(&shown, "1"), v.Diagnostics.WriteGitHub(&shown), v.Config.WriteYAML(&shown)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, text := range map[string]string{"database": string(dump), "log": logged.String(), "reports": shown.String() + string(asJSON),
		"diff": registry.Diff(config, v.Config).String(), "redacted text": v.Config.Redacted()} {
		if i := strings.Index(text, "planted-"); i >= 0 {
			t.Errorf("the %s shows a secret: …%s…", what, text[max(0, i-80):min(len(text), i+40)])
		}
	}
}
