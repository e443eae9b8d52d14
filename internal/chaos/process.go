//go:build linux

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const program = "github.com/specql/specql-ops/cmd/specql-agent"

// workshop is where programs are built. They stay there, so that the next run
// builds only what has changed.
const workshop = "../../.cache/chaos"

// standard is the program as it is, built once.
var standard = sync.OnceValues(func() (string, error) { return build("specql-agent") })

// build builds the program under a name of its own, with more flags of go
// build than the product's.
func build(name string, flags ...string) (string, error) {
	out, err := filepath.Abs(filepath.Join(workshop, name))
	if err != nil {
		return "", err
	}
	cgo := "CGO_ENABLED=0"
	if long {
		out, flags, cgo = out+"-race", append(flags, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.Command("go", append(append([]string{"build", "-buildvcs=false", "-o", out}, flags...), program)...)
	cmd.Env = append(os.Environ(), cgo)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", program, err, said)
	}
	return out, readSources()
}

// readSources looks into the program's folders, so that go test does not take an
// earlier run for this one's after the program has changed: it remembers what a
// test has read, and a build's reading is not seen.
func readSources() error {
	said, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.Dir}}{{end}}", program).Output()
	if err != nil {
		return fmt.Errorf("list the sources of %s: %w", program, err)
	}
	for _, dir := range strings.Fields(string(said)) {
		if _, err := os.ReadDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// process is one run of specql-agent.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   tail
	ended chan struct{} // closed when it has
	err   error         // of its end

	killed atomic.Bool // by the scenario
}

// launch starts the command, which ends with the test at the latest.
func launch(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{name: name, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with this process, however it ends
	if err := cmd.Start(); err != nil {
		t.Fatalf("start agent %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		byScenario := p.killed.Load()
		p.kill()
		if t.Failed() && !byScenario {
			t.Logf("the end of agent %s's log (%v):\n%s", name, p.err, p.log.String())
		}
	})
	return p
}

// kill ends the process as kill -9 does, and waits for its end.
func (p *process) kill() {
	p.killed.Store(true)
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Errorf("signal %s to agent %s: %v", s, p.name, err)
	}
}

// freeze stops the process, and waits until none of its threads runs: they come
// to a halt one by one, after the signal has been sent.
func (p *process) freeze(ctx context.Context, t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	err := within(ctx, "agent "+p.name+" stands still", func() (bool, error) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				return false, err
			}
			if _, state, _ := bytes.Cut(stat, []byte(") ")); !bytes.HasPrefix(state, []byte("T")) {
				return false, nil
			}
		}
		return len(threads) > 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the process in order, as a service manager does.
func (p *process) stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop agent %s: %w", p.name, errors.Join(err, p.err))
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return fmt.Errorf("agent %s does not stop: %w", p.name, context.Cause(ctx))
	}
	if p.err != nil {
		return fmt.Errorf("agent %s stopped with: %w", p.name, p.err)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

const tailSize = 2 << 10

func (b *tail) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept.Write(p)
	if b.kept.Len() > 2*tailSize {
		b.kept.Next(b.kept.Len() - tailSize)
	}
	return len(p), nil
}

func (b *tail) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept.String()
}

// within waits until the condition holds, looking again and again. A condition
// that cannot be looked at now, as when the database is away, is looked at
// later.
func within(ctx context.Context, what string, cond func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if ok && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("it never came true that %s", what), err)
		}
	}
}
