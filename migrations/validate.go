package migrations

import (
	"context"
	_ "embed"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// State is what Validate finds of an object.
type State string

// The states of a Finding.
const (
	OK        State = "ok"
	Missing   State = "missing"
	Different State = "different" // there, with another definition
	Extra     State = "extra"     // there, and no migration's
	Invalid   State = "invalid"   // there, but not at work: an unfinished index, a check not validated, a trigger switched off
)

// Finding is one object that the migrations make or need.
type Finding struct {
	Kind  string `json:"kind"` // schema, table, column, check, primary key, unique, foreign key, index, view, function, trigger
	Name  string `json:"name"` // "jobs.tb_job_run.execution_type"
	State State  `json:"state"`
	Want  string `json:"want"` // definition; for a view its columns, for a function its result
	Have  string `json:"have"` // the same as found; empty when missing

	Migration int `json:"migration"` // version; 0 for what is extra
}

// Report is what Validate finds, in the order kind, name of the catalog.
type Report struct {
	Findings []Finding  `json:"findings"`
	Rows     []RowFault `json:"rows"` // empty: no row breaks the contract
}

// OK tells whether every object is as it should be, and every row too.
func (r Report) OK() bool { return len(r.Faults()) == 0 && len(r.Rows) == 0 }

// Faults are the findings that are neither OK nor merely extra.
func (r Report) Faults() []Finding {
	var faults []Finding
	for _, f := range r.Findings {
		if f.State != OK && f.State != Extra {
			faults = append(faults, f)
		}
	}
	return faults
}

// Count is the number of findings in a state.
func (r Report) Count(s State) int {
	n := 0
	for _, f := range r.Findings {
		if f.State == s {
			n++
		}
	}
	return n
}

// expectation is an object of a migrated database.
type expectation struct {
	object
	Migration int `json:"migration"`
	// Application marks what an HTTP-only application has too: its own
	// functions may be written otherwise, and its rules are not ours to mend.
	Application bool `json:"application,omitempty"`
}

// expectedJSON is the catalog of a database that has all migrations and
// nothing else.
//
//go:generate go test -run TestExpectedCatalogIsThatOfAFreshDatabase -update .
//go:embed expected.json
var expectedJSON []byte

var expected = sync.OnceValue(func() []expectation {
	var all []expectation
	if err := json.Unmarshal(expectedJSON, &all); err != nil {
		panic("expected.json: " + err.Error())
	}
	return all
})

// Validate compares the database with what all migrations make, and changes
// nothing. What else is in schema jobs is told as extra, which is no fault: it
// may be the application's. Rows are looked at where their columns are as they
// should be, in one scan of the jobs table. The caller must not be in a
// transaction.
func Validate(ctx context.Context, conn *pgx.Conn) (Report, error) {
	found, err := catalog(ctx, conn)
	if err != nil {
		return Report{}, err
	}
	report := compare(expected(), found)
	report.Findings = append(report.Findings, extras(found)...)
	report.Rows, err = brokenRows(ctx, conn, found)
	return report, err
}

// extras are what no migration makes.
func extras(found []object) []Finding {
	known := map[key]bool{}
	for _, w := range expected() {
		known[w.key()] = true
		if o, ok := namesake(w, found); ok {
			known[o.key()] = true
		}
	}
	var all []Finding
	for _, o := range found {
		if !known[o.key()] {
			all = append(all, Finding{Kind: o.Kind, Name: o.Name, State: Extra, Have: o.Definition})
		}
	}
	return all
}

func compare(want []expectation, found []object) Report {
	have := make(map[key]object, len(found))
	for _, o := range found {
		have[o.key()] = o
	}
	report := Report{Findings: make([]Finding, 0, len(want))}
	for _, w := range want {
		f := Finding{Kind: w.Kind, Name: w.Name, Want: w.Definition, Migration: w.Migration}
		o, ok := have[w.key()]
		if !ok {
			o, ok = namesake(w, found)
		}
		f.State, f.Have = judge(w, o, ok)
		report.Findings = append(report.Findings, f)
	}
	return report
}

func judge(w expectation, o object, there bool) (State, string) {
	switch {
	case !there:
		return Missing, ""
	case o.Definition != w.Definition:
		return Different, o.Definition
	case o.Fault != "":
		return Invalid, o.Definition + " (" + o.Fault + ")"
	case !w.Application && o.Body != w.Body:
		return Different, o.Definition + " (another text)"
	}
	return OK, o.Definition
}

// namesake finds the application's own rule under another name: compilers
// differ in how they name constraints.
func namesake(w expectation, found []object) (object, bool) {
	if !w.Application || !w.rule() {
		return object{}, false
	}
	for _, o := range found {
		if o.Kind == w.Kind && o.Definition == w.Definition && o.Fault == "" && strings.HasPrefix(o.Name, jobsTable+".") {
			return o, true
		}
	}
	return object{}, false
}

func (w expectation) rule() bool {
	return w.Kind == "check" || w.Kind == "primary key" || w.Kind == "unique"
}

// unfinished returns the findings of one migration that running it (again)
// mends.
func unfinished(version int, found []object) []Finding {
	var mine []expectation
	for _, w := range expected() {
		if w.Migration == version && !(w.Application && w.rule()) {
			mine = append(mine, w)
		}
	}
	var faults []Finding
	for _, f := range compare(mine, found).Findings {
		switch {
		case f.State == Missing,
			f.State == Invalid && (f.Kind == "index" || f.Kind == "check"),
			f.State == Different && f.Kind == "function" && !applications(mine, f):
			faults = append(faults, f)
		}
	}
	return faults
}

func applications(all []expectation, f Finding) bool {
	return slices.ContainsFunc(all, func(w expectation) bool {
		return w.key() == key{f.Kind, f.Name} && w.Application
	})
}

// leftovers returns what a migration alone made and is still there.
func leftovers(version int, found []object) []Finding {
	var left []Finding
	for _, w := range expected() {
		if w.Migration == version && !w.Application && has(found, w.Kind, w.Name) {
			left = append(left, Finding{Kind: w.Kind, Name: w.Name, State: "still there", Have: w.Definition, Migration: version})
		}
	}
	return left
}
