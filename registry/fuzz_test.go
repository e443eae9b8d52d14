package registry

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// corpus adds every file of testdata and the examples.
func corpus(f *testing.F, add func(data []byte)) {
	for _, pattern := range []string{"testdata/*/*.yaml", "../examples/registry/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			add(data)
		}
	}
}

func FuzzPlainReader(f *testing.F) {
	corpus(f, func(data []byte) { f.Add(string(plainLines(data))) })
	for _, word := range yamlWords {
		f.Add("a: " + word + "\nb:\n  - " + word + "\n  - c: " + word + "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4<<10 {
			return
		}
		if err := sameAsParser(text); err != nil {
			t.Fatal(err)
		}
	})
}

// A text without ${ stays as it is, the outcome holds no fault and a value at
// once, and a secret's value is recorded wherever it shows.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"${A}", "${A:-b}", "$${A}", "${file:/run/x}", "${cred:y}", "${", "${}", "a${TOKEN}b", "${file:../x:-d}", "$$${A}", "${A:-${B}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := newVariables(Options{LookupEnv: envOf("A", "one", "TOKEN", "s3cretvalue", "CREDENTIALS_DIRECTORY", "/run/c"),
			ReadSecret: func(path string) ([]byte, error) {
				if slices.Contains(strings.Split(path, "/"), "..") || !strings.HasPrefix(path, "/") {
					t.Fatalf("a secret is read from %q", path)
				}
				return []byte("s3cretvalue\n"), nil
			}})
		exp, faults := v.expand(s)
		if !strings.Contains(s, "${") && (exp.value != s || len(faults) > 0) {
			t.Fatalf("%q became %q, %v", s, exp.value, faults)
		}
		if strings.Contains(exp.value, "s3cretvalue") && !strings.Contains(s, "s3cretvalue") && !slices.Contains(exp.secrets, "s3cretvalue") {
			t.Fatalf("%q holds a secret that is not known for one", s)
		}
		for _, fault := range faults {
			if strings.Contains(fault.message+fault.help, "s3cretvalue") {
				t.Fatalf("a fault shows a secret: %+v", fault)
			}
		}
	})
}

// Laying nothing over a tree changes nothing, laying it over itself neither,
// and what is merged says what the upper one says.
func FuzzOverlay(f *testing.F) {
	corpus(f, func(data []byte) { f.Add(data, []byte("services:\n- name: a\n  runner_config: { timeout: 3 }\n")) })
	f.Fuzz(func(t *testing.T, below, above []byte) {
		if len(below)+len(above) > 32<<10 {
			return
		}
		a, fault := parseTree(below, &report{})
		if fault != nil || a == nil {
			return
		}
		if !sameMeaning(mergeNodes(a, &node{kind: mapKind}, &report{}), a) && a.kind == mapKind {
			t.Fatal("an empty overlay changes the base")
		}
		if !sameMeaning(mergeNodes(a, a, &report{}), a) {
			t.Fatal("a base over itself is another one")
		}
		b, fault := parseTree(above, &report{})
		if fault != nil || b == nil {
			return
		}
		merged := mergeNodes(a, b, &report{})
		if again := mergeNodes(merged, b, &report{}); !sameMeaning(again, merged) {
			t.Fatal("laying an overlay over the same base twice is not the same as once")
		}
	})
}

// A fixed file reads, says no less, and fixing it again changes nothing.
func FuzzFix(f *testing.F) {
	corpus(f, func(data []byte) { f.Add(data) })
	f.Add([]byte("services:\n  a:\n    base_url: x\n    # c\n    timeout: 3\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 16<<10 {
			return
		}
		fixed, diags := FixPatterns("f", data)
		if diags != nil {
			return
		}
		before, after := commentsOf(string(plainLines(data))), commentsOf(string(plainLines(fixed.Text)))
		if len(fixed.Done) == 0 && string(plainLines(fixed.Text)) != string(plainLines(data)) {
			t.Fatal("nothing was fixed, and the text is another one")
		}
		if onlyComments(data) && !slices.Equal(before, after) {
			t.Fatalf("comments were %q and are %q", before, after)
		}
		again, diags := FixPatterns("f", fixed.Text)
		if diags != nil || string(again.Text) != string(fixed.Text) {
			t.Fatalf("fixing again changes the text: %v", diags)
		}
	})
}

// onlyComments tells whether every # of a text begins a comment: in a quoted
// or block value it is part of the value.
func onlyComments(data []byte) bool { return !strings.ContainsAny(string(data), "\"'|>") }
