// Package version says which build this is.
//
// A release sets the variables with the linker; a plain `go build` or
// `go install` leaves them empty, and what Go records in the program itself
// is used instead. It never fails: what is not known is left out.
package version

import (
	"runtime/debug"
	"strings"
)

// Set by the linker (-ldflags "-X …"). Read them through String, or Short
// where only the number is wanted.
var (
	Version string // semantic version without v, such as 1.4.0, or git describe's words
	Commit  string // the commit's short hash
	Date    string // the commit's time, RFC 3339
)

// Short is the version alone, such as 1.4.0; "dev" when nothing is known.
func Short() string {
	v, _, _ := resolve(debug.ReadBuildInfo())
	return v
}

// String is one line for --version, such as
// "1.4.0 (commit 3f9c2d1, 2026-11-23T10:00:00Z)".
func String() string {
	return line(resolve(debug.ReadBuildInfo()))
}

// resolve fills what the linker left empty from Go's own record.
func resolve(info *debug.BuildInfo, ok bool) (version, commit, date string) {
	version, commit, date = Version, Commit, Date
	if ok && info != nil {
		if version == "" && info.Main.Version != "(devel)" {
			version = strings.TrimPrefix(info.Main.Version, "v")
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && commit == "":
				commit = s.Value[:min(len(s.Value), 7)]
			case s.Key == "vcs.time" && date == "":
				date = s.Value
			}
		}
	}
	if version == "" {
		version = "dev"
	}
	return version, commit, date
}

func line(version, commit, date string) string {
	var known []string
	if commit != "" {
		known = append(known, "commit "+commit)
	}
	if date != "" {
		known = append(known, date)
	}
	if len(known) == 0 {
		return version
	}
	return version + " (" + strings.Join(known, ", ") + ")"
}
