package shell

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/specql/specql-ops/runners"
)

const bash, python, cat = "/usr/bin/bash", "/usr/bin/python3", "/usr/bin/cat"

// need skips a test on a host without a program that it runs.
func need(t *testing.T, program string) {
	t.Helper()
	if !isExecutable(program) {
		t.Skipf("%s is not installed", program)
	}
}

func input(t *testing.T, fields map[string]any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantPolicyError(t *testing.T, err error, rule string) {
	t.Helper()
	var policy *runners.PolicyError
	if !errors.As(err, &policy) || policy.Rule != rule {
		t.Errorf("error = %v, want a refusal by %s", err, rule)
	}
}

func wantConfigError(t *testing.T, err error, part string) {
	t.Helper()
	var config *runners.ConfigError
	if !errors.As(err, &config) || !strings.Contains(config.Problem, part) {
		t.Errorf("error = %v, want a configuration error about %q", err, part)
	}
}

// No text of a row's is ever read as anything but itself: not by a shell, not
// by an interpreter.
func TestInputArrivesByteForByteWhateverItHolds(t *testing.T) {
	need(t, bash)
	need(t, python)
	r := newRunner(t)
	canary := filepath.Join(shortTemp(t), "canary")
	for _, text := range []string{
		"; touch " + canary,
		"$(touch " + canary + ")",
		"`touch " + canary + "`",
		"| touch " + canary,
		"&& touch " + canary,
		"\ntouch " + canary + "\n",
		"' ; touch " + canary + " #",
		`" ; touch ` + canary + ` #`,
		"; rm -rf /",
		"$HOME ${PATH} ~ * ? [a-z]",
		"__import__('os').system('touch " + canary + "')",
		"\\x41 %s %n \t\r\x01\x7f",
		"ünïcödé \u202e \U0001f600",
		"",
		" ",
	} {
		direct := newCall(t, "argv", "$input.text")
		byScript := newCall(t)
		byScript.Service.SecurityPolicy.AllowedCommands = []string{bash}
		byScript.Operation.Command = []string{bash, write(t, byScript, "show.sh", `printf %s "$1"`, 0o644), "$input.text"}
		byPython := newCall(t)
		byPython.Service.SecurityPolicy.AllowedCommands = []string{python}
		byPython.Operation.Command = []string{python, "-I", "-c", "import sys; sys.stdout.write(sys.argv[1])", "$input.text"}
		for name, c := range map[string]struct {
			call runners.Call
			want string
		}{
			"program": {direct, fmt.Sprintf("%q", []string{text})},
			"bash":    {byScript, text},
			"python":  {byPython, text},
		} {
			c.call.Job.Input = input(t, map[string]any{"text": text})
			if got := stdout(t, mustRun(t, r, c.call)); got != c.want {
				t.Errorf("%s: the argument %q arrived as %q", name, text, got)
			}
		}
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("an argument was executed")
	}
}

func TestInputFieldReplacesOnlyAWholeArgument(t *testing.T) {
	fields := inputFields([]byte(`{"a": "x", "n": 1.50, "o": {"b": [1, true, null]}, "deep": {"er": "y"}, "neg": -5}`))
	got, err := commandLine("s", []string{"/bin/p", "$input.a", "$input.n", "$input.o", "$input.deep.er", "--f=$input.a", "$input.", "$inputs.a", "$input.neg"}, fields)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/bin/p", "x", "1.50", `{"b":[1,true,null]}`, "y", "--f=$input.a", "$input.", "$inputs.a", "-5"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	_, err = commandLine("s", []string{"/bin/p", "$input.deep.none"}, fields)
	wantConfigError(t, err, "deep.none")
	_, err = commandLine("s", []string{"$input.a"}, fields)
	wantConfigError(t, err, "program")
}

func TestInputNeverBecomesAnOption(t *testing.T) {
	for _, c := range []struct {
		command string
		allowed bool
	}{
		{"/usr/bin/python3 $input.x", false},
		{"/usr/bin/python3 -u $input.x", false},
		{"/usr/bin/python3 -W ignore $input.x", false},
		{"/usr/bin/python3 -uB x.py $input.x", false}, // a bundle may take a value
		{"/usr/bin/python3 x.py $input.x", true},
		{"/usr/bin/python3 -u x.py $input.x", true},
		{"/usr/bin/python3.11 -c code $input.x", true},
		{"/usr/bin/python3 -m module $input.x", true},
		{"/usr/bin/python3 -c $input.x", false},
		{"/usr/bin/bash $input.x", false},
		{"/usr/bin/bash -c code $input.x", true},
		{"/usr/bin/bash -o pipefail $input.x", false},
		{"/usr/bin/bash -o pipefail x.sh $input.x", true},
		{"/usr/bin/node -e code $input.x", false},
		{"/usr/bin/node -r module $input.x", false},
		{"/usr/bin/node x.js $input.x", true},
		{"/usr/bin/perl -e code $input.x", false},
		{"/usr/bin/perl -e code -- $input.x", true},
		{"/usr/bin/tar -xf $input.x", false},
		{"/usr/bin/tar -xf -- $input.x", true},
		{"/usr/bin/cat $input.x", false},
		{"/usr/bin/cat -- $input.x", true},
	} {
		_, err := commandLine("s", strings.Fields(c.command), map[string]any{"x": "-v"})
		if c.allowed && err != nil {
			t.Errorf("%s: %v", c.command, err)
		}
		if !c.allowed {
			wantPolicyError(t, err, "allowed_commands")
		}
	}
}

func TestNULInAnArgumentStartsNothing(t *testing.T) {
	r := newRunner(t)
	call := newCall(t, "argv", "$input.text")
	call.Job.Input = []byte(`{"text": "a\u0000b"}`)
	_, err := r.Run(t.Context(), call)
	wantConfigError(t, err, "NUL")
}

func TestAnyTextIsOneArgument(t *testing.T) {
	r := newRunner(t)
	call := newCall(t, "argv", "--", "$input.text")
	rapid.Check(t, func(rt *rapid.T) {
		text := strings.ReplaceAll(rapid.String().Draw(rt, "text"), "\x00", "")
		b, _ := json.Marshal(map[string]string{"text": text})
		call.Job.Input = b
		_ = json.Unmarshal(b, &struct{ Text *string }{&text})
		result, err := r.Run(t.Context(), call)
		if err != nil {
			rt.Fatal(err)
		}
		if got, want := stdout(t, result), fmt.Sprintf("%q", []string{"--", text}); got != want {
			rt.Fatalf("got %s, want %s", got, want)
		}
	})
}

func TestOnlyAllowedCommandsRun(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	dir := shortTemp(t)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(self(t), link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name             string
		allowed, program string
		ok               bool
	}{
		{"by its path", self(t), self(t), true},
		{"by a link to it", self(t), link, true},
		{"where the entry is a link to it", link, self(t), true},
		{"with dots in its path", self(t), filepath.Dir(self(t)) + "/../" + filepath.Base(filepath.Dir(self(t))) + "/" + filepath.Base(self(t)), true},
		{"another program", "/usr/bin/cat", self(t), false},
		{"a relative entry", filepath.Base(self(t)), self(t), false},
		{"a directory that holds it", filepath.Dir(self(t)), self(t), false},
		{"an entry that is the beginning of its path", self(t)[:len(self(t))-1], self(t), false},
		{"no entry at all", "", self(t), false},
	} {
		call := newCall(t, "argv")
		call.Operation.Command[0] = c.program
		call.Service.SecurityPolicy.AllowedCommands = nil
		if c.allowed != "" {
			call.Service.SecurityPolicy.AllowedCommands = []string{c.allowed}
		}
		_, err := r.Run(t.Context(), call)
		if c.ok && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.ok {
			wantPolicyError(t, err, "allowed_commands")
		}
	}

	row := newCall(t, "argv")
	row.Job.SecurityContext = []byte(`{"allowed_commands": ["/usr/bin/bash"]}`)
	_, err := r.Run(t.Context(), row)
	wantPolicyError(t, err, "allowed_commands")
}

// A program that acts by its name must not act as one that is not allowed.
func TestProgramIsCalledByAnAllowedName(t *testing.T) {
	need(t, bash)
	r := newRunner(t)
	call := newCall(t)
	dir := call.Service.RunnerConfig.WorkingDirectory
	for _, name := range []string{"allowed", "forbidden"} {
		if err := os.Symlink(bash, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	call.Service.SecurityPolicy.AllowedCommands = []string{filepath.Join(dir, "allowed")}
	call.Operation.Command = []string{filepath.Join(dir, "forbidden"), "-c", "echo $0"}
	if got := strings.TrimSpace(stdout(t, mustRun(t, r, call))); got != filepath.Join(dir, "allowed") {
		t.Errorf("the program was called %s", got)
	}
}

func TestSwappedLinkCannotChangeWhatRuns(t *testing.T) {
	need(t, bash)
	call := newCall(t)
	dir := call.Service.RunnerConfig.WorkingDirectory
	good := write(t, call, "good", "#!"+bash+"\necho good\n", 0o755)
	canary := filepath.Join(dir, "canary")
	bad := write(t, call, "bad", "#!"+bash+"\ntouch "+canary+"\n", 0o755)
	link := filepath.Join(dir, "link")
	point := func(target string) {
		if err := os.Symlink(target, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	point(good)
	r := newRunner(t)
	r.beforeStart = func() { point(bad) }
	call.Service.SecurityPolicy.AllowedCommands = []string{good}
	call.Operation.Command = []string{link}
	if got := stdout(t, mustRun(t, r, call)); got != "good\n" {
		t.Errorf("the swapped program ran: %q", got)
	}

	script := newCall(t)
	path := write(t, script, "run.sh", "echo good", 0o644)
	r.beforeStart = func() {
		other := write(t, script, "other", "touch "+canary, 0o644)
		if err := os.Rename(other, path); err != nil {
			t.Fatal(err)
		}
	}
	script.Service.SecurityPolicy.AllowedCommands = []string{bash}
	_, err := r.Run(t.Context(), script)
	wantPolicyError(t, err, "allowed_commands")
	if _, err := os.Stat(canary); err == nil {
		t.Error("the canary was touched")
	}
}
