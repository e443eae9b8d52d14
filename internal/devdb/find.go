//go:build unix

package devdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// EnvBin names the environment variable that gives the folder of PostgreSQL's
// server programs. When it is set, no other place is searched.
const EnvBin = "SPECQL_PG_BIN"

// minMajor is the oldest PostgreSQL that will do, as for the migrations.
const minMajor = 14

// ErrNotFound is what a *NotFoundError is, for errors.Is.
var ErrNotFound = errors.New("PostgreSQL's server programs were not found")

// NotFoundError says that no usable PostgreSQL is installed.
type NotFoundError struct {
	Problem string // what is missing, and where it was looked for
	Remedy  string // how to get it on this system
}

func (e *NotFoundError) Error() string { return e.Problem + ": " + e.Remedy }

// Is makes errors.Is(err, ErrNotFound) true.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// Binaries is an installation of PostgreSQL's server programs.
type Binaries struct {
	Dir     string // the folder that holds initdb, postgres and pg_ctl; links resolved
	Version string // as `postgres --version` words it
	Major   int    // 15 for PostgreSQL 15.4
}

var programs = []string{"initdb", "postgres", "pg_ctl"}

// installFolders are where distributions put the programs when they leave
// them out of PATH. scripts/setup looks in the same places.
var installFolders = []string{
	"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                   // Fedora, RHEL: packages of postgresql.org
	"/usr/libexec/postgresql*",           // Alpine
	"/opt/homebrew/opt/postgresql@*/bin", // macOS, Apple silicon
	"/opt/homebrew/opt/postgresql/bin",   // likewise, without a version
	"/usr/local/opt/postgresql@*/bin",    // macOS, Intel
	"/usr/local/opt/postgresql/bin",      // likewise, without a version
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find looks for PostgreSQL's server programs in SPECQL_PG_BIN, then in PATH,
// then where distributions put them, the highest version first. The error is a
// *NotFoundError when there are none, or only too old ones.
func Find(ctx context.Context) (Binaries, error) {
	return find(ctx, os.Getenv(EnvBin), os.Getenv("PATH"), installFolders)
}

func find(ctx context.Context, chosen, path string, installed []string) (Binaries, error) {
	if chosen != "" {
		if !complete(chosen) {
			return Binaries{}, notFound(fmt.Sprintf("%s=%s does not hold %s", EnvBin, chosen, strings.Join(programs, ", ")))
		}
		return inspect(ctx, chosen)
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // a relative PATH entry would depend on where the caller stands
		}
		if complete(dir) {
			return inspect(ctx, dir)
		}
	}
	var dirs []string
	for _, pattern := range installed {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("look for PostgreSQL in %s: %w", pattern, err)
		}
		dirs = append(dirs, matches...)
	}
	slices.SortStableFunc(dirs, func(a, b string) int { return slices.Compare(numbers(b), numbers(a)) })
	for _, dir := range dirs {
		if complete(dir) {
			return inspect(ctx, dir)
		}
	}
	return Binaries{}, notFound(fmt.Sprintf("no PostgreSQL server programs (%s) in %s, PATH or the usual folders", strings.Join(programs, ", "), EnvBin))
}

func complete(dir string) bool {
	for _, name := range programs {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

var (
	versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)
	numberPattern  = regexp.MustCompile(`\d+`)
)

// inspect resolves links, because PostgreSQL finds its other files from the
// place of the program itself, and asks for the version.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	program, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return Binaries{}, fmt.Errorf("resolve PostgreSQL's programs in %s: %w", dir, err)
	}
	if real := filepath.Dir(program); complete(real) {
		dir = real
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("ask %s/postgres for its version: %w", dir, err)
	}
	b := Binaries{Dir: dir, Version: strings.TrimSpace(string(out))}
	match := versionPattern.FindStringSubmatch(b.Version)
	if match == nil {
		return Binaries{}, fmt.Errorf("%s/postgres says its version is %q, which is not PostgreSQL's form", dir, b.Version)
	}
	b.Major, _ = strconv.Atoi(match[1])
	if b.Major < minMajor {
		return Binaries{}, notFound(fmt.Sprintf("PostgreSQL in %s is version %d, older than %d", dir, b.Major, minMajor))
	}
	return b, nil
}

// numbers are the numbers in a path, by which 15 sorts above 9.
func numbers(path string) []int {
	var n []int
	for _, digits := range numberPattern.FindAllString(path, -1) {
		v, _ := strconv.Atoi(digits)
		n = append(n, v)
	}
	return n
}

func notFound(problem string) error {
	release, _ := os.ReadFile("/etc/os-release") // no such file: the general advice
	return &NotFoundError{Problem: problem, Remedy: remedy(runtime.GOOS, string(release))}
}

// remedy words how to get the programs; osRelease is the text of
// /etc/os-release (freedesktop.org, os-release).
func remedy(goos, osRelease string) string {
	family := ""
	for line := range strings.Lines(osRelease) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			family += " " + strings.Trim(value, `"'`) + " "
		}
	}
	is := func(id string) bool { return strings.Contains(family, " "+id+" ") }
	switch {
	case goos == "darwin":
		return "run `brew install postgresql@17`, or set " + EnvBin + " to their folder"
	case is("debian") || is("ubuntu"):
		return "run `scripts/setup`, or set " + EnvBin + " to their folder"
	case is("fedora") || is("rhel"):
		return "run `dnf install postgresql-server`, or set " + EnvBin + " to their folder"
	case is("alpine"):
		return "run `apk add postgresql`, or set " + EnvBin + " to their folder"
	default:
		return "install your system's PostgreSQL server package, or set " + EnvBin + " to their folder"
	}
}
