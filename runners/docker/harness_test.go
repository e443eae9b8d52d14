package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// testImage holds the helper as /helper and nothing else.
const testImage = "specql-test-helper:1"

// helper is the static program, built once.
var helper = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "dockertest")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "helper")
	build := exec.Command("go", "build", "-o", path, "./testdata/helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, said)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		playAgent()
	}
	status := m.Run()
	if path, err := helper(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	if engine, err := connect(""); err == nil && loaded.Load() {
		_, err := engine.ImageRemove(context.Background(), testImage, client.ImageRemoveOptions{Force: true})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

// loaded tells that a test gave the engine the image.
var loaded atomic.Bool

// needEngine skips a test where no engine answers, and loads the image where
// one does.
func needEngine(t *testing.T) *client.Client {
	t.Helper()
	e, err := connect("")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { e.Close() })
	if _, err := e.ready(t.Context()); err != nil {
		t.Skip(err)
	}
	loadImage(t, e.Client)
	return e.Client
}

// loadImage gives the engine the image, as docker load does.
func loadImage(t *testing.T, engine *client.Client) {
	t.Helper()
	path, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := engine.ImageLoad(t.Context(), bytes.NewReader(imageTar(t, testImage, program)))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	said, err := io.ReadAll(got)
	if err != nil || !strings.Contains(string(said), "Loaded image") {
		t.Fatalf("%v: %s", err, said)
	}
	loaded.Store(true)
}

// imageTar is an image in the form of docker save: one layer with the program
// as /helper, its entrypoint, and a writable /tmp.
func imageTar(t *testing.T, tag string, program []byte) []byte {
	t.Helper()
	layer := tarOf(t, tarFile{"helper", program, 0o755}, tarFile{"tmp/", nil, 0o777})
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/helper"}, "Env": []string{"PATH=/", "FROM_IMAGE=yes"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, tag)
	return tarOf(t, tarFile{"config.json", config, 0o644}, tarFile{"layer.tar", layer, 0o644}, tarFile{"manifest.json", []byte(manifest), 0o644})
}

type tarFile struct {
	name    string
	content []byte
	mode    int64
}

func tarOf(t *testing.T, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newRunner makes a runner that must leave nothing of its own behind.
func newRunner(t *testing.T, opts Options) *Runner {
	t.Helper()
	engine := needEngine(t)
	return runnerOn(t, engine, opts)
}

func runnerOn(t *testing.T, engine *client.Client, opts Options) *Runner {
	t.Helper()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	opts.Agent = "test"
	if opts.Grace == 0 {
		opts.Grace = time.Second
	}
	r, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left := ownContainers(t, engine); len(left) > 0 {
			t.Errorf("containers left behind: %v", left)
		}
		volumes, err := engine.VolumeList(context.Background(), client.VolumeListOptions{Filters: make(client.Filters).Add("label", labelOwner+"="+process())})
		if err != nil || len(volumes.Items) > 0 {
			t.Errorf("%d volumes left behind, %v", len(volumes.Items), err)
		}
		if c := r.groups; c != nil {
			for _, mount := range c.all {
				if _, err := os.Stat(filepath.Join(mount, c.dir)); err == nil {
					t.Errorf("cgroup left behind: %s", filepath.Join(mount, c.dir))
				}
			}
		}
	})
	return r
}

// ownContainers lists the containers that this process made.
func ownContainers(t *testing.T, engine *client.Client) (names []string) {
	t.Helper()
	list, err := engine.ContainerList(context.Background(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelOwner+"="+process())})
	if err != nil {
		t.Error(err)
	}
	for _, c := range list.Items {
		names = append(names, c.Names[0])
	}
	slices.Sort(names)
	return names
}

var jobNumber atomic.Uint32

// newCall is a job of a service that runs the helper with arguments.
func newCall(args ...string) runners.Call {
	n := jobNumber.Add(1)
	id := jobs.ID{15: byte(n), 14: byte(n >> 8), 13: byte(n >> 16), 0: byte(os.Getpid()), 1: byte(os.Getpid() >> 8)}
	service := &registry.Service{
		Name:           "helper",
		ExecutionType:  jobs.Docker,
		RunnerConfig:   registry.RunnerConfig{Image: testImage},
		SecurityPolicy: registry.SecurityPolicy{AllowedImages: []string{testImage}},
		Operations:     []registry.Operation{{Name: "run", Command: args}},
	}
	return runners.Call{
		Job:       &jobs.Job{ID: id, Identifier: "job-" + id.String(), Service: "helper", Operation: "run", Attempt: 1, MaxAttempts: 3},
		Service:   service,
		Operation: &service.Operations[0],
		Timeout:   5 * time.Minute,
		Log:       runners.NewLog(),
	}
}

func mustRun(t *testing.T, r *Runner, call runners.Call) runners.Result {
	t.Helper()
	result, err := r.Run(t.Context(), call)
	if err != nil {
		t.Fatalf("%v\noutput: %s", err, result.Output)
	}
	return result
}

// stdout is the text that a job wrote.
func stdout(t *testing.T, result runners.Result) string {
	t.Helper()
	var out struct {
		Stdout string `json:"stdout"`
	}
	if err := json.Unmarshal(result.Output, &out); err != nil {
		t.Fatalf("%v: %s", err, result.Output)
	}
	return out.Stdout
}

// awaitLine returns once the job has said the line.
func awaitLine(t *testing.T, log *runners.Log, line string) {
	t.Helper()
	deadline := time.After(40 * time.Second)
	for next := int64(0); ; {
		lines, to, more := log.Since(next)
		for _, l := range lines {
			if strings.Contains(l.Text, line) {
				return
			}
		}
		next = to
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("the job never said %q", line)
		}
	}
}

func wantLimit(t *testing.T, err error, limit string) {
	t.Helper()
	var e *runners.LimitError
	if !errors.As(err, &e) || e.Limit != limit || !strings.HasPrefix(err.Error(), "Resource limit: ") {
		t.Errorf("error %v, want the limit %s", err, limit)
	}
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}

func newStreams() *program.Streams {
	return program.NewStreams(program.Usual, nil, nil)
}
