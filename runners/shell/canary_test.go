package shell

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/program"
)

// What stands in a job's input is text, whatever it looks like: each of these
// would remove the canary if anything on the way took it for more.
func TestInputIsInert(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	for _, level := range []string{"", "process", "none"} {
		call := newCall(t)
		canary := write(t, call, "canary", "alive", 0o666)
		call.Service.SecurityPolicy.AllowedCommands = []string{bash}
		call.Service.SecurityPolicy.Isolation = level
		// The script prints its arguments and would do what they say if a
		// shell had read them.
		write(t, call, "say.sh", `printf '%s' "$1"`, 0o644)
		call.Operation.Command = []string{bash, "say.sh", "$input.text"}
		for _, text := range []string{
			"; rm -rf " + canary, "&& rm " + canary, "| rm " + canary, "$(rm " + canary + ")", "`rm " + canary + "`",
			"x\nrm " + canary, "x\r\nrm " + canary, "' ; rm " + canary + " ; '", `" ; rm ` + canary + ` ; "`, "${IFS}rm", "$HOME", "*", "~",
			"--help", "-c", "-rf", "--", "../../../../etc/passwd", "/proc/self/environ", "$input.other", "%s%n", "\x1b]0;x\x07", "\\", "a\tb",
		} {
			call.Job.Input = program.Encode(map[string]any{"text": text, "other": "revealed"})
			result, err := r.Run(t.Context(), call)
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			if got := stdout(t, result); got != text {
				t.Errorf("%q arrived as %q", text, got)
			}
		}
		call.Job.Input = []byte(`{"text": "a\u0000b"}`)
		var config *runners.ConfigError
		if _, err := r.Run(t.Context(), call); !errors.As(err, &config) {
			t.Errorf("NUL: %v", err)
		}
		if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
			t.Fatalf("isolation %q: the canary is dead: %v, %q", level, err, b)
		}
	}
}

// A row's script stays within the working directory, and what would be an
// option of an allowed program is refused.
func TestInputChoosesNoFileOutside(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	call := newCall(t)
	outside := filepath.Join(shortTemp(t), "evil.sh")
	if err := os.WriteFile(outside, []byte("echo evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := call.Service.RunnerConfig.WorkingDirectory
	if err := os.Symlink(outside, filepath.Join(dir, "link.sh")); err != nil {
		t.Fatal(err)
	}
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	call.Service.RunnerConfig.CommandFromInput = "script"
	for _, script := range []string{outside, "../" + filepath.Base(filepath.Dir(outside)) + "/evil.sh", "link.sh", "./x/../../evil.sh", "/proc/self/cwd/link.sh"} {
		call.Job.Input = program.Encode(map[string]any{"script": script})
		if result, err := r.Run(t.Context(), call); err == nil {
			t.Errorf("%s ran: %s", script, result.Output)
		}
	}
	call.Service.RunnerConfig.CommandFromInput = ""
	call.Service.SecurityPolicy.AllowedCommands = []string{"/usr/bin/cat"}
	call.Operation.Command = []string{"/usr/bin/cat", "$input.file"}
	for _, file := range []string{"-A", "--show-all", "-"} {
		call.Job.Input = []byte(fmt.Sprintf(`{"file": %q}`, file))
		_, err := r.Run(t.Context(), call)
		wantPolicyError(t, err, "allowed_commands")
	}
}
