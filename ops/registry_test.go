//go:build unix

package ops

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

func keep(t *testing.T, db *pgxpool.Pool, environment, hash, document string) {
	t.Helper()
	v := jobs.RegistryVersion{Hash: hash, Environment: environment, File: "r.yaml", Document: document, Services: 1, Agent: "a", Host: "h"}
	if _, err := jobs.KeepVersion(t.Context(), db, v, jobs.By{}, func(string, string) string { return "" }); err != nil {
		t.Fatal(err)
	}
}

func document(timeout int) string {
	return fmt.Sprintf("# a comment\nservices:\n- name: s\n  type: t\n  category: c\n  operations: [{name: o}]\n"+
		"  runner_config: { base_url: \"${URL}\", timeout: %d, headers: { X-Token: •••• } }\n", timeout)
}

func TestVersionsAreFoundByWordOrByTheBeginningOfTheirHash(t *testing.T) {
	db := open(t)
	for i, hash := range []string{"aa11", "ab22", "aa11", "cc33"} {
		keep(t, db, "", hash, document(i+1))
	}
	keep(t, db, "staging", "dd44", document(9))
	base, staging := "", "staging"
	for _, c := range []struct {
		env  *string
		name string
		want string // the hash and the row's place
	}{
		{nil, "latest", "dd44 5"}, {nil, "LATEST", "dd44 5"}, {&base, "latest", "cc33 4"}, {&base, "previous", "aa11 3"},
		{nil, "aa", "aa11 3"}, {nil, "ab22", "ab22 2"}, {nil, "CC", "cc33 4"}, {&staging, "d", "dd44 5"},
	} {
		v, err := GetVersion(t.Context(), db, c.env, c.name)
		if got := fmt.Sprint(v.Hash, " ", v.ID); err != nil || got != c.want || !strings.Contains(v.Document, "name: s") {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
	for name, want := range map[string]string{
		"a":    `"a" stands for several registry versions: aa11, ab22`,
		"ff":   `there is no registry version "ff": there are dd44, cc33, aa11, ab22`,
		"":     `there is no registry version ""`,
		"%":    `there is no registry version "%"`,
		"aa_1": `there is no registry version "aa_1"`,
	} {
		_, err := GetVersion(t.Context(), db, nil, name)
		if fault := (*NameError)(nil); !errors.As(err, &fault) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", name, err, want)
		}
	}
	if _, err := GetVersion(t.Context(), db, &staging, "previous"); err == nil {
		t.Error("staging has one version, and yet a previous one")
	}
	list, err := ListVersions(t.Context(), db, &base, 3)
	if err != nil || len(list) != 3 || list[0].Hash != "cc33" || list[2].Hash != "ab22" {
		t.Errorf("the history: %+v, %v", list, err)
	}
}

func TestDiffOfVersionsShowsTextAndMeaning(t *testing.T) {
	version := func(hash, document string) Version {
		return Version{VersionRow{Hash: hash, File: "r.yaml"}, document}
	}
	d := DiffVersions(version("aaaaaaaaaaaaaaaa", document(5)), version("bb", document(7)))
	for _, line := range []string{"--- r.yaml aaaaaaaaaaaa\n", "+++ r.yaml bb\n", "-  runner_config: { base_url: \"${URL}\", timeout: 5", "+  runner_config: { base_url: \"${URL}\", timeout: 7"} {
		if !strings.Contains(d.Text, line) {
			t.Errorf("the diff lacks %q:\n%s", line, d.Text)
		}
	}
	if d.Changes == nil || d.Changes.String() != "changed s (runner_config.timeout 5 → 7)" {
		t.Errorf("changes: %v", d.Changes)
	}
	if d := DiffVersions(version("a", document(5)), version("b", document(5))); d.Text != "" || !d.Changes.Empty() {
		t.Errorf("the same text: %+v", d)
	}
	if d := DiffVersions(version("a", document(5)), version("b", "# withheld\n")); d.Text == "" || d.Changes != nil {
		t.Errorf("a text that cannot be read: %+v", d)
	}
}
