package registry

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func treeOf(t interface{ Fatalf(string, ...any) }, text string) *node {
	root, fault := parseTree([]byte(text), &report{})
	if fault != nil || root == nil {
		t.Fatalf("not to be read: %v in\n%s", fault, text)
	}
	return root
}

// comments are a text's comments, with their # and without blanks around.
func commentsOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if i := commentStart(line); i >= 0 {
			out = append(out, strings.TrimSpace(line[i:]))
		}
	}
	slices.Sort(out)
	return out
}

// A registry is made up in its old form and, apart from that, in its new one.
// What --fix makes of the first must say what the second says.
func TestAFixedFileSaysWhatTheOldOneMeantAndKeepsItsComments(t *testing.T) {
	fixes := 0
	rapid.Check(t, func(t *rapid.T) {
		var old, now strings.Builder
		note := func(label string) string {
			return rapid.SampledFrom([]string{"", "", " # " + label, "  # keep: " + label}).Draw(t, "note")
		}
		step := rapid.IntRange(2, 4).Draw(t, "indent")
		asMap := rapid.Bool().Draw(t, "map")
		dash := rapid.IntRange(0, 2).Draw(t, "dash")
		old.WriteString("# head\nservices:" + note("list") + "\n")
		now.WriteString("services:\n")
		for i := range rapid.IntRange(1, 4).Draw(t, "services") {
			var lead, base string // before the first field, before the others
			if asMap {
				lead, base = strings.Repeat(" ", step), strings.Repeat(" ", 2*step)
				fmt.Fprintf(&old, "%ssvc%d:%s\n", lead, i, note("service"))
			} else {
				lead, base = strings.Repeat(" ", dash)+"- ", strings.Repeat(" ", dash+2)
				fmt.Fprintf(&old, "%sname: svc%d%s\n", lead, i, note("name"))
			}
			line := func(text, label string) { old.WriteString(base + text + note(label) + "\n") }
			fmt.Fprintf(&now, "- name: svc%d\n  type: api\n", i)
			line("type: api", "type")
			has := func(what string) bool { return rapid.Bool().Draw(t, what) }
			if has("category") {
				line("category: demo", "category")
				now.WriteString("  category: demo\n")
			} else {
				now.WriteString("  category: uncategorized\n")
			}
			if has("upper") {
				line("execution_type: HTTP", "type word")
				now.WriteString("  execution_type: http\n")
			}
			var rcOld, rcNow, policy []string
			if has("own url") {
				line("# about the address", "x")
				line("base_url: https://api.example.com/v1", "url")
				rcNow = append(rcNow, "base_url: https://api.example.com/v1")
			} else {
				rcOld = append(rcOld, "base_url: https://api.example.com/v1")
				rcNow = append(rcNow, "base_url: https://api.example.com/v1")
			}
			if has("own timeout") {
				line("timeout: 30", "seconds")
				rcNow = append(rcNow, "timeout: 30")
			}
			if has("auth") {
				line("auth: none", "auth")
				rcNow = append(rcNow, "auth_type: none")
			}
			if has("retry") {
				rcOld = append(rcOld, "retry_policy: { max_retries: 3 }")
				rcNow = append(rcNow, "retry_config: { max_retries: 3 }")
			}
			if has("environment") {
				rcOld = append(rcOld, "env_vars:", "  A: b", "  C: \"d # e\"")
				rcNow = append(rcNow, "environment: { A: b, C: \"d # e\" }")
			}
			if has("memory") {
				rcOld = append(rcOld, "memory_size: 512")
				rcNow = append(rcNow, "memory_mb: 512")
			}
			if has("domains") {
				rcOld = append(rcOld, "allowed_domains:", "- api.example.com", "- b.example.com")
				policy = append(policy, "allowed_domains: [api.example.com, b.example.com]")
			}
			if has("volumes") {
				rcOld = append(rcOld, "volumes:", "- /a:/b", "- \"/c:/d:ro\"")
				rcNow = append(rcNow, "volumes: [{ host_path: /a, container_path: /b, mode: rw }, { host_path: /c, container_path: /d, mode: ro }]")
			}
			limits := has("limits")
			if len(rcOld) > 0 {
				line("runner_config:", "runner")
				for _, l := range rcOld {
					line(strings.Repeat(" ", step)+l, "field")
				}
			}
			if limits {
				line("security_policy:", "policy")
				line("  resource_limits: { memory_mb: 64 }", "limits")
				policy = append(policy, "resource_limits: { memory_mb: 64 }")
			}
			line("operations: [{ name: run }]", "operations")
			if has("blank") {
				old.WriteString("\n")
			}
			now.WriteString("  runner_config: {" + strings.Join(rcNow, ", ") + "}\n")
			if len(policy) > 0 {
				now.WriteString("  security_policy: {" + strings.Join(policy, ", ") + "}\n")
			}
			now.WriteString("  operations: [{ name: run }]\n")
		}
		text := old.String()
		fixed, diags := FixPatterns("f", []byte(text))
		if diags != nil {
			t.Fatalf("%v in\n%s", diags, text)
		}
		fixes += len(fixed.Done)
		got, want := treeOf(t, string(fixed.Text)), treeOf(t, now.String())
		if !sameMeaning(got, want) {
			t.Fatalf("the old form:\n%s\nbecame:\n%s\nand means:\n%s", text, fixed.Text, now.String())
		}
		if a, b := commentsOf(text), commentsOf(string(fixed.Text)); !slices.Equal(a, b) {
			t.Fatalf("comments were %q and are %q", a, b)
		}
		again, _ := FixPatterns("f", fixed.Text)
		if len(again.Done) > 0 || string(again.Text) != string(fixed.Text) {
			t.Fatalf("a second pass changes something: %v", again.Done)
		}
	})
	if fixes == 0 {
		t.Error("nothing was fixed: this test compares nothing")
	}
}

// However much there is to fix, it is fixed at once, and what cannot be fixed
// keeps nothing else from it: of services by the same name as of repeated keys.
func TestAFixedFileHasNothingLeftToFix(t *testing.T) {
	var keys, services strings.Builder
	keys.WriteString("services:\n- name: a\n  category: c\n  execution_type: http\n  runner_config:\n    base_url: https://a.example\n")
	services.WriteString("services:\n")
	for i := range 50 {
		fmt.Fprintf(&keys, "    k%d: { a: 1 }\n    k%d: { a: 1 } # c%d\n", i, i, i)
		services.WriteString("- name: a\n  category: c\n")
		if i < 30 { // renaming one of the two would bring the other one to light
			services.WriteString("  execution_type: http\n  runner_config:\n    memory_size: 3\n    memory_size: 4\n")
		} else {
			services.WriteString("  execution_type: HTTP\n  memory_size: 3\n")
		}
	}
	for name, c := range map[string]struct {
		text string
		done int
	}{
		"keys":     {keys.String(), 50},
		"services": {services.String(), 20 * 3},
	} {
		t.Run(name, func(t *testing.T) {
			fixed, diags := FixPatterns("f", []byte(c.text))
			if diags != nil || len(fixed.Done) != c.done {
				t.Fatalf("%d fixes, want %d: %v", len(fixed.Done), c.done, diags)
			}
			again, diags := FixPatterns("f", fixed.Text)
			if diags != nil || string(again.Text) != string(fixed.Text) || len(again.Done) > 0 {
				t.Fatalf("fixing again fixes %v, %v", again.Done, diags)
			}
		})
	}
}

func TestEveryPatternIsFoundWithItsPlaceAndFixedWhereItCanBe(t *testing.T) {
	files, err := filepath.Glob("testdata/legacy/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	seen := map[Code]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		found, diags := FindPatterns(file, data)
		if diags != nil {
			t.Fatal(diags)
		}
		var b strings.Builder
		for _, f := range found {
			seen[f.Code] = true
			fmt.Fprintf(&b, "%d:%d %s %s fixable=%v\n  %s\n  before: %s\n  after: %s\n", f.Line, f.Column, f.Code, f.Service, f.Fixable, f.Message, f.Before, f.After)
			if f.Why == "" || f.Before == "" || f.After == "" {
				t.Errorf("%s: a finding does not say all: %+v", file, f)
			}
		}
		fixed, _ := FixPatterns(file, data)
		fmt.Fprintf(&b, "--- fixed\n%s", fixed.Text)
		if strings.Contains(b.String()[:strings.Index(b.String(), "--- fixed")], "hunter") {
			t.Error("a secret is shown")
		}
		golden(t, strings.TrimSuffix(file, ".yaml")+".golden", b.String())
	}
	for _, e := range append([]Explanation{{Code: CodeDuplicateKey}}, patternExplanations...) {
		if !seen[e.Code] {
			t.Errorf("no file shows %s", e.Code)
		}
	}
}

// The codes are constants; none may be without its help text.
func TestEveryCodeIsExplainedByAnExampleThatGetsIt(t *testing.T) {
	for _, file := range []string{"diagnostic.go", "legacy.go"} {
		syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		must(t, err)
		ast.Inspect(syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if name, isName := typeOfConstant(spec, ok); isName && name == "Code" {
				code, _ := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
				if _, ok := Explain(code); !ok {
					t.Errorf("%s has no help text", code)
				}
			}
			return true
		})
	}
	got := func(e Explanation, example string) []Code {
		text, codes := Explained(example), []Code{}
		_, diags := Parse("f", []byte(text), Options{LookupEnv: noEnv, Stat: os.Stat, Host: Host{CPUs: 64}})
		for _, d := range diags {
			codes = append(codes, d.Code)
		}
		found, _ := FindPatterns("f", []byte(text))
		for _, f := range found {
			codes = append(codes, f.Code)
		}
		return codes
	}
	for _, e := range Explanations() {
		if e.Code == CodeUnknownEnv { // it is about a flag
			continue
		}
		if !slices.Contains(got(e, e.Wrong), e.Code) {
			t.Errorf("%s: its wrong example gets %v", e.Code, got(e, e.Wrong))
		}
		if slices.Contains(got(e, e.Right), e.Code) {
			t.Errorf("%s: its right example gets %v", e.Code, got(e, e.Right))
		}
		if _, diags := Parse("f", []byte(Explained(e.Right)), Options{LookupEnv: noEnv}); diags.HasErrors() {
			t.Errorf("%s: its right example is not valid: %v", e.Code, diags)
		}
	}
	if e, ok := Explain("Unknown-Field"); !ok || !strings.Contains(e.String(), "time_out") || NearestCode("unkown-field") != string(CodeUnknownField) {
		t.Error("a code is found regardless of case, and a misspelt one by its nearest")
	}
}

func typeOfConstant(spec *ast.ValueSpec, ok bool) (string, bool) {
	if !ok || spec.Type == nil {
		return "", false
	}
	id, ok := spec.Type.(*ast.Ident)
	if !ok {
		return "", false
	}
	return id.Name, true
}
