package docker

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

const digestA, digestB = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func TestImagesArePermittedByTheirWholeName(t *testing.T) {
	for _, c := range []struct {
		allowed, image string
		permitted      bool
	}{
		{"python:3.11-slim", "python:3.11-slim", true},
		{"python:3.11-slim", "docker.io/library/python:3.11-slim", true}, // the same image, spelt out
		{"index.docker.io/library/python:3.11-slim", "python:3.11-slim", true},
		{"python", "python:latest", true},
		{"python:3.11-slim", "python", false},
		{"python:3.11-slim", "python:3.11", false},
		{"python:3.11-slim", "python:3.11-slim-evil", false},
		{"python:3.11-slim", "evil/python:3.11-slim", false},
		{"python:3.11-slim", "evil.example.com/python:3.11-slim", false},
		{"python:3.11-slim", "docker.io/evil/python:3.11-slim", false},
		{"python:3.11-slim", "localhost/python:3.11-slim", false},
		{"python:3.11-slim", "python:3.11-SLIM", false}, // tags know case
		{"registry.example.com/app:1", "registry.example.com:5000/app:1", false},
		{"registry.example.com/app:1", "registry.example.com.evil.org/app:1", false},
		{"registry.example.com/app:1", "REGISTRY.example.com/app:1", false},
		{"python:3.11-slim", "python:3.11-slim" + digestA, false}, // the digest alone says what it is
		{"python" + digestA, "python" + digestA, true},
		{"python" + digestA, "python:3.11-slim" + digestA, true},
		{"python:3.11" + digestA, "python" + digestA, true},
		{"python" + digestA, "python" + digestB, false},
		{"python" + digestA, "evil/python" + digestA, false},
		{"python" + digestA, "python:3.11-slim", false},
		{digestA[1:], digestA[1:], true},
		{digestA[1:], digestB[1:], false},
		{"aaaaaaaaaaaa", digestA[1:], false}, // a name is never the beginning of an ID
	} {
		p := policy{service: "s", images: []string{"debian:12", c.allowed}}
		_, err := p.permitImage(c.image)
		if c.permitted && err != nil {
			t.Errorf("%s with %s on the list: %v", c.image, c.allowed, err)
		}
		var refused *runners.PolicyError
		if !c.permitted && (!errors.As(err, &refused) || refused.Rule != "allowed_images") {
			t.Errorf("%s with %s on the list: %v, want a refusal", c.image, c.allowed, err)
		}
	}
	for _, image := range []string{"", "Python:3.11", "PYTHON", "python:3.11 --privileged", "python:", "python@sha256:short", "../python", "python:3.11\n", "http://evil/python", "-v/:/host"} {
		p := policy{service: "s"}
		if _, err := p.permitImage(image); err == nil || runners.Retryable(err) {
			t.Errorf("%q is taken for an image's name: %v", image, err)
		}
	}
}

// A reference that is permitted reaches the engine in one spelling, and that
// is never one of an image's ID.
func TestCanonicalReferencesSayEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		given := rapid.StringMatching(`[a-f0-9]{1,64}|[a-z0-9./:@_-]{1,40}`).Draw(rt, "reference")
		ref, err := canonical(given)
		if err != nil {
			return
		}
		again, err := canonical(ref)
		if err != nil || again != ref {
			rt.Errorf("%q becomes %q and then %q (%v)", given, ref, again, err)
		}
		if !imageID.MatchString(ref) && !strings.Contains(ref, "/") {
			rt.Errorf("%q becomes %q, which names no registry", given, ref)
		}
	})
}

func TestVolumesAreHeldAgainstThePolicyByWhereTheyAre(t *testing.T) {
	root := t.TempDir()
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"data/models", "data-secret", "other"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join(root, "other"), "data/elsewhere")
	link("../data-secret", "data/relative")
	link("/", "data/all")
	link(filepath.Join(root, "data"), "alias")
	listener, err := net.Listen("unix", filepath.Join(root, "data", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	in := func(name string) string { return root + "/" + name }
	engineSocket := in("data/s")

	for _, c := range []struct {
		name      string
		allowed   []string
		path      string
		permitted bool
	}{
		{"the directory", []string{in("data")}, in("data"), true},
		{"below it", []string{in("data")}, in("data/models"), true},
		{"with a slash at the end", []string{in("data") + "/"}, in("data/models") + "/", true},
		{"the list names a link", []string{in("alias")}, in("data/models"), true},
		{"a prefix that is no directory", []string{in("data")}, in("data-secret"), false},
		{"by ..", []string{in("data")}, in("data/../data-secret"), false},
		{"by .. and back", []string{in("data")}, in("data/models/../models"), true},
		{"by a link", []string{in("data")}, in("data/elsewhere"), false},
		{"by a relative link", []string{in("data")}, in("data/relative"), false},
		{"by a link and ..", []string{in("data")}, in("data/elsewhere/../data-secret"), false},
		{"the root by a link", []string{in("data")}, in("data/all"), false},
		{"the root by a link, with a list of everything", []string{"/"}, in("data/all"), true},
		{"above", []string{in("data/models")}, in("data"), false},
		{"the root", nil, "/", false},
		{"the root, below something listed", []string{in("data")}, "/", false},
		{"the root, listed", []string{"/"}, "/", true},
		{"a dot and slashes", nil, "//", false},
		{"something else while the root is listed", []string{"/"}, in("other"), true},
		{"/etc, which holds a key", nil, "/etc", false},
		{"/etc, listed", []string{"/etc"}, "/etc", true},
		{"/etc, within what is listed", []string{"/"}, "/etc", false},
		{"/proc", nil, "/proc", false},
		{"below /proc", nil, "/proc/1", false},
		{"/sys", []string{"/"}, "/sys", false},
		{"a device", []string{"/dev"}, "/dev/null", false},
		{"the engine's socket", []string{in("data")}, engineSocket, false},
		{"what holds the engine's socket", []string{root}, in("data"), false},
		{"the engine's socket, listed", []string{engineSocket}, engineSocket, true},
	} {
		if strings.Contains(c.name, "socket") {
			p := policy{service: "s", hostPaths: c.allowed}
			checkMount(t, c.name, &p, c.path, engineSocket, c.permitted)
			continue
		}
		p := policy{service: "s", hostPaths: c.allowed}
		checkMount(t, c.name, &p, c.path, "/var/run/docker.sock", c.permitted)
	}
	for _, c := range []struct {
		name string
		row  []string
		ok   bool
	}{
		{"the row narrows to it", []string{in("data/models")}, true},
		{"the row leaves it out", []string{in("other")}, false},
		{"the row permits nothing", []string{}, false},
		{"the row asks for more", []string{"/"}, true},
	} {
		p := policy{service: "s", hostPaths: []string{in("data")}, rowPaths: c.row}
		checkMount(t, c.name, &p, in("data/models"), "", c.ok)
	}
	p := policy{service: "s", maxVolumes: 1}
	_, err = p.mounts([]registry.Volume{{HostPath: in("data"), ContainerPath: "/a"}, {HostPath: in("other"), ContainerPath: "/b"}}, facts{local: true}, "")
	wantRefusal(t, "two volumes", err, "volume_restrictions.max_volumes")
	for _, target := range []string{"/", "/.", "relative", "/proc/x", "/sys", "/dev", "/a/../proc"} {
		p := policy{service: "s"}
		if _, err := p.mounts([]registry.Volume{{HostPath: in("data"), ContainerPath: target}}, facts{local: true}, ""); err == nil {
			t.Errorf("container_path %s is mounted on", target)
		}
	}
}

func checkMount(t *testing.T, name string, p *policy, path, socket string, permitted bool) {
	t.Helper()
	list, err := p.mounts([]registry.Volume{{HostPath: path, ContainerPath: "/v"}}, facts{local: true, root: "/var/lib/docker"}, socket)
	if !permitted {
		wantRefusal(t, name+" "+path, err, "volume_restrictions.allowed_host_paths")
		return
	}
	if err != nil {
		t.Errorf("%s: %s: %v", name, path, err)
		return
	}
	if real, _ := filepath.EvalSymlinks(path); list[0].Source != real || !list[0].ReadOnly {
		t.Errorf("%s: mounted is %+v, want %s for reading", name, list[0], real)
	}
}

func wantRefusal(t *testing.T, what string, err error, rule string) {
	t.Helper()
	var refused *runners.PolicyError
	if !errors.As(err, &refused) || refused.Rule != rule || runners.Retryable(err) {
		t.Errorf("%s: %v, want a refusal by %s", what, err, rule)
	}
}

func TestARemoteEnginesVolumesAreHeldAgainstThePolicyByName(t *testing.T) {
	p := policy{service: "s", hostPaths: []string{"/srv/data"}}
	for path, permitted := range map[string]bool{"/srv/data/x": true, "/srv/data-secret": false, "/srv/data/../x": false, "/run": false, "/": false} {
		_, err := p.mounts([]registry.Volume{{HostPath: path, ContainerPath: "/v"}}, facts{}, "")
		if permitted != (err == nil) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestARowCannotWiden(t *testing.T) {
	base := func() runners.Call {
		call := newCall("argv")
		call.Service.RunnerConfig.Volumes = []registry.Volume{{HostPath: "/srv/models", ContainerPath: "/models", Mode: "ro"}}
		return call
	}
	for _, c := range []struct{ name, config, context, rule string }{
		{"another image", `{"image": "evil"}`, ``, "allowed_images"},
		{"its own image", `{"image": "docker.io/library/` + testImage + `"}`, ``, ""},
		{"a volume", `{"volumes": [{"host_path": "/", "container_path": "/host"}]}`, ``, "volume_restrictions"},
		{"a volume as text", `{"volumes": ["/:/host"]}`, ``, "volume_restrictions"},
		{"its volume, for writing", `{"volumes": [{"host_path": "/srv/models", "container_path": "/models", "mode": "rw"}]}`, ``, "volume_restrictions"},
		{"its own volume", `{"volumes": [{"host_path": "/srv/models", "container_path": "/models", "mode": "ro"}]}`, ``, ""},
		{"the host's network", `{"network_mode": "host"}`, ``, "network_isolation"},
		{"no network", `{"network_mode": "none"}`, ``, ""},
		{"another user", `{"user": "root"}`, ``, "user"},
		{"longer allow-lists", ``, `{"allowed_images": ["evil", "` + testImage + `"], "network_isolation": false}`, ""},
		{"an allow-list without its image", ``, `{"allowed_images": ["evil"]}`, "allowed_images"},
		{"privileges, devices, capabilities, namespaces", `{"privileged": true, "devices": ["/dev/mem"], "cap_add": ["ALL"], "pid_mode": "host", "ipc_mode": "host", "security_opt": ["seccomp=unconfined"], "userns_mode": "host"}`, `{"privileged": true}`, ""},
	} {
		call := base()
		call.Job.RunnerConfig, call.Job.SecurityContext = []byte(c.config), []byte(c.context)
		p, err := effectivePolicy(call)
		if err == nil {
			_, err = p.permitImage(call.Service.RunnerConfig.Image)
		}
		if c.rule != "" {
			wantRefusal(t, c.name, err, c.rule)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		s, err := newSpec(p, call.Service.RunnerConfig, picture{}, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		// Whatever a row says, a container is made like this.
		h := s.host
		if h.Privileged || len(h.Devices) > 0 || len(h.DeviceRequests) > 0 || len(h.CapAdd) > 0 || len(h.CapDrop) != 1 || h.CapDrop[0] != "ALL" ||
			h.PidMode != "" || h.IpcMode != "private" || h.UTSMode != "" || h.UsernsMode != "" || h.NetworkMode != "none" ||
			len(h.SecurityOpt) != 1 || h.SecurityOpt[0] != "no-new-privileges" || len(h.Binds) > 0 || len(h.VolumesFrom) > 0 || len(h.Links) > 0 || h.Cgroup != "" || h.Runtime != "" {
			b, _ := json.Marshal(h)
			t.Errorf("%s: the container is made with %s", c.name, b)
		}
	}
}

func TestNetworksThatTheRegistryCanAskFor(t *testing.T) {
	on, off := true, false
	for _, c := range []struct {
		mode     string
		isolated *bool
		row      bool
		want     string // empty: refused
	}{
		{"", nil, false, "none"},
		{"", &on, false, "none"},
		{"none", nil, false, "none"},
		{"none", &off, false, "none"},
		{"", &off, false, "bridge"},
		{"internal-net", &off, false, "internal-net"},
		{"internal-net", &off, true, "none"},
		{"internal-net", &on, false, ""},
		{"bridge", nil, false, ""},
		{"host", &off, false, ""},
		{"HOST", &off, false, ""},
		{" host", &off, false, ""},
		{"host", &off, true, ""},
		{"container:abc", &off, false, ""},
		{"ns:/proc/1/ns/net", &off, false, ""},
	} {
		isolated := c.isolated == nil || *c.isolated
		got, err := network("s", c.mode, isolated, c.row)
		if c.want == "" {
			wantRefusal(t, c.mode, err, "network_isolation")
		} else if err != nil || got != c.want {
			t.Errorf("network_mode %q, isolation %v, row %v: %q, %v, want %q", c.mode, isolated, c.row, got, err, c.want)
		}
	}
}

// No word of the policy, wherever it stands, lets a path out that is not below
// what is listed.
func TestNoPathIsPermittedThatIsNotBelowTheList(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b/c", "ab", "z"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Symlink("../z", filepath.Join(root, "a", "out"))
	_ = os.Symlink("b", filepath.Join(root, "a", "in"))
	part := rapid.SampledFrom([]string{"a", "b", "c", "ab", "z", "out", "in", "..", ".", ""})
	rapid.Check(t, func(rt *rapid.T) {
		path := root + "/" + strings.Join(rapid.SliceOfN(part, 1, 6).Draw(rt, "parts"), "/")
		p := policy{service: "s", hostPaths: []string{root + "/a"}}
		list, err := p.mounts([]registry.Volume{{HostPath: path, ContainerPath: "/v"}}, facts{local: true}, "")
		if err != nil {
			return
		}
		if source := list[0].Source; source != root+"/a" && !strings.HasPrefix(source, root+"/a/") {
			rt.Errorf("%s mounts %s", path, source)
		}
	})
}
