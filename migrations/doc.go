// Package migrations brings the jobs schema of an application to what agents
// and consoles need, while the application goes on working, and back.
//
// The migrations are plain SQL files, which psql runs as well as Apply does,
// with the same result and in any order of the two. A file is a list of
// steps, each a statement or block of its own outside any transaction; each
// looks first and changes only what is missing, so that a migration that was
// interrupted anywhere is finished by running it again.
//
// Promises: one migration at a time on a database; no change waits for its
// lock so long that the application notices; what was recorded as applied is
// believed only as far as Validate finds it; an error says how far it came.
// Never: rewriting the jobs table, changing functions and views that belong
// to the application, losing a job.
package migrations

import (
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:embed *.sql
var files embed.FS

// Step is one statement or block, sent to PostgreSQL by itself. The lines below
// its name in the file say the rest: "-- lock:", "-- work:", "-- when: last".
type Step struct {
	Name string `json:"name"` // for people: "build index idx_tb_job_run_lane"
	SQL  string `json:"sql"`

	// Lock is the strongest lock that it takes on the jobs table, as PostgreSQL
	// names it; empty: none that the application can meet.
	Lock string `json:"lock,omitempty"`
	Work Work   `json:"work"`

	// Last marks what Apply leaves until all migrations have their objects:
	// agents may work meanwhile.
	Last bool `json:"last,omitempty"`
}

// Work is what makes a step take time. No step rewrites the jobs table.
type Work string

// The kinds of Work. Only Instant ones hold a lock that anybody waits for.
const (
	Instant  Work = "instant"   // a change of the catalog, or of a small table
	OneScan  Work = "one scan"  // reads the whole jobs table
	TwoScans Work = "two scans" // the same twice, and sorts what it finds
	Fill     Work = "fill"      // updates old rows in paced batches
)

// Migration is one numbered pair of SQL files.
type Migration struct {
	Version int    `json:"version"` // from 1, rising
	Name    string `json:"name"`    // "multi_execution"
	Steps   []Step `json:"steps"`
	Down    []Step `json:"down"`
}

// String is the migration's file name without its ending.
func (m Migration) String() string { return fmt.Sprintf("%03d_%s", m.Version, m.Name) }

// List returns every migration, lowest version first.
func List() []Migration { return slices.Clone(list()) }

// list panics on a fault in the embedded files, which no input can cause and
// every test would show.
var list = sync.OnceValue(func() []Migration {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err)
	}
	var all []Migration
	for _, entry := range entries { // sorted by name
		base, ok := strings.CutSuffix(entry.Name(), ".sql")
		if version, name, named := strings.Cut(base, "_"); ok && named && !strings.HasSuffix(base, ".down") {
			n, err := strconv.Atoi(version)
			if err != nil || len(all) > 0 && n <= all[len(all)-1].Version {
				panic(fmt.Sprintf("migration file %s is out of sequence", entry.Name()))
			}
			all = append(all, Migration{Version: n, Name: name,
				Steps: steps(base + ".sql"), Down: steps(base + ".down.sql")})
		}
	}
	return all
})

// stepMark begins the line that names a step.
const stepMark = "-- step: "

// steps splits a file. What stands before the first step is for readers and
// for psql.
func steps(file string) []Step {
	text, err := files.ReadFile(file)
	if err != nil {
		panic(err)
	}
	var all []Step
	for i, part := range strings.Split("\n"+string(text), "\n"+stepMark) {
		if i == 0 {
			continue
		}
		name, sql, _ := strings.Cut(part, "\n")
		all = append(all, describe(Step{Name: strings.TrimSpace(name), SQL: strings.TrimSpace(sql), Work: Instant}))
	}
	if len(all) == 0 {
		panic("migration file " + file + " has no steps")
	}
	return all
}

// describe reads the lines below a step's name.
func describe(s Step) Step {
	for line := range strings.Lines(s.SQL) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case ok && key == "-- lock":
			s.Lock = value
		case ok && key == "-- work":
			s.Work = Work(value)
		case ok && key == "-- when":
			s.Last = value == "last"
		default:
			return s
		}
	}
	return s
}

// cleanup is the step that removes what an interrupted index build left.
const cleanup = "drop indexes that an interrupted build left invalid"

// before returns what has to run before a step is tried again.
func (m Migration) before(step Step) (Step, bool) {
	if !strings.Contains(step.SQL, "CREATE INDEX CONCURRENTLY") {
		return Step{}, false
	}
	i := slices.IndexFunc(m.Steps, func(s Step) bool { return s.Name == cleanup })
	if i < 0 {
		return Step{}, false
	}
	return m.Steps[i], true
}
