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

	"golang.org/x/sys/unix"
)

// listener accepts connections on this host; the address and a unix socket.
func listener(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestNetworkIsWhatThePolicySays(t *testing.T) {
	r := newRunner(t)
	host := listener(t, "tcp", "127.0.0.1:0")
	for _, c := range []struct {
		access, isolation string
		args              []string
		ok                bool
	}{
		{"", "", []string{"dial", "tcp", host}, false},
		{"none", "", []string{"dial", "tcp", host}, false},
		{"none", "process", []string{"dial", "tcp", host}, false},
		{"none", "", []string{"listen"}, false},
		{"none", "", []string{"dial", "udp", host}, false},
		{"localhost", "", []string{"dial", "tcp", host}, false},
		{"localhost", "", []string{"listen"}, true},
		{"localhost", "process", []string{"listen"}, true},
		{"all", "", []string{"dial", "tcp", host}, true},
	} {
		if c.access == "localhost" && r.Host().Namespaces == "" {
			continue
		}
		call := newCall(t, c.args...)
		call.Service.SecurityPolicy.NetworkAccess = c.access
		call.Service.SecurityPolicy.Isolation = c.isolation
		result, err := r.Run(t.Context(), call)
		if c.ok != (err == nil) {
			t.Errorf("network_access %q, isolation %q: %v gave %v", c.access, c.isolation, c.args, err)
		}
		want := c.access
		if want == "" {
			want = "none"
		}
		if result.Security["network"] != want {
			t.Errorf("recorded network %v, want %s", result.Security["network"], want)
		}
	}
}

func TestNetworkNoneHoldsWithoutNamespacesToo(t *testing.T) {
	r := newRunner(t)
	r.host.Namespaces, r.host.Isolation = "", "process"
	for _, network := range []string{"tcp", "udp"} {
		call := newCall(t, "dial", network, "127.0.0.1:9")
		call.Service.SecurityPolicy.NetworkAccess = "none"
		_, err := r.Run(t.Context(), call)
		if err == nil || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("%s: %v", network, err)
		}
	}
	call := newCall(t, "listen")
	call.Service.SecurityPolicy.NetworkAccess = "localhost"
	_, err := r.Run(t.Context(), call)
	wantPolicyError(t, err, "network_access")
}

func TestFileAccessIsWhatThePolicySays(t *testing.T) {
	r := newRunner(t)
	if r.Host().Landlock == 0 {
		t.Skip("this host has no Landlock")
	}
	outside := filepath.Join(shortTemp(t), "file")
	if err := os.WriteFile(outside, []byte("outside"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		access                                           string
		readOutside, readInside, writeInside, execOthers bool
	}{
		{"none", false, true, false, false},
		{"read", true, true, false, true},
		{"read_write", true, true, true, true},
		{"", true, true, true, true},
	} {
		for _, isolation := range []string{"", "process"} {
			call := newCall(t)
			call.Service.SecurityPolicy.FileAccess = c.access
			call.Service.SecurityPolicy.Isolation = isolation
			inside := write(t, call, "file", "inside", 0o644)
			try := func(want bool, what string, args ...string) {
				t.Helper()
				call.Operation.Command = append([]string{self(t), helperArg}, args...)
				if _, err := r.Run(t.Context(), call); want != (err == nil) {
					t.Errorf("file_access %q, isolation %q: %s gave %v", c.access, isolation, what, err)
				}
			}
			try(c.readOutside, "reading elsewhere", "read", outside)
			try(c.readInside, "reading in the working directory", "read", inside)
			try(c.writeInside, "writing in the working directory", "write", filepath.Join(filepath.Dir(inside), "new"), "1")
			try(false, "writing elsewhere", "write", outside, "1")
			try(false, "writing elsewhere by a relative path", "write", "../"+filepath.Base(filepath.Dir(outside))+"/file", "1")
			try(true, "writing to /dev/null", "write", "/dev/null", "1")

			need(t, bash)
			call.Service.SecurityPolicy.AllowedCommands = []string{bash}
			for script, want := range map[string]bool{
				`: > "$TMPDIR/x" && cd && : > y`: true,
				`/usr/bin/cat /dev/null`:         c.execOthers,
			} {
				call.Operation.Command = []string{bash, "-c", script}
				if _, err := r.Run(t.Context(), call); want != (err == nil) {
					t.Errorf("file_access %q, isolation %q: %s gave %v", c.access, isolation, script, err)
				}
			}
		}
	}
}

func TestDangerousSystemCallsAreRefused(t *testing.T) {
	r := newRunner(t)
	if !r.Host().Seccomp {
		t.Skip("this host has no seccomp")
	}
	for name, number := range map[string]int{"ptrace": unix.SYS_PTRACE, "mount": unix.SYS_MOUNT, "unshare": unix.SYS_UNSHARE, "setns": unix.SYS_SETNS,
		"bpf": unix.SYS_BPF, "keyctl": unix.SYS_KEYCTL, "kexec_load": unix.SYS_KEXEC_LOAD, "init_module": unix.SYS_INIT_MODULE, "reboot": unix.SYS_REBOOT,
		"io_uring_setup": unix.SYS_IO_URING_SETUP, "userfaultfd": unix.SYS_USERFAULTFD, "perf_event_open": unix.SYS_PERF_EVENT_OPEN} {
		if got := stdout(t, mustRun(t, r, newCall(t, "syscall", fmt.Sprint(number)))); got != fmt.Sprint(int(unix.EPERM)) {
			t.Errorf("%s gave errno %s", name, got)
		}
	}
	if got := stdout(t, mustRun(t, r, newCall(t, "syscall", fmt.Sprint(unix.SYS_CLONE3)))); got != fmt.Sprint(int(unix.ENOSYS)) {
		t.Errorf("clone3 gave errno %s", got)
	}
	if got := stdout(t, mustRun(t, r, newCall(t, "syscall", fmt.Sprint(unix.SYS_GETPPID)))); got != "0" {
		t.Errorf("getppid gave errno %s", got)
	}
}

func TestJobHasNoPrivilegesAndSeesNoOtherProcess(t *testing.T) {
	r := newRunner(t)
	if r.Host().Isolation != "full" {
		t.Skip("this host gives no full isolation")
	}
	status := stdout(t, mustRun(t, r, newCall(t, "limits")))
	for _, line := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "PPid:\t1\n"} {
		if !strings.Contains(status, line) {
			t.Errorf("%q does not hold in\n%s", line, status)
		}
	}
	need(t, bash)
	call := newCall(t)
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	for script, want := range map[string]string{
		`cd /proc; n=0; for p in [0-9]*; do n=$((n+1)); done; echo $n`:           "2\n", // the init and itself
		`cat /proc/1/environ 2>/dev/null | tr '\0' '\n' | grep -c HOME; true`:    "0\n",
		`cd ../../../..; all=$(ls proc); grep -c '^[0-9]*$' <<<"$all" || true`:   "3\n", // with ls
		`echo 1 > /proc/sys/kernel/sysrq; echo $?`:                               "1\n",
		`ls -A /tmp | wc -l; echo $HOME $TMPDIR`:                                 "0\n/tmp /tmp\n",
		`hostname`:                                                               "specql-job\n",
		`ls /dev/shm | wc -l; echo x > /dev/shm/x && echo ok`:                    "0\nok\n",
		`ls -A /run | wc -l`:                                                     "0\n",
		`kill -TERM 1; kill -9 1; kill -TERM -1; echo alive`:                     "alive\n",
		`kill -9 ` + fmt.Sprint(os.Getpid()) + ` 2>/dev/null || echo no process`: "no process\n",
	} {
		call.Operation.Command = []string{bash, "-c", script}
		result, err := r.Run(t.Context(), call)
		if err != nil || stdout(t, result) != want {
			t.Errorf("%s: %s %v, want %q", script, result.Output, err, want)
		}
	}
}

func TestJobRunsAsTheUserOfTheRegistry(t *testing.T) {
	r := newRunner(t)
	call := newCall(t, "limits")
	call.Service.RunnerConfig.User = "nobody"
	if os.Geteuid() != 0 {
		if os.Geteuid() == 65534 {
			call.Service.RunnerConfig.User = "daemon"
		}
		_, err := r.Run(t.Context(), call)
		wantConfigError(t, err, "runs as root")
		return
	}
	result := mustRun(t, r, call)
	if status := stdout(t, result); !strings.Contains(status, "Uid:\t65534\t65534\t65534\t65534\n") || !strings.Contains(status, "CapEff:\t0000000000000000") {
		t.Errorf("ran as\n%s", status)
	}
	if result.Security["user"] != "nobody" {
		t.Errorf("recorded user %v", result.Security["user"])
	}
	need(t, bash)
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	call.Operation.Command = []string{bash, "-c", `: > "$HOME/x" && echo out > /dev/stdout && ! : > x`}
	if got := stdout(t, mustRun(t, r, call)); got != "out\n" {
		t.Errorf("got %q", got)
	}
	call.Service.RunnerConfig.User = "no-such-user"
	_, err := r.Run(t.Context(), call)
	wantConfigError(t, err, "not known")
}

// An agent without privileges gives the same through a user namespace.
func TestAgentWithoutPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	cmd := exec.Command(self(t), "-test.v", "-test.run=^("+strings.Join([]string{
		"TestConformance", "TestNetwork.*", "TestFileAccess.*", "TestDangerous.*", "TestJob.*", "TestDaemons.*", "TestWholeTree.*",
		"TestProgramMay.*", "TestEnvironment.*", "TestInputArrives.*", "TestSwapped.*", "TestMemoryLimitThatNobodyHolds.*", "TestProcessorTime.*", "TestForkBomb.*", "TestKilledAgent.*", "TestHangingAgent"}, "|")+")$")
	cmd.Env = append(os.Environ(), "TMPDIR=/var/tmp", "HOME=/nonexistent")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: TestConformance") {
		t.Errorf("the suite did not run:\n%s", out)
	}
}

func TestMemoryLimitThatNobodyHoldsIsRefused(t *testing.T) {
	r := newRunner(t)
	r.host.Controllers = nil
	call := newCall(t, "argv")
	call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 64
	_, err := r.Run(t.Context(), call)
	wantPolicyError(t, err, "resource_limits.memory_mb")

	call.Service.SecurityPolicy.Isolation = "none"
	result := mustRun(t, r, call)
	if fmt.Sprint(result.Security["not_enforced"]) != "[memory_mb]" || result.Security["isolation"] != "none" {
		t.Errorf("recorded %v", result.Security)
	}
}

func TestSecurityRecordSaysWhatHeld(t *testing.T) {
	r := newRunner(t)
	result := mustRun(t, r, newCall(t, "argv"))
	want := map[string]any{"isolation": r.Host().Isolation, "network": "none", "file_access": "read_write", "user": jobUser(t, r), "cgroup": r.Host().Cgroup,
		"seccomp": r.Host().Seccomp, "landlock": r.Host().Landlock, "command": self(t)}
	for name, value := range want {
		if result.Security[name] != value {
			t.Errorf("%s = %v, want %v", name, result.Security[name], value)
		}
	}
	if len(result.Security) != len(want) {
		t.Errorf("record = %v", result.Security)
	}
	call := newCall(t, "exit", "1")
	call.Service.SecurityPolicy.Isolation = "none"
	result, err := r.Run(t.Context(), call)
	if err == nil || result.Security["isolation"] != "none" || result.Security["network"] != "all" || result.Security["seccomp"] != false {
		t.Errorf("%v, record of a failed attempt = %v", err, result.Security)
	}
}

// jobUser is whom a job runs as whose registry names nobody.
func jobUser(t *testing.T, r *Runner) string {
	if r.Host().Isolation == "full" && r.Host().Namespaces == "root" {
		return ownAccount(0).name
	}
	return ownName(t)
}

func ownName(t *testing.T) string {
	t.Helper()
	a, err := accountFor("s", "")
	if err != nil {
		t.Fatal(err)
	}
	return a.name
}
