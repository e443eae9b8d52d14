//go:build unix

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// stubborn never ends when it is run for the first time, and at once after that.
const stubborn = `package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if os.Mkdir("/state/begun", 0o755) == nil {
		time.Sleep(time.Hour)
	}
	fmt.Println("{}")
}
`

// importImage makes an image of one program, which is built here.
func importImage(t *testing.T, engine *client.Client, tag, source string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"main.go": source, "go.mod": "module program\n\ngo 1.24\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", "program", ".")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	program, err := os.ReadFile(filepath.Join(dir, "program"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := engine.ImageImport(t.Context(), client.ImageImportSource{Source: &b, SourceName: "-"}, tag, client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Close()
	t.Cleanup(func() {
		_, _ = engine.ImageRemove(context.Background(), tag, client.ImageRemoveOptions{Force: true})
	})
}

func TestAKilledAgentsContainerIsRemovedAndItsJobRunsAgain(t *testing.T) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		t.Skip(err)
	}
	defer engine.Close()
	if _, err := engine.Ping(t.Context(), client.PingOptions{}); err != nil {
		t.Skip(err)
	}
	tag := "specql-test-stubborn:" + jobs.NewID().String()[:8]
	importImage(t, engine, tag, stubborn)
	state := t.TempDir()
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, fmt.Appendf(nil, `services:
  - name: stubborn
    type: container
    category: test
    execution_type: docker
    runner_config: { image: %q, command: [/program], volumes: [{ host_path: %q, container_path: /state, mode: rw }] }
    operations: [{ name: run, input_schema: {}, output_schema: {} }]
`, tag, state), 0o600); err != nil {
		t.Fatal(err)
	}
	url := devdbtest.New(t, migrationstest.Migrated)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	args := []string{"--registry", registry, "--database-url", url, "--types", "docker", "--lease", "2s"}
	first := start(t, nil, args...)
	if _, err := pool.Exec(t.Context(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data) VALUES ('one', 'stubborn', 'run', '{}')`); err != nil {
		t.Fatal(err)
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never came true: %s", what)
			}
		}
	}
	containers := func() int {
		list, err := engine.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "specql.service=stubborn")})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	until("the job's program runs", func() bool {
		_, err := os.Stat(filepath.Join(state, "begun"))
		return err == nil
	})
	first.signal(syscall.SIGKILL)
	<-first.ended
	if n := containers(); n != 1 {
		t.Fatalf("%d containers outlive the agent, want 1", n)
	}
	second := start(t, nil, args...)
	var attempts int
	until("the job is completed", func() bool {
		return pool.QueryRow(t.Context(), "SELECT attempts FROM jobs.tb_job_run WHERE status = 'completed'").Scan(&attempts) == nil
	})
	if attempts != 2 {
		t.Errorf("the job took %d attempts, want 2", attempts)
	}
	until("no container is left", func() bool { return containers() == 0 })
	second.signal(syscall.SIGTERM)
	if err := <-second.ended; err != nil {
		t.Error(err)
	}
}

func TestAnAgentStartsWithoutADockerEngineAndSaysSo(t *testing.T) {
	registry := filepath.Join(t.TempDir(), "registry.yaml")
	if err := os.WriteFile(registry, []byte("services:\n- name: s\n  type: t\n  category: c\n  runner_config: {base_url: 'http://192.0.2.1'}\n  operations: [{name: run}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := devdbtest.New(t, migrationstest.Migrated)
	a := start(t, []string{"DOCKER_HOST=unix:///nowhere/docker.sock"}, "--registry", registry, "--database-url", url)
	a.until("/readyz", 200, `"ready"`)
	if said := a.said(); !regexp.MustCompile(`docker jobs wait.*/nowhere/docker.sock`).MatchString(said) || !regexp.MustCompile(`types="?\[http shell docker\]`).MatchString(said) {
		t.Errorf("it says:\n%s", said)
	}
	a.signal(syscall.SIGTERM)
	if err := <-a.ended; err != nil {
		t.Error(err)
	}
}
