package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryTestCountsOnceAndParentsByTheirSubtests(t *testing.T) {
	cases := []struct {
		name   string
		events []event
		want   string // the last line
		says   []string
	}{
		{"nothing", nil, "0 passed, 0 failed, 0 skipped", nil},
		{"a pass", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
			{Action: "pass", Package: "m/a", Test: "TestA"},
			{Action: "pass", Package: "m/a"},
		}, "1 passed, 0 failed, 0 skipped", []string{"ok    m/a  1 tests"}},
		{"one subtest of two fails", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
			{Action: "run", Package: "m/a", Test: "TestA/one"},
			{Action: "run", Package: "m/a", Test: "TestA/two"},
			{Action: "output", Package: "m/a", Test: "TestA/one", Output: "    a_test.go:7: got 1, want 2\n"},
			{Action: "fail", Package: "m/a", Test: "TestA/one"},
			{Action: "pass", Package: "m/a", Test: "TestA/two"},
			{Action: "fail", Package: "m/a", Test: "TestA"},
			{Action: "fail", Package: "m/a"},
		}, "1 passed, 1 failed, 0 skipped", []string{"got 1, want 2", "FAIL  m/a"}},
		{"a parent fails by itself", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
			{Action: "run", Package: "m/a", Test: "TestA/one"},
			{Action: "pass", Package: "m/a", Test: "TestA/one"},
			{Action: "fail", Package: "m/a", Test: "TestA"},
			{Action: "fail", Package: "m/a"},
		}, "1 passed, 1 failed, 0 skipped", nil},
		{"a package does not build", []event{
			{Action: "build-output", ImportPath: "m/a [m/a.test]", Output: "a.go:3:1: undefined: x\n"},
			{Action: "build-fail", ImportPath: "m/a [m/a.test]"},
			{Action: "fail", Package: "m/a", FailedBuild: "m/a [m/a.test]"},
		}, "0 passed, 1 failed, 0 skipped", []string{"undefined: x"}},
		{"a package ends outside of any test", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
			{Action: "pass", Package: "m/a", Test: "TestA"},
			{Action: "output", Package: "m/a", Output: "exit status 3\n"},
			{Action: "fail", Package: "m/a"},
		}, "1 passed, 1 failed, 0 skipped", []string{"exit status 3"}},
		{"a test never ends", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
			{Action: "output", Package: "m/a", Test: "TestA", Output: "panic: test timed out\n"},
			{Action: "fail", Package: "m/a"},
		}, "0 passed, 1 failed, 0 skipped", []string{"panic: test timed out"}},
		{"the run is interrupted", []event{
			{Action: "run", Package: "m/a", Test: "TestA"},
		}, "0 passed, 1 failed, 0 skipped", []string{"m/a did not end"}},
		{"a package without tests", []event{
			{Action: "output", Package: "m/a", Output: "?   \tm/a\t[no test files]\n"},
			{Action: "skip", Package: "m/a"},
		}, "0 passed, 0 failed, 0 skipped", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := summaryOf(t, c.events)
			if lines := strings.Split(strings.TrimSpace(got), "\n"); lines[len(lines)-1] != c.want {
				t.Errorf("the last line is %q, want %q, in:\n%s", lines[len(lines)-1], c.want, got)
			}
			for _, words := range c.says {
				if !strings.Contains(got, words) {
					t.Errorf("%q is not in:\n%s", words, got)
				}
			}
		})
	}
}

func TestSkipsAreGroupedByTheirReasons(t *testing.T) {
	skip := func(name, reason string) []event {
		return []event{
			{Action: "run", Package: "m/docker", Test: name},
			{Action: "output", Package: "m/docker", Test: name, Output: "=== RUN   " + name + "\n"},
			{Action: "output", Package: "m/docker", Test: name, Output: reason},
			{Action: "output", Package: "m/docker", Test: name, Output: "--- SKIP: " + name + " (0.00s)\n"},
			{Action: "skip", Package: "m/docker", Test: name},
		}
	}
	events := append(skip("TestB", "    b_test.go:9: no Docker engine\n"), skip("TestA", "    a_test.go:5: no Docker engine\n")...)
	events = append(events, skip("TestC", "")...)
	events = append(events, event{Action: "pass", Package: "m/docker"})
	want := `ok    m/docker  3 tests  0.0s
skipped 2: no Docker engine
        docker.TestA
        docker.TestB
skipped 1: no reason given
        docker.TestC
0 passed, 0 failed, 3 skipped
`
	if got := summaryOf(t, events); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestTheExitStatusIsTrueToRealTests(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.test/m\n\ngo 1.26\n")
	write("good_test.go", "package m\n\nimport \"testing\"\n\nfunc TestGood(t *testing.T) {}\nfunc TestLater(t *testing.T) { t.Skip(\"not today\") }\n")
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "")

	var out, errOut strings.Builder
	if status := run(t.Context(), []string{"./..."}, &out, &errOut); status != 0 {
		t.Errorf("status of good tests is %d: %s%s", status, out.String(), errOut.String())
	}
	if want := "skipped 1: not today\n        m.TestLater\n1 passed, 0 failed, 1 skipped\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got:\n%s\nwant at the end:\n%s", out.String(), want)
	}

	write("bad_test.go", "package m\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestBad(t *testing.T) { os.Exit(0) }\n")
	out.Reset()
	if status := run(t.Context(), []string{"./..."}, &out, &errOut); status == 0 {
		t.Errorf("status 0 although a test left early:\n%s", out.String())
	}

	write("bad_test.go", "package m\n\nfunc broken( {\n")
	out.Reset()
	if status := run(t.Context(), []string{"./..."}, &out, &errOut); status == 0 {
		t.Errorf("status 0 although the tests do not build:\n%s", out.String())
	}
	if want := "0 passed, 1 failed, 0 skipped\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got:\n%s\nwant at the end %s", out.String(), want)
	}
}

func summaryOf(t *testing.T, events []event) string {
	t.Helper()
	var stream, out strings.Builder
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		stream.Write(append(line, '\n'))
	}
	s := newSummary(&out)
	if err := s.read(strings.NewReader(stream.String())); err != nil {
		t.Fatal(err)
	}
	s.report()
	return out.String()
}
