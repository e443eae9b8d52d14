package version

import (
	"runtime/debug"
	"testing"
)

func TestStringSaysWhatIsKnownAndNoMore(t *testing.T) {
	recorded := &debug.BuildInfo{
		Main: debug.Module{Version: "v1.4.0"},
		Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "3f9c2d1aa0b1"},
			{Key: "vcs.time", Value: "2026-11-23T10:00:00Z"},
		},
	}
	cases := []struct {
		name                  string
		version, commit, date string
		info                  *debug.BuildInfo
		want                  string
	}{
		{name: "the linker's words", version: "1.5.0", commit: "abc1234", date: "2026-12-01T00:00:00Z", info: recorded,
			want: "1.5.0 (commit abc1234, 2026-12-01T00:00:00Z)"},
		{name: "go install", info: recorded, want: "1.4.0 (commit 3f9c2d1, 2026-11-23T10:00:00Z)"},
		{name: "go build without version control", info: &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, want: "dev"},
		{name: "no record at all", want: "dev"},
		{name: "a short revision", info: &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "3f9"}}},
			want: "dev (commit 3f9)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v, commit, date := Version, Commit, Date
			t.Cleanup(func() { Version, Commit, Date = v, commit, date })
			Version, Commit, Date = c.version, c.commit, c.date
			if got := line(resolve(c.info, c.info != nil)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
