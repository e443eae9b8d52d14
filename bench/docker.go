package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/docker"
)

// containers measures single docker jobs, one after the other, in containers
// made for them and in containers started ahead.
func containers(ctx context.Context, l *lab) error {
	l.table.heading("Docker: single jobs, in a container started ahead of them against one made for them")
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := engine.Ping(ctx, client.PingOptions{}); err != nil {
		return fmt.Errorf("docker: no engine answers: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-docker-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "echo")
	if err := buildEcho(ctx, program); err != nil {
		return err
	}
	const tag = "specql-bench/echo:1"
	if err := loadEcho(ctx, engine, tag, program); err != nil {
		return err
	}
	defer engine.ImageRemove(context.WithoutCancel(ctx), tag, client.ImageRemoveOptions{PruneChildren: true})
	service := &registry.Service{Name: "echo", ExecutionType: jobs.Docker, RunnerConfig: registry.RunnerConfig{Image: tag},
		Operations: []registry.Operation{{Name: "run"}}}
	found, err := l.interleave(ctx, "docker", l.sizes.rounds, []side{
		{"made", func(ctx context.Context) (figures, error) {
			return dockerJobs(ctx, engine, service, docker.Options{}, l.sizes.containers)
		}},
		{"ahead", func(ctx context.Context) (figures, error) {
			return dockerJobs(ctx, engine, service, docker.Options{AheadMB: 256, Waiter: program}, l.sizes.containers)
		}},
	})
	if err != nil {
		return err
	}
	l.table.compare("start to result, median", found, of("ahead", "p50"), of("made", "p50"), milliseconds, atMost(0.25))
	return nil
}

// dockerJobs runs single jobs, each when the engine is done with the one before:
// its container is removed and, where they are started ahead, another one
// waits. Of these only jobs count that found one waiting; most must.
func dockerJobs(ctx context.Context, engine *client.Client, service *registry.Service, opts docker.Options, n int) (figures, error) {
	opts.Log = slog.New(slog.DiscardHandler)
	opts.Agent = "bench"
	r, err := docker.New(opts)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var took []time.Duration
	ahead := opts.AheadMB > 0
	for tries := 0; len(took) < n; tries++ {
		if tries > 3*n+20 {
			return nil, fmt.Errorf("only %d of %d jobs found a container waiting", len(took), tries)
		}
		call := runners.Call{Service: service, Operation: &service.Operations[0], Timeout: time.Minute,
			Job: &jobs.Job{ID: jobs.NewID(), Service: service.Name, Operation: "run", Attempt: 1, MaxAttempts: 1, Input: []byte(`{"n": 1}`)}}
		began := time.Now()
		result, err := r.Run(ctx, call)
		each := time.Since(began)
		if err != nil {
			return nil, err
		}
		if string(result.Output) != `{"n": 1}` {
			return nil, fmt.Errorf("a job answered %s", result.Output)
		}
		if (result.Security["started"] == "ahead") == ahead {
			took = append(took, each)
		}
		if err := settle(ctx, engine, ahead && tries > 0); err != nil {
			return nil, err
		}
	}
	return figures{"p50": quantile(took, 0.5)}, nil
}

// settle waits until none of the benchmark's containers is being made or
// removed, and one waits where one shall.
func settle(ctx context.Context, engine *client.Client, waiting bool) error {
	for {
		list, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "specql.agent=bench")})
		if err != nil {
			return err
		}
		run := 0
		for _, c := range list.Items {
			if c.State == container.StateRunning {
				run++
			}
		}
		if run == len(list.Items) && (run > 0 || !waiting) {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select { // what waits has come to wait
	case <-time.After(200 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// echoSource is the job's program: it answers with its input. It can also wait
// in a container, as the agent's own program does.
const echoSource = `package main

import (
	"io"
	"os"

	"github.com/specql/specql-ops/runners/docker/waiter"
)

func main() {
	waiter.Main()
	io.Copy(os.Stdout, os.Stdin)
}
`

func buildEcho(ctx context.Context, program string) error {
	// Within this module, which knows the project's packages.
	dir, err := os.MkdirTemp(".", "echo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(echoSource), 0o644); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "./"+dir)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the job's program: %w: %s", err, said)
	}
	return nil
}

// loadEcho gives the engine an image with the program alone.
func loadEcho(ctx context.Context, engine *client.Client, tag, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	layer, err := tarOf(map[string][]byte{"echo": content})
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/echo"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}}})
	if err != nil {
		return err
	}
	image, err := tarOf(map[string][]byte{"config.json": config, "layer.tar": layer,
		"manifest.json": fmt.Appendf(nil, `[{"Config": "config.json", "RepoTags": [%q], "Layers": ["layer.tar"]}]`, tag)})
	if err != nil {
		return err
	}
	loaded, err := engine.ImageLoad(ctx, bytes.NewReader(image), client.ImageLoadWithQuiet(true))
	if err != nil {
		return err
	}
	defer loaded.Close()
	_, err = io.Copy(io.Discard, loaded)
	return err
}

func tarOf(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
