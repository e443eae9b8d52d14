package docker

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/runners"
)

// imageRegistry speaks as much of the distribution API as a pull of one image
// needs (distribution.github.io/distribution/spec/api), on loopback, which
// engines take without TLS.
type imageRegistry struct {
	*httptest.Server
	digest string // of the manifest
	blobs  map[string][]byte
	user   string        // empty: anybody
	pulls  atomic.Int32  // of the manifest
	hold   chan struct{} // a pull waits until it is closed; nil: for nothing
}

func newImageRegistry(t *testing.T, user string) *imageRegistry {
	t.Helper()
	path, err := helper()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	layer := tarOf(t, tarFile{"helper", program, 0o755}, tarFile{"pulled", []byte(t.Name()), 0o644},
		tarFile{"once", []byte(rand.Text()), 0o644}) // no engine has it yet
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(layer); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Entrypoint": []string{"/helper"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}}})
	if err != nil {
		t.Fatal(err)
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",`+
		`"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%d,"digest":"sha256:%s"},`+
		`"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":%d,"digest":"sha256:%s"}]}`,
		len(config), sum(config), zipped.Len(), sum(zipped.Bytes()))
	r := &imageRegistry{digest: "sha256:" + sum([]byte(manifest)), user: user, blobs: map[string][]byte{
		"sha256:" + sum(config): config, "sha256:" + sum(zipped.Bytes()): zipped.Bytes()}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if name, password, _ := req.BasicAuth(); r.user != "" && (name != r.user || password != "open sesame") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		name := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
		var content []byte
		switch {
		case req.URL.Path == "/v2/":
		case strings.HasPrefix(req.URL.Path, "/v2/app/manifests/") && (name == "1" || name == r.digest):
			if req.Method == http.MethodGet {
				r.pulls.Add(1)
			}
			if r.hold != nil {
				<-r.hold
			}
			content = []byte(manifest)
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
			w.Header().Set("Docker-Content-Digest", r.digest)
		case strings.HasPrefix(req.URL.Path, "/v2/app/blobs/") && r.blobs[name] != nil:
			content = r.blobs[name]
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *imageRegistry) image(tag string) string {
	return strings.TrimPrefix(r.URL, "http://") + "/app" + tag
}

func removeImage(t *testing.T, engine *client.Client, image string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := engine.ImageRemove(context.Background(), image, client.ImageRemoveOptions{Force: true, PruneChildren: true}); err != nil {
			t.Error(err)
		}
	})
}

func callOf(image string) runners.Call {
	call := newCall("read", "/pulled")
	call.Service.RunnerConfig.Image = image
	call.Service.SecurityPolicy.AllowedImages = []string{image}
	return call
}

func TestAnImageIsPulledOnceByTagAndByDigestWithProgressInTheLog(t *testing.T) {
	engine := needEngine(t)
	r := runnerOn(t, engine, Options{})
	registry := newImageRegistry(t, "")
	for _, tag := range []string{":1", "@" + registry.digest} {
		call := callOf(registry.image(tag))
		removeImage(t, engine, call.Service.RunnerConfig.Image)
		if got := stdout(t, mustRun(t, r, call)); got != t.Name() {
			t.Errorf("%s: the image holds %q", tag, got)
		}
		lines, _ := call.Log.Tail()
		said := fmt.Sprint(lines)
		for _, want := range []string{"pulling", "pulled", "Status: "} {
			if tag == ":1" && !strings.Contains(said, want) {
				t.Errorf("%s: the log does not say %q: %s", tag, want, said)
			}
		}
	}
	before := registry.pulls.Load()
	mustRun(t, r, callOf(registry.image(":1")))
	if registry.pulls.Load() != before {
		t.Error("an image that is there was asked for again")
	}

	_, err := r.Run(t.Context(), callOf(registry.image(":none")))
	wantConfig(t, err, "cannot be pulled")
	_, err = r.Run(t.Context(), callOf(registry.image("@sha256:"+strings.Repeat("0", 64))))
	wantConfig(t, err, "cannot be pulled")
}

func TestOnePullServesAllJobsThatWaitForIt(t *testing.T) {
	engine := needEngine(t)
	r := runnerOn(t, engine, Options{})
	registry := newImageRegistry(t, "")
	registry.hold = make(chan struct{})
	image := registry.image(":1")
	removeImage(t, engine, image)
	calls := make([]runners.Call, 3)
	errs := make([]error, len(calls))
	var jobs sync.WaitGroup
	for i := range calls {
		calls[i] = callOf(image)
		jobs.Go(func() {
			_, errs[i] = r.Run(t.Context(), calls[i])
			calls[i].Log.Note("ended")
		})
		if lines, _, said := calls[i].Log.Since(0); len(lines) == 0 {
			<-said // that it waits for the pull
		}
	}
	close(registry.hold)
	jobs.Wait()
	for i, call := range calls {
		lines, _ := call.Log.Tail()
		if said := fmt.Sprint(lines); errs[i] != nil || lines[0].Text != "pulling "+call.Service.RunnerConfig.Image || !strings.Contains(said, "Pull complete") || !strings.Contains(said, "pulled "+image) {
			t.Errorf("job %d: %v, its log says %s", i, errs[i], said)
		}
	}
	if n := registry.pulls.Load(); n != 1 {
		t.Errorf("the image was pulled %d times", n)
	}
}

func TestPrivateImagesArePulledWithTheNamedCredentials(t *testing.T) {
	engine := needEngine(t)
	variables := map[string]string{"IMAGES_USER": "ci", "IMAGES_PASSWORD": "open sesame"}
	r := runnerOn(t, engine, Options{LookupEnv: func(name string) (string, bool) { v, ok := variables[name]; return v, ok }})
	registry := newImageRegistry(t, "ci")
	call := callOf(registry.image(":1"))
	removeImage(t, engine, registry.image(":1"))
	_, err := r.Run(t.Context(), call)
	wantConfig(t, err, "registry_auth")

	auth := &call.Service.RunnerConfig.RegistryAuth
	auth.UsernameEnvVar, auth.PasswordEnvVar, auth.ServerAddress = "IMAGES_USER", "IMAGES_NOWHERE", strings.TrimPrefix(registry.URL, "http://")
	_, err = r.Run(t.Context(), call)
	wantConfig(t, err, "IMAGES_NOWHERE")

	auth.PasswordEnvVar = "IMAGES_PASSWORD"
	result := mustRun(t, r, call)
	lines, _ := call.Log.Tail()
	if said := fmt.Sprint(result.Security, lines); strings.Contains(said, "sesame") {
		t.Error("the password is shown: " + said)
	}
}
