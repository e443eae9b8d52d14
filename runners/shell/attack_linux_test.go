package shell

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/specql/specql-ops/runners"
)

// attackProgram builds testdata/attack.
func attackProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(shortTemp(t), "attack")
	build := exec.Command("go", "build", "-o", path, "./testdata/attack")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// canary is a file of root's with a content that must stay.
func canary(t *testing.T, dir, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("alive"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// No attack gets through at full isolation, whichever way the attempt is
// started, and each leaves its trace: an attempt that failed, with the rule that
// it broke or with its own words in its log.
func TestAttacksFailAndLeaveTheirTrace(t *testing.T) {
	if r := newRunner(t); r.Host().Isolation != "full" || r.Host().Namespaces != "root" {
		t.Skipf("this host gives no full isolation under a privileged agent: %v", r.Host().Lacks)
	}
	program := attackProgram(t)
	others, open := shortTemp(t), shortTemp(t)
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	secret := canary(t, others, "secret", 0o600)
	writable := canary(t, open, "writable", 0o666)
	hidden := canary(t, others, "registry", 0o644) // a file of the agent's
	inTmp := canary(t, t.TempDir(), "tmp", 0o644)
	setuid := canary(t, others, "setuid", 0o755)
	if b, err := os.ReadFile(program); err != nil || os.WriteFile(setuid, b, 0o755) != nil || os.Chmod(setuid, 0o755|os.ModeSetuid) != nil {
		t.Fatal(err)
	}
	socket := filepath.Join("/run", fmt.Sprintf("specql-attack-%d.sock", os.Getpid()))
	touched := map[string]func() bool{}
	for network, address := range map[string]string{"unix": socket, "tcp": "127.0.0.1:0"} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		touched[network] = func() bool {
			l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now())
			c, err := l.Accept()
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if network == "tcp" {
			socketAddress = l.Addr().String()
		}
	}
	os.Chmod(socket, 0o777)
	elsewhere := filepath.Join(open, "other.sock")
	l, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Chmod(elsewhere, 0o777)
	pid := fmt.Sprint(os.Getpid())

	for _, start := range []string{"fast", "shim"} {
		r, err := New(Options{TempDir: shortTemp(t), Grace: 100 * time.Millisecond, Hide: []string{hidden}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		if start == "shim" && r.sys.fast != nil {
			r.sys.fast.close()
			r.sys.fast = nil
		}
		for _, c := range []struct {
			attack, arg, limit string
		}{
			{"environment of the agent", pid, ""},
			{"memory of the agent", pid, ""},
			{"environment of the init", "", ""},
			{"memory by process_vm_readv", pid, ""},
			{"read a file", "/etc/shadow", ""},
			{"read a file", secret, ""},
			{"read a file", hidden, ""},
			{"read a file", inTmp, ""},
			{"read a file", socket, ""},
			{"ptrace the agent", pid, ""},
			{"ptrace the init", "", ""},
			{"signal another", pid, ""},
			{"signal all", "", ""},
			{"fork bomb", "", "processes"},
			{"double fork", "attack-mark-" + start, ""},
			{"fill a directory with bytes", "/tmp", "disk_mb"},
			{"fill a directory with bytes", "/dev/shm", "disk_mb"},
			{"fill a directory with bytes", ".", "disk_mb"},
			{"fill a directory with files", "/tmp", "disk_mb"},
			{"fill a directory with files", ".", "disk_mb"},
			{"fill memory", "", "memory_mb"},
			{"fill the output", "", "output_bytes"},
			{"sleep", "", "timeout_seconds"},
			{"raw socket", "", ""},
			{"packet socket", "", ""},
			{"tcp", socketAddress, ""},
			{"udp", socketAddress, ""},
			{"unix socket", socket, ""},
			{"unix socket", elsewhere, ""},
			{"unix socket", "@specql-abstract", ""},
			{"mount", ".", ""},
			{"new user namespace", "", ""},
			{"new mount namespace", "", ""},
			{"namespace by clone", "", ""},
			{"namespace of the init", "", ""},
			{"kernel module", "", ""},
			{"device node", ".", ""},
			{"chroot", ".", ""},
			{"write a file", writable, ""},
			{"make a file", open, ""},
			{"open a file for writing", "/proc/sys/kernel/core_pattern", ""},
			{"make a file", "/usr", ""},
			{"run a set-user-id program", setuid, ""},
			{"leave a set-user-id program", ".", ""},
			{"make a set-user-id program", ".", ""},
			{"escape by descriptors", secret, ""},
			{"escape by the init's root", secret, ""},
			{"escape by a symlink", secret, ""},
			{"escape by a hard link", writable, ""},
		} {
			t.Run(start+"/"+c.attack+" "+filepath.Base(c.arg), func(t *testing.T) {
				call := callIn(shortTemp(t), program, []string{program, c.attack, c.arg})
				call.Timeout, call.Log = 3*time.Minute, runners.NewLog()
				if c.limit == "timeout_seconds" {
					call.Timeout = 300 * time.Millisecond
				}
				policy := &call.Service.SecurityPolicy
				policy.Isolation = "full"
				policy.ResourceLimits.MemoryMB, policy.ResourceLimits.DiskMB = 128, 16
				result, err := r.Run(t.Context(), call)
				if err == nil || strings.Contains(string(result.Output), "BROKEN OUT") {
					t.Fatalf("it got through: %v, %s", err, result.Output)
				}
				rule, _, violated := runners.Violation(err)
				if c.limit != "" && rule != c.limit {
					t.Errorf("%v: broke %q, want %s", err, rule, c.limit)
				}
				if lines, _ := call.Log.Tail(); !violated && (len(lines) == 0 || !strings.Contains(err.Error(), c.attack)) {
					t.Errorf("no trace but %v", err)
				}
				if result.Security["isolation"] != "full" {
					t.Errorf("recorded %v", result.Security)
				}
				filepath.WalkDir(call.Service.RunnerConfig.WorkingDirectory, func(path string, d os.DirEntry, err error) error {
					if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSetuid != 0 {
						t.Errorf("%s is left, owned by %d", path, info.Sys().(*syscall.Stat_t).Uid)
					}
					return nil
				})
			})
		}
		wantNothingLeft(t, r)
		if left := processesWith("attack-mark"); len(left) > 0 {
			t.Errorf("still running: %v", left)
		}
	}
	for _, path := range []string{secret, writable, hidden, inTmp} {
		if b, err := os.ReadFile(path); err != nil || string(b) != "alive" {
			t.Errorf("%s: %v, %q", path, err, b)
		}
	}
	for _, name := range []string{"unix", "tcp"} {
		if touched[name]() {
			t.Errorf("somebody came by %s", name)
		}
	}
}

// socketAddress is where the host listens by TCP.
var socketAddress string
