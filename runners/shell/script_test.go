package shell

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The guide's data_processor: no command, a script of the operation's name.
func TestScriptNamedAfterTheOperationRuns(t *testing.T) {
	r := newRunner(t)
	for _, c := range []struct{ file, interpreter, script string }{
		{"process_data.py", python, `
import json, os, sys, helper_module
print(json.dumps({"records_processed": json.load(sys.stdin)["n"], "me": __file__, "level": os.environ["LOG_LEVEL"], "helped": helper_module.yes}))`},
		{"process_data.sh", bash, `. "$(dirname "$0")/part.sh"; printf '{"records_processed": 7, "me": "%s", "level": "%s", "helped": %s}' "$0" "$LOG_LEVEL" "$yes"`},
		{"process_data.js", "/usr/bin/node", `
let s = ''; process.stdin.on('data', d => s += d).on('end', () =>
  console.log(JSON.stringify({records_processed: JSON.parse(s).n, me: __filename, level: process.env.LOG_LEVEL, helped: require('./part.js').yes})))`},
		{"process_data.pl", "/usr/bin/perl", `print '{"records_processed": 7, "me": "'.$0.'", "level": "'.$ENV{LOG_LEVEL}.'", "helped": true}'`},
		{"process_data", "", "#!" + bash + "\n" + `printf '{"records_processed": 7, "me": "direct", "level": "%s", "helped": true}' "$LOG_LEVEL"`},
	} {
		t.Run(c.file, func(t *testing.T) {
			call := newCall(t)
			call.Operation.Name = "process_data"
			call.Job.Input = []byte(`{"n": 7}`)
			call.Service.RunnerConfig.Environment = map[string]string{"LOG_LEVEL": "INFO"}
			path := write(t, call, c.file, c.script, 0o755)
			write(t, call, "helper_module.py", "yes = True", 0o644)
			write(t, call, "part.sh", "yes=true", 0o644)
			write(t, call, "part.js", "exports.yes = true", 0o644)
			if c.interpreter == "" {
				call.Service.SecurityPolicy.AllowedCommands = []string{path}
			} else {
				need(t, c.interpreter)
				call.Service.SecurityPolicy.AllowedCommands = []string{"/usr/bin/cat", c.interpreter}
			}
			var out struct {
				Records int    `json:"records_processed"`
				Me      string `json:"me"`
				Level   string `json:"level"`
				Helped  bool   `json:"helped"`
			}
			result := mustRun(t, r, call)
			if err := json.Unmarshal(result.Output, &out); err != nil {
				t.Fatal(err)
			}
			if out.Records != 7 || out.Level != "INFO" || !out.Helped || (out.Me != path && out.Me != "direct") {
				t.Errorf("output = %s, want 7 records, INFO, helped and %s", result.Output, path)
			}
		})
	}
}

func TestScriptNeedsAnAllowedInterpreter(t *testing.T) {
	need(t, python)
	r := newRunner(t)
	call := newCall(t)
	write(t, call, "run.py", "print(1)", 0o644)

	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	_, err := r.Run(t.Context(), call)
	wantPolicyError(t, err, "allowed_commands")
	if err != nil && !strings.Contains(err.Error(), python) {
		t.Errorf("%q does not name the line that would permit it", err)
	}

	call.Service.SecurityPolicy.AllowedCommands = []string{"/usr/bin/python9.99"}
	_, err = r.Run(t.Context(), call)
	wantConfigError(t, err, "/usr/bin/python9.99")

	call.Service.SecurityPolicy.AllowedCommands = []string{python}
	call.Operation.Name = "nothing"
	_, err = r.Run(t.Context(), call)
	wantConfigError(t, err, "nothing.py")

	direct := newCall(t)
	write(t, direct, "run", "#!"+bash+"\n", 0o755)
	direct.Service.SecurityPolicy.AllowedCommands = []string{bash}
	_, err = r.Run(t.Context(), direct)
	wantPolicyError(t, err, "allowed_commands")
}

func TestNothingEscapesTheWorkingDirectory(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	outside := shortTemp(t)
	canary := filepath.Join(outside, "canary")
	evil := filepath.Join(outside, "evil.sh")
	if err := os.WriteFile(evil, []byte("touch "+canary), 0o755); err != nil {
		t.Fatal(err)
	}
	call := newCall(t)
	dir := call.Service.RunnerConfig.WorkingDirectory
	call.Service.SecurityPolicy.AllowedCommands = []string{bash}
	call.Service.RunnerConfig.CommandFromInput = "script"
	if err := os.Symlink(evil, filepath.Join(dir, "link.sh")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{evil, "../" + filepath.Base(outside) + "/evil.sh", "link.sh", "sub/evil.sh", "./x/../../" + filepath.Base(outside) + "/evil.sh", "/proc/self/root" + evil} {
		call.Job.Input = input(t, map[string]any{"script": name})
		if _, err := r.Run(t.Context(), call); err == nil {
			t.Errorf("%s ran", name)
		} else if name != "./x/../../"+filepath.Base(outside)+"/evil.sh" { // x does not exist
			wantPolicyError(t, err, "working_directory_restrictions")
		}
	}
	for _, operation := range []string{"../" + filepath.Base(outside) + "/evil", "sub/evil", "..", ""} {
		named := newCall(t)
		named.Service.SecurityPolicy.AllowedCommands = []string{bash}
		named.Operation.Name = operation
		_, err := r.Run(t.Context(), named)
		wantConfigError(t, err, "file's name")
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a script outside of the working directory ran")
	}
}

func TestRowChoosesOnlyWhatTheRegistryGrants(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	call := newCall(t)
	write(t, call, "run.sh", "echo fixed", 0o644)
	write(t, call, "sub/other.sh", "echo other", 0o644)
	call.Service.SecurityPolicy.AllowedCommands = []string{bash, "/usr/bin/env"}
	call.Job.Input = input(t, map[string]any{"script": "sub/other.sh", "command": bash, "args": []any{"-c", "echo free $1", "x", 5}})
	for granted, want := range map[string]string{"": "fixed\n", "script": "other\n", "command": "free 5\n"} {
		call.Service.RunnerConfig.CommandFromInput = granted
		if got := stdout(t, mustRun(t, r, call)); got != want {
			t.Errorf("command_from_input %q: ran %q, want %q", granted, got, want)
		}
	}
	call.Service.RunnerConfig.CommandFromInput = "command"
	call.Job.Input = input(t, map[string]any{"command": "/usr/bin/cat", "args": []any{"/etc/passwd"}})
	_, err := r.Run(t.Context(), call)
	wantPolicyError(t, err, "allowed_commands")
	call.Service.RunnerConfig.CommandFromInput = "everything"
	_, err = r.Run(t.Context(), call)
	wantConfigError(t, err, "command_from_input")
}

func TestWorkingDirectoryMustBeWhereItMayBe(t *testing.T) {
	r := newRunner(t)
	allowed := shortTemp(t)
	outside := shortTemp(t)
	if err := os.Mkdir(filepath.Join(allowed, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(allowed, "out")); err != nil {
		t.Fatal(err)
	}
	call := newCall(t, "argv")
	call.Service.SecurityPolicy.WorkingDirectoryRestrictions = []string{allowed}
	for dir, refusal := range map[string]string{
		allowed:                          "",
		allowed + "/in":                  "",
		allowed + "/in/..":               "",
		allowed + "/out":                 "policy",
		allowed + "x":                    "config",
		allowed + "/in/../..":            "policy",
		outside:                          "policy",
		"relative":                       "config",
		"":                               "config",
		allowed + "/none":                "config",
		filepath.Join(self(t), "a file"): "config",
	} {
		call.Service.RunnerConfig.WorkingDirectory = dir
		_, err := r.Run(t.Context(), call)
		switch refusal {
		case "":
			if err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		case "policy":
			wantPolicyError(t, err, "working_directory_restrictions")
		case "config":
			wantConfigError(t, err, "working_directory")
		}
	}
}
