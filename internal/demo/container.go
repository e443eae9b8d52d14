package demo

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/examples"
)

// image is the demo's own image in the Docker engine.
type image struct {
	engine *client.Client
	tag    string
}

// buildImage builds the example's program, static, and gives it to the engine
// as an image that holds nothing else. No image registry takes part. The error
// says why there is none.
func buildImage(ctx context.Context) (*image, error) {
	engine, err := client.New(client.FromEnv)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := engine.Ping(asking, client.PingOptions{}); err != nil {
		engine.Close()
		return nil, fmt.Errorf("no Docker engine answers: %w", err)
	}
	program, err := buildProgram(ctx)
	if err != nil {
		engine.Close()
		return nil, err
	}
	i := &image{engine, "specql-demo/predictor:" + strings.ToLower(rand.Text()[:8])}
	if err := i.load(ctx, program); err != nil {
		engine.Close()
		return nil, err
	}
	return i, nil
}

// buildProgram compiles examples/containers/predictor, of which this program
// carries the source.
func buildProgram(ctx context.Context) ([]byte, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, fmt.Errorf("the example's image needs Go to be built: %w", err)
	}
	dir, err := os.MkdirTemp("", "specql-demo-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, err := examples.Files.ReadFile("containers/predictor/main.go")
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"main.go": source, "go.mod": []byte("module predictor\n\ngo 1.24\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return nil, err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", "predictor", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the example's program: %w: %s", err, bytes.TrimSpace(said))
	}
	return os.ReadFile(filepath.Join(dir, "predictor"))
}

// load gives the engine an image in the form of docker save.
func (i *image) load(ctx context.Context, program []byte) error {
	layer, err := archive(map[string][]byte{"predictor": program})
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"/predictor"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest := fmt.Sprintf(`[{"Config": "config.json", "RepoTags": [%q], "Layers": ["layer.tar"]}]`, i.tag)
	whole, err := archive(map[string][]byte{"config.json": config, "layer.tar": layer, "manifest.json": []byte(manifest)})
	if err != nil {
		return err
	}
	loaded, err := i.engine.ImageLoad(ctx, bytes.NewReader(whole), client.ImageLoadWithQuiet(true))
	if err != nil {
		return fmt.Errorf("load the example's image: %w", err)
	}
	defer loaded.Close()
	_, err = io.Copy(io.Discard, loaded)
	return err
}

func archive(files map[string][]byte) ([]byte, error) {
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

// remove takes the image away again, when the agent has left.
func (i *image) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _ = i.engine.ImageRemove(ctx, i.tag, client.ImageRemoveOptions{PruneChildren: true}) // an engine that is gone has it still
	i.engine.Close()
}
