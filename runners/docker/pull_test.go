package docker

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
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
	user   string // empty: anybody
	pulls  int    // of the manifest
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
	layer := tarOf(t, tarFile{"helper", program, 0o755}, tarFile{"pulled", []byte(t.Name()), 0o644})
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
			r.pulls++
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
	t.Cleanup(func() {
		_, _ = engine.ImageRemove(t.Context(), image, client.ImageRemoveOptions{Force: true, PruneChildren: true})
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
	before := registry.pulls
	mustRun(t, r, callOf(registry.image(":1")))
	if registry.pulls != before {
		t.Error("an image that is there was asked for again")
	}

	_, err := r.Run(t.Context(), callOf(registry.image(":none")))
	wantConfig(t, err, "cannot be pulled")
	_, err = r.Run(t.Context(), callOf(registry.image("@sha256:"+strings.Repeat("0", 64))))
	wantConfig(t, err, "cannot be pulled")
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
