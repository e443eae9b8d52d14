package registry

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// everything is a host that has every program, and every directory.
func everything(path string) (fs.FileInfo, error) {
	if strings.Contains(path, "/bin/") {
		return os.Stat("/bin/sh")
	}
	return os.Stat("/")
}

// noEnv is an environment without variables.
func noEnv(string) (string, bool) { return "", false }

func envOf(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, got, want)
	}
}

// mustParse fails the test unless text is a valid registry.
func mustParse(t testing.TB, text string, opt Options) (*Config, Diagnostics) {
	t.Helper()
	if opt.LookupEnv == nil {
		opt.LookupEnv = noEnv
	}
	config, diags := Parse("test.yaml", []byte(text), opt)
	if config == nil {
		var b strings.Builder
		diags.WriteText(&b)
		t.Fatalf("not valid:\n%s", b.String())
	}
	return config, diags
}

// diagnose returns the diagnostics of a text as "line:column code" words.
func diagnose(text string, opt Options) []string {
	if opt.LookupEnv == nil {
		opt.LookupEnv = noEnv
	}
	_, diags := Parse("test.yaml", []byte(text), opt)
	out := []string{}
	for _, d := range diags {
		out = append(out, fmt.Sprintf("%d:%d %s[%s]", d.Line, d.Column, d.Severity, d.Code))
	}
	return out
}

// service wraps the lines of one http service with everything required.
func service(lines string) string {
	return "services:\n- name: a\n  type: t\n  category: c\n  operations: [{name: o}]\n" + lines
}

func TestEveryBlockOfTheGuideLoadsOrSaysWhyNot(t *testing.T) {
	files, err := filepath.Glob("testdata/guide/*.yaml")
	if err != nil || len(files) != 13 {
		t.Fatalf("the guide has 13 YAML blocks, found %d (%v)", len(files), err)
	}
	for _, file := range files {
		for _, env := range []string{"", "development", "production"} {
			if env != "" && !strings.Contains(file, "environment_") {
				continue
			}
			name := strings.TrimSuffix(file, ".yaml")
			if env != "" {
				name += "." + env
			}
			t.Run(filepath.Base(name), func(t *testing.T) {
				v := Validate(file, Options{Env: env, LookupEnv: noEnv, Stat: everything})
				var b strings.Builder
				fmt.Fprintf(&b, "exit status %d\n", v.ExitCode(false))
				if err := v.WriteText(&b, false); err != nil {
					t.Fatal(err)
				}
				golden(t, name+".golden", b.String())
			})
		}
	}
}

func TestEveryFaultOfAFileIsReportedAtOnceWithItsPlace(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			v := Validate(file, Options{LookupEnv: noEnv, Stat: everything})
			if v.Config != nil {
				t.Fatal("a file with faults must yield no configuration")
			}
			var b strings.Builder
			fmt.Fprintf(&b, "exit status %d\n", v.ExitCode(false))
			v.WriteText(&b, false)
			golden(t, strings.TrimSuffix(file, ".yaml")+".golden", b.String())
			for _, secret := range []string{"hunter2", "sk_live"} {
				if strings.Contains(b.String(), secret) {
					t.Errorf("the report shows the secret %s", secret)
				}
			}
		})
	}
}

func TestEveryTypeIsDecodedWithItsValues(t *testing.T) {
	data, err := os.ReadFile("testdata/valid/all_types.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, _ := mustParse(t, string(data), Options{LookupEnv: envOf("PAY_TIMEOUT", "20", "DB_PASSWORD", "hunter2")})
	pay, _ := c.Service("PAYMENTS")
	if pay == nil || pay.RunnerConfig.Timeout != 20 || pay.RunnerConfig.BaseURL != "https://api.example.com/v1" {
		t.Fatalf("payments: %+v", pay)
	}
	if pay.ExecutionType != jobs.HTTP || pay.ExplicitType {
		t.Errorf("type %s, explicit %v: want the implicit default http", pay.ExecutionType, pay.ExplicitType)
	}
	if h := pay.RunnerConfig.Headers; h["X-Price"] != "costs $5 and ${literal}" || h["X-Version"] != "3" {
		t.Errorf("headers: %v", h)
	}
	sh, _ := c.Service("scripts")
	if sh.ExecutionType != jobs.Shell {
		t.Errorf("SHELL was not folded: %s", sh.ExecutionType)
	}
	wantEnv := map[string]string{"PORT": "8080", "DEBUG": "true", "RATIO": "1.10", "DB_PASSWORD": "hunter2"}
	if !reflect.DeepEqual(sh.RunnerConfig.Environment, wantEnv) {
		t.Errorf("environment: %v", sh.RunnerConfig.Environment)
	}
	if l := sh.SecurityPolicy.ResourceLimits; l.MemoryMB != 256 || l.CPUCores != 0.5 || l.DiskMB != 64 {
		t.Errorf("merge key: %+v", l)
	}
	if b := sh.SecurityPolicy.CircuitBreaker; b == nil || b.FailureThreshold != 5 || b.RecoveryTimeout != 300 {
		t.Errorf("circuit breaker defaults: %+v", b)
	}
	op, _ := sh.Operation("show")
	if want := []string{"/usr/bin/cat", "-n", "5", "$input.file"}; !reflect.DeepEqual(op.Command, want) {
		t.Errorf("command: %v", op.Command)
	}
	if fn, _ := c.Service("resize"); fn.RunnerConfig.Qualifier != "3" {
		t.Errorf("qualifier: %q", fn.RunnerConfig.Qualifier)
	}
}

func TestAnOverlayIsMergedDeepAndOnlyTheChosenOne(t *testing.T) {
	data, _ := os.ReadFile("testdata/valid/all_types.yaml")
	opt := Options{Env: "Production", LookupEnv: envOf("DB_PASSWORD", "x")}
	c, diags := mustParse(t, string(data), opt)
	s, _ := c.Service("scripts")
	if s.RunnerConfig.WorkingDirectory != "/opt/scripts" || s.RunnerConfig.User != "1000" {
		t.Errorf("mappings are merged deep: %+v", s.RunnerConfig)
	}
	if got := s.SecurityPolicy.AllowedCommands; len(got) != 1 || got[0] != "/usr/bin/tac" {
		t.Errorf("lists are replaced: %v", got)
	}
	if s.SecurityPolicy.ResourceLimits.MemoryMB != 256 {
		t.Error("a key without value took the base's limits away")
	}
	if _, ok := c.Service("only_here"); !ok {
		t.Error("an overlay alone may define a service")
	}
	found := false
	for _, d := range diags {
		found = found || d.Code == CodeIgnored && d.Line == 60
	}
	if !found {
		t.Errorf("the key without value deserves a warning: %v", diags)
	}
}

func TestUnchosenOverlaysAreCheckedForShapeOnly(t *testing.T) {
	text := service("staging:\n  services:\n  - name: b\n    runner_config: {base_ur: x, timeout: fast}\n    type: ${UNSET}\n")
	got := diagnose(text, Options{})
	want := []string{"2:3 warning[limited-service]", "9:21 error[unknown-field]", "9:42 error[wrong-type]"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAnUnknownEnvironmentNamesThoseThatExist(t *testing.T) {
	text := service("staging:\n  services: []\nproduction:\n  services: []\n")
	_, diags := Parse("f", []byte(text), Options{Env: "prod", LookupEnv: noEnv})
	if !diags.HasErrors() || !strings.Contains(diags[0].Message, "staging, production") || diags[0].Suggestion != `did you mean "production"?` {
		t.Errorf("%v", diags)
	}
	if c, _ := mustParse(t, service(""), Options{Env: "prod"}); c.Env != "prod" {
		t.Error("without overlays an environment is a label")
	}
}

func TestAVariableIsExpandedOrNamedButNeverShown(t *testing.T) {
	lookup := envOf("HOST", "api.example.com", "EMPTY", "", "API_TOKEN", "tops3cret", "BAD_TIMEOUT", "tops3cret")
	for in, want := range map[string]string{
		"${HOST}": "api.example.com", "a${HOST}b${HOST}": "aapi.example.combapi.example.com",
		"${NOPE:-dflt}": "dflt", "${EMPTY:-dflt}": "dflt", "${EMPTY}": "", "${NOPE:-}": "",
		"$input.field": "$input.field", "$${HOST}": "${HOST}", "$$": "$$", "$5": "$5",
	} {
		if got, faults := newVariables(Options{LookupEnv: lookup}).expand(in); got.value != want || faults != nil {
			t.Errorf("%s became %q (%v), want %q", in, got.value, faults, want)
		}
	}
	for _, in := range []string{"${", "${}", "${A B}", "${1}", "${HOST", "${NOPE}"} {
		if _, faults := newVariables(Options{LookupEnv: lookup}).expand(in); len(faults) == 0 {
			t.Errorf("%s must be a fault", in)
		}
	}
	text := service("  runner_config: {base_url: 'https://${API_TOKEN}:x@h', timeout: '${BAD_TIMEOUT}', headers: {X: '${NOPE}'}, auth_type: '${API_TOKEN}'}\n")
	_, diags := Parse("f", []byte(text), Options{LookupEnv: lookup})
	if diags.Errors() != 4 {
		t.Errorf("want four errors: %v", diags)
	}
	for _, d := range diags {
		if strings.Contains(d.String(), "tops3cret") {
			t.Errorf("the value of a variable is shown: %s", d)
		}
	}
}

func TestSecretsAreMaskedInListingAndDiff(t *testing.T) {
	text := service("  runner_config:\n    base_url: https://h\n    headers: {Authorization: 'Bearer ${API_TOKEN}', X-Url: 'q=${API_TOKEN}', Cookie: literal}\n")
	a, _ := mustParse(t, text, Options{Origins: true, LookupEnv: envOf("API_TOKEN", "alpha-one")})
	b, _ := mustParse(t, text, Options{Origins: true, LookupEnv: envOf("API_TOKEN", "beta-two")})
	var out strings.Builder
	if err := a.Render(&out, true); err != nil {
		t.Fatal(err)
	}
	out.WriteString(Diff(a, b).String())
	for _, secret := range []string{"alpha", "beta", "literal"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%s is shown:\n%s", secret, out.String())
		}
	}
	for _, want := range []string{"runner_config.headers.X-Url = ••••  test.yaml:8 from API_TOKEN", "runner_config.headers.Authorization •••• → ••••"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in:\n%s", want, out.String())
		}
	}
}

func TestDiffNamesServicesAndFieldsThatDiffer(t *testing.T) {
	one := func(name, rest string) string {
		return "- name: " + name + "\n  type: t\n  category: c\n" + rest
	}
	a, _ := mustParse(t, "services:\n"+one("a", "  operations: [{name: o}, {name: gone}]\n  runner_config: {base_url: 'https://h', timeout: 5}\n")+one("b", "  operations: [{name: o}]\n"), Options{})
	b, _ := mustParse(t, "services:\n"+one("A", "  operations: [{name: new, timeout: 3}, {name: o}]\n  runner_config: {base_url: 'https://h', timeout: 9}\n")+one("c", "  operations: [{name: o}]\n"), Options{})
	d := Diff(a, b)
	want := "added c; removed b; changed A (name a → A, runner_config.timeout 5 → 9, operations.gone.name gone → none, operations.new.name none → new, operations.new.timeout none → 3)"
	if d.String() != want {
		t.Errorf("got  %s\nwant %s", d, want)
	}
	if !Diff(a, a).Empty() || Diff(nil, a).String() != "added a, b" {
		t.Error("equal snapshots differ, or nil is not empty")
	}
}

func TestFileProblemsAreTypedAndSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		path string
		kind error
		exit int
	}{
		{filepath.Join(dir, "none.yaml"), ErrNotFound, ExitNoFile},
		{dir, ErrDirectory, ExitNoFile},
		{"/dev/null", ErrUnreadable, ExitNoFile},
		{write("empty.yaml", []byte(" \n")), ErrEmpty, ExitUnreadable},
		{write("big.yaml", make([]byte, MaxFileSize+1)), ErrTooLarge, ExitUnreadable},
	} {
		v := Validate(c.path, Options{})
		var fileErr *FileError
		if !errors.Is(v.Err, c.kind) || !errors.As(v.Err, &fileErr) || v.ExitCode(false) != c.exit {
			t.Errorf("%s: %v, exit status %d", c.path, v.Err, v.ExitCode(false))
		}
	}
	_, _, err := Load(filepath.Join(dir, "none.yaml"), Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("a missing file is fs.ErrNotExist too")
	}
	if v := Validate(write("syntax.yaml", []byte("a: [1\nb: 2\n")), Options{}); v.ExitCode(false) != ExitUnreadable {
		t.Errorf("syntax errors exit with 3, got %d", v.ExitCode(false))
	}
}

func TestAHttpServiceWithLeftoverFieldsIsAWarningSoThatAServiceCanBePhasedOut(t *testing.T) {
	rest := "  runner_config: {working_directory: /srv, base_url: 'https://h'}\n"
	if _, diags := mustParse(t, service("  execution_type: http\n"+rest), Options{}); diags.Warnings() != 1 || diags[0].Code != CodeMisplaced {
		t.Errorf("explicit http: %v", diags)
	}
	if got := diagnose(service(rest), Options{}); len(got) != 1 || !strings.HasSuffix(got[0], "error[misplaced-field]") {
		t.Errorf("a forgotten execution_type: %v", got)
	}
}

func TestAnyServiceMayHaveAnHttpFallback(t *testing.T) {
	text := service("  execution_type: shell\n  runner_config: {working_directory: /srv, base_url: 'https://h/x', auth_type: none, headers: {A: b}}\n" +
		"  security_policy: {allowed_commands: [/usr/bin/cat], allowed_domains: [h], rate_limit_per_minute: 5}\n")
	if _, diags := mustParse(t, text, Options{}); len(diags) != 0 {
		t.Errorf("%v", diags)
	}
	if got := diagnose(strings.Replace(text, "[h]", "[g]", 1), Options{}); len(got) != 1 || !strings.Contains(got[0], "not-allowed") {
		t.Errorf("the fallback's host is checked too: %v", got)
	}
}

func TestAProgramThatThisHostLacksIsAWarningOnly(t *testing.T) {
	text := service("  execution_type: shell\n  runner_config: {working_directory: /srv}\n  security_policy: {allowed_commands: [/nowhere/python]}\n")
	asked := 0
	stat := func(path string) (fs.FileInfo, error) {
		if path == "/srv" {
			return os.Stat("/")
		}
		asked++
		return nil, fs.ErrNotExist
	}
	if _, diags := mustParse(t, text, Options{Stat: stat}); len(diags) != 1 || diags[0].Code != CodeMissingProgram || asked != 1 {
		t.Errorf("%v, asked %d times", diags, asked)
	}
}

func TestAliasBombsDeepNestingAndTagsAreRefused(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	for name, text := range map[string]string{
		"alias bomb":      bomb,
		"flow nesting":    "a: " + strings.Repeat("[", 5_000) + strings.Repeat("]", 5_000),
		"block nesting":   strings.Repeat("- ", 5_000) + "x",
		"too many keys":   strings.Repeat("a: b\n", 2_001),
		"too many in {}":  "{" + strings.Repeat("a: b, ", 2_001) + "}",
		"custom tag":      "a: !env HOME",
		"binary tag":      "a: !!binary aGk=",
		"unknown alias":   "a: *b",
		"self reference":  "a: &a [*a]",
		"not UTF-8":       "a: \xff",
		"zero byte":       "a: \x00",
		"merge of scalar": "a: {<<: 3}",
	} {
		_, diags := Parse("f", []byte(text), Options{LookupEnv: noEnv})
		if !diags.Unreadable() || len(diags) != 1 || diags[0].Line < 1 {
			t.Errorf("%s: %v", name, diags)
		}
	}
}

func TestNumbersKeepTheirBoundsAndUnits(t *testing.T) {
	for value, code := range map[string]Code{
		"timeout: -1": CodeRange, "timeout: 1.5": CodeWrongType, "timeout: '30'": CodeWrongType, "timeout: 030": CodeWrongType,
		"timeout: 99999999999999999999": CodeRange, "timeout: yes": CodeWrongType, "timeout: [1]": CodeWrongType,
		"retry_config: {backoff_factor: .nan}": CodeRange, "retry_config: {backoff_factor: 0.5}": CodeRange,
		"retry_config: {retry_status_codes: [42]}": CodeRange, "read_only: 'true'": CodeWrongType, "base_url: 5": CodeWrongType,
	} {
		_, diags := Parse("f", []byte(service("  execution_type: http\n  runner_config:\n    "+value+"\n")), Options{LookupEnv: noEnv})
		found := false
		for _, d := range diags {
			found = found || d.Code == code && d.Severity == Error && d.Line == 8
		}
		if !found {
			t.Errorf("%s: want %s, got %v", value, code, diags)
		}
	}
	c, _ := mustParse(t, service("  runner_config: {base_url: 'https://h', timeout: 0x1e, retry_config: {backoff_factor: 2e0, max_retries: 3}}\n"), Options{})
	if rc := c.Services[0].RunnerConfig; rc.Timeout != 30 || rc.RetryConfig.BackoffFactor != 2 {
		t.Errorf("%+v", rc)
	}
}

func TestAlertsAreKeptWithTheirDefaults(t *testing.T) {
	c, _ := mustParse(t, "alerts:\n- name: a\n  condition: http_error_rate > 0.05\n- {name: b, condition: x > 1, execution_type: SHELL, window: 10m, for: 90, severity: critical, notify: ops}\n", Options{})
	want := []Alert{
		{Name: "a", Condition: "http_error_rate > 0.05", ExecutionType: "any", Window: time.Hour, Severity: "warning"},
		{Name: "b", Condition: "x > 1", ExecutionType: "shell", Window: 10 * time.Minute, For: 90 * time.Second, Severity: "critical", Notify: []string{"ops"}},
	}
	if !reflect.DeepEqual(c.Alerts, want) {
		t.Errorf("got %+v", c.Alerts)
	}
}

func TestTheTablesNameFieldsThatExist(t *testing.T) {
	section := map[string]reflect.Type{"runner_config": reflect.TypeFor[RunnerConfig](), "security_policy": reflect.TypeFor[SecurityPolicy](), "operations": reflect.TypeFor[Operation]()}
	for name, table := range placed {
		for f := range table {
			if fieldsOf(section[name]).find(f) == nil {
				t.Errorf("%s has no field %s", name, f)
			}
		}
	}
	for name := range fieldBounds {
		found := false
		for _, h := range homes {
			found = found || fieldsOf(h.t).find(name) != nil
		}
		if !found {
			t.Errorf("no struct has a field %s", name)
		}
	}
}

func TestASchemaIsCompiledWithoutFetchingAnything(t *testing.T) {
	s, err := CompileSchema(map[string]any{"amount": "integer", "when": map[string]any{"type": "string", "minLength": int64(2)}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Validate(map[string]any{"amount": 5, "other": true}) != nil || s.Validate(map[string]any{"amount": "five"}) == nil || s.Validate(map[string]any{"when": "x"}) == nil {
		t.Error("the schema does not hold what it says")
	}
	if s, err := CompileSchema(nil); s != nil || err != nil {
		t.Error("no schema is no schema")
	}
	if _, err := CompileSchema(map[string]any{"$ref": "https://example.com/schema.json"}); err == nil {
		t.Error("a reference to another document must be refused")
	}
}

func TestTheExampleRegistryIsValid(t *testing.T) {
	scripts, err := filepath.Abs("../examples/scripts")
	if err != nil {
		t.Fatal(err)
	}
	v := Validate("../examples/registry/service_registry.yaml", Options{
		LookupEnv: envOf("SPECQL_DEMO_URL", "http://127.0.0.1:8080", "SPECQL_DEMO_SCRIPTS", scripts),
	})
	if v.Config == nil || len(v.Diagnostics) != 0 {
		t.Fatalf("%v %v", v.Err, v.Diagnostics)
	}
	for _, s := range v.Config.Services {
		for _, op := range s.Operations {
			if s.ExecutionType != jobs.Shell {
				continue
			}
			if _, err := os.Stat(filepath.Join(s.RunnerConfig.WorkingDirectory, op.Name+".sh")); err != nil {
				t.Errorf("service %s: %v", s.Name, err)
			}
		}
	}
}

func TestABigFileReadsTheSameInPartsAndWhole(t *testing.T) {
	big := bigRegistry(700)
	for name, text := range map[string]string{
		"valid":        big,
		"comments":     "# head\n\nx-a: 1\n" + strings.ReplaceAll(big, "  - name: svc_9\n", "# between\n\n  - name: svc_9\n") + "alerts: []\n",
		"a fault":      strings.Replace(big, "timeout: 30\n", "timeot: 30\n", 3),
		"duplicates":   strings.Replace(big, "type: api\n", "type: api\n    type: b\n", 300),
		"quoted lines": strings.Replace(big, "category: x\n", "category: \"x\n  - name: y\n    z\"\n", 1),
		"block scalar": strings.Replace(big, "category: x\n", "category: |\n      - name: y\n", 600),
		"an anchor":    strings.Replace(big, "type: api\n", "type: &t api\n", 1),
		"syntax error": strings.Replace(big, "category: x\n", "category: [x\n", 1),
		"flat list":    strings.ReplaceAll(big, "\n  ", "\n"),
	} {
		parts := &report{file: "f", lines: lineIndex{data: []byte(text)}}
		whole := &report{file: "f", lines: lineIndex{data: []byte(text)}}
		a, faultA := parseTree([]byte(text), parts)
		b, faultB := parseWhole([]byte(text), whole)
		if !reflect.DeepEqual(faultA, faultB) || !sameNodes(a, b) || !reflect.DeepEqual(parts.sorted(), whole.sorted()) {
			t.Errorf("%s: read in parts it differs: %v, %v", name, faultA, faultB)
		}
	}
	if _, ok := parseParts([]byte(big), &report{}); !ok {
		t.Error("a plain big file must be read in parts")
	}
}

func sameNodes(a, b *node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.kind != b.kind || a.text != b.text || a.quoted != b.quoted || a.line != b.line || a.size != b.size || len(a.kids) != len(b.kids) {
		return false
	}
	for i := range a.kids {
		if a.kids[i].key != b.kids[i].key || a.kids[i].line != b.kids[i].line || !sameNodes(a.kids[i].node, b.kids[i].node) {
			return false
		}
	}
	return true
}

func bigRegistry(n int) string {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - name: svc_%d\n    type: api\n    category: x\n    execution_type: http\n    runner_config:\n      base_url: https://api%d.example.com/v1\n      timeout: 30\n    operations:\n      - name: op\n        input_schema: { amount: integer }\n        output_schema: { id: string }\n", i, i)
	}
	return b.String()
}

func BenchmarkParseTenThousandServices(b *testing.B) {
	data := []byte(bigRegistry(10_000))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if c, diags := Parse("f", data, Options{LookupEnv: noEnv}); c == nil {
			b.Fatal(diags[0])
		}
	}
}

func FuzzParse(f *testing.F) {
	corpus(f, func(data []byte) { f.Add(data, "production") })
	f.Add([]byte("services:\n- *a\n- &a {<<: [*a]}\n? b\n: !!str 1\n"), "")
	f.Fuzz(func(t *testing.T, data []byte, env string) {
		if len(data) > 64<<10 {
			return
		}
		began := time.Now()
		c, diags := Parse("f", data, Options{Env: env, Origins: true, LookupEnv: envOf("A", "1", "TOKEN", "s3cretvalue")})
		if (c == nil) != diags.HasErrors() {
			t.Fatalf("a configuration and errors at once, or neither: %v", diags)
		}
		var b strings.Builder
		diags.WriteText(&b)
		if c != nil {
			c.Render(&b, true)
			Diff(nil, c)
			if err := sameAsParser(string(plainLines(data))); err != nil {
				t.Fatal(err)
			}
			kept := c.Redacted()
			b.WriteString(kept)
			if again := Sketch("f", []byte(kept), env); kept != Withheld && (again == nil || len(again.Services) != len(c.Services)) {
				t.Fatalf("the text that is kept reads otherwise:\n%s", kept)
			}
		}
		if !strings.Contains(string(data), "s3cretvalue") && regexp.MustCompile("s3cretvalue").MatchString(b.String()) {
			t.Fatal("a secret is shown")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("%d bytes took %s", len(data), took)
		}
	})
}
