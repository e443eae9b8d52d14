package actions

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/keys.md anew")

func TestKeysPageSaysWhatTheKeysDo(t *testing.T) {
	const file = "../../docs/keys.md"
	if *update {
		if err := os.WriteFile(file, Page(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, Page()) {
		t.Error("docs/keys.md is not what the keys do: run go test ./ops/actions -update")
	}
}

func TestTheirOwnKeysDoOneThingEach(t *testing.T) {
	if _, err := NewKeymap(nil); err != nil {
		t.Error(err)
	}
	for _, a := range All() {
		if a.Title == "" || a.Does == "" || strings.HasSuffix(a.Does, ".") || a.Place.Title() == "" {
			t.Errorf("%s is not fully described: %+v", a.ID, a)
		}
	}
}

func TestAFileBindsOtherKeysAndItsFaultsAreNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.yaml")
	read := func(text string) (Keymap, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadKeymap(file)
	}
	m, err := read("jobs.retry: R\njobs.cancel: [x, ctrl+k]\nundo:\n")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]ID{"R": JobsRetry, "x": JobsCancel, "ctrl+k": JobsCancel, "n": JobsEnqueue} {
		if id, _ := m.Find(Jobs, key); id != want {
			t.Errorf("%s does %q, want %q", key, id, want)
		}
	}
	for _, key := range []string{"r", "c", "u"} {
		if id, ok := m.Find(Jobs, key); ok {
			t.Errorf("%s still does %q", key, id)
		}
	}
	for text, want := range map[string]string{
		"jobs.smash: x":  "no action \"jobs.smash\"",
		"jobs.retry: c":  "does jobs.",
		"jobs.retry: q":  "does quit",
		"jobs.retry: up": "cannot be bound",
		"jobs.retry: [r": "keys.yaml",
		"palette: enter": "everywhere",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want %q", text, err, want)
		}
	}
	if m, err := ReadKeymap(filepath.Join(t.TempDir(), "none")); err != nil || m.First(JobsRetry) != "r" {
		t.Errorf("without a file: %v", err)
	}
}
