package docker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"github.com/specql/specql-ops/runners"
)

// privateEngine is a second engine of this test alone: its own data, socket
// and containers, and nothing of the host's network.
type privateEngine struct {
	*client.Client
	t    *testing.T
	dir  string
	host string
	cmd  *exec.Cmd
	log  *os.File

	containerd *exec.Cmd // beside it, as on most hosts: containers outlive the engine
}

func newPrivateEngine(t *testing.T, config string) *privateEngine {
	t.Helper()
	for _, program := range []string{"dockerd", "containerd"} {
		if _, err := exec.LookPath(program); err != nil || os.Geteuid() != 0 {
			t.Skip("a second engine needs dockerd, containerd and root")
		}
	}
	dir, err := os.MkdirTemp("", "engine") // short, as socket names must be
	if err != nil {
		t.Fatal(err)
	}
	p := &privateEngine{t: t, dir: dir, host: "unix://" + dir + "/s"}
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := os.ReadFile(p.log.Name())
			t.Logf("the engine said, at last:\n%s", said[max(0, len(said)-3000):])
		}
		p.stop()
		if p.containerd != nil {
			_ = p.containerd.Process.Signal(syscall.SIGTERM)
			_ = p.containerd.Wait()
		}
		p.log.Close()
		// The containers' mounts, where the engine was killed.
		_ = exec.Command("sh", "-c", "grep -o ' "+dir+"[^ ]*' /proc/mounts | sort -r | xargs -r umount -l").Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil { // and not the host's
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containerd.toml"), []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.containerd = p.run("containerd", "--config", dir+"/containerd.toml", "--root", dir+"/containerd", "--state", dir+"/state", "--address", dir+"/c")
	p.start()
	e, err := connect(p.host)
	if err != nil {
		t.Fatal(err)
	}
	p.Client = e.Client
	t.Cleanup(func() { e.Close() })
	p.await()
	loadImage(t, p.Client)
	return p
}

func (p *privateEngine) start() {
	p.t.Helper()
	p.cmd = p.run("dockerd", "--config-file", p.dir+"/config", "--host", p.host, "--data-root", p.dir+"/data", "--exec-root", p.dir+"/exec",
		"--containerd", p.dir+"/c", "--pidfile", p.dir+"/pid", "--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
		"--storage-driver", "vfs", "--shutdown-timeout", "1")
}

func (p *privateEngine) run(name string, args ...string) *exec.Cmd {
	p.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return cmd
}

// await returns when the engine answers.
func (p *privateEngine) await() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		if _, err := p.Ping(ctx, client.PingOptions{}); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatal("the second engine does not answer")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the engine and waits for it.
func (p *privateEngine) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func wantBusy(t *testing.T, err error) {
	t.Helper()
	var busy *runners.BusyError
	if !errors.As(err, &busy) || busy.Reason == "" || busy.After <= 0 || busy.Service != "helper" {
		t.Errorf("%v: want the job to go back and wait", err)
	}
}

func TestJobsWaitWhileTheEngineIsAwayAndRunWhenItIsBack(t *testing.T) {
	engine := newPrivateEngine(t, "{}")
	r := runnerOn(t, engine.Client, Options{Host: engine.host, SweepEvery: time.Hour})
	mustRun(t, r, newCall("argv"))

	running := newCall("hang")
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), running)
		done <- err
	}()
	awaitLine(t, running.Log, "hanging")
	engine.stop()
	wantBusy(t, <-done) // it runs again, and the lost attempt does not count
	_, err := r.Run(t.Context(), newCall("argv"))
	wantBusy(t, err)

	engine.start()
	engine.await()
	for {
		_, err = r.Run(t.Context(), newCall("argv"))
		var busy *runners.BusyError
		if !errors.As(err, &busy) {
			break
		}
	}
	if err != nil {
		t.Errorf("after the engine's return: %v", err)
	}
	// What the restart left of the lost attempt goes, too.
	deadline := time.Now().Add(30 * time.Second)
	for len(ownContainers(t, engine.Client)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", ownContainers(t, engine.Client))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAnEngineThatIsKilledLosesNoJob(t *testing.T) {
	engine := newPrivateEngine(t, `{"live-restore": true}`)
	r := runnerOn(t, engine.Client, Options{Host: engine.host, SweepEvery: time.Hour})
	running := newCall("hang")
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), running)
		done <- err
	}()
	awaitLine(t, running.Log, "hanging")
	_ = engine.cmd.Process.Kill() // its containers live on
	_ = engine.cmd.Wait()
	wantBusy(t, <-done)
	os.Remove(engine.dir + "/pid")
	engine.start()
	engine.await()
	deadline := time.Now().Add(60 * time.Second)
	for len(ownContainers(t, engine.Client)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the lost attempt's container is still there: %v", ownContainers(t, engine.Client))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestARunnerStartsWithoutAnEngineAndFindsItLater(t *testing.T) {
	for _, host := range []string{"unix:///nowhere/docker.sock", "tcp://127.0.0.1:1", "ssh://specql-test-nobody@127.0.0.1:1"} {
		t.Run(strings.SplitN(host, ":", 2)[0], func(t *testing.T) {
			r, err := New(Options{Host: host})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			_, err = r.Run(t.Context(), newCall("argv"))
			wantBusy(t, err)
			if !strings.Contains(err.Error(), host) {
				t.Errorf("%q does not name the engine", err)
			}
			if _, err := r.Sweep(); err != nil {
				t.Errorf("sweep without an engine: %v", err)
			}
		})
	}
	if _, err := New(Options{Host: "nonsense"}); err == nil {
		t.Error("a host that is none is taken")
	}
}
