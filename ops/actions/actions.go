// Package actions is the one list of what an operator can do in the console.
//
// Keys, the bottom line, help, the command palette, greying in a read-only
// console, docs/keys.md and the short help of the commands that do the same all
// come from it, so that they cannot say different things. It holds words and no
// behaviour: a page does what an ID names.
package actions

import "slices"

// Place is where an action works. A page may have several: a list and one thing
// in full.
type Place string

// The places.
const (
	Everywhere Place = "everywhere"
	Migrate    Place = "migrate"
	Live       Place = "live"
	Jobs       Place = "jobs"
	Job        Place = "job" // one job in full, on the page of jobs
	Services   Place = "services"
	Agents     Place = "agents"
	Audit      Place = "audit"
)

// Places lists every place in the order in which they are documented.
func Places() []Place {
	return []Place{Everywhere, Migrate, Live, Jobs, Job, Services, Agents, Audit}
}

// ID names an action in code, in the file of key bindings and to people who
// talk about it.
type ID string

// Action is one thing that an operator can do.
type Action struct {
	ID      ID
	Place   Place
	Keys    []string // as bound unless a file says otherwise, in Bubble Tea's names
	Title   string   // one to three words: bottom line, help, palette
	Does    string   // one sentence without its full stop
	Changes bool     // something of the database: not in a read-only console
	Quiet   bool     // not on the bottom line: help, palette and documentation only
	Moves   bool     // only moves about: not in the palette
	Command string   // the command that does the same, after the program's name
}

// All lists every action. The order is that of the bottom line and of help.
func All() []Action { return all }

// Of lists a place's actions.
func Of(p Place) []Action {
	var out []Action
	for _, a := range all {
		if a.Place == p {
			out = append(out, a)
		}
	}
	return out
}

// Find returns the action of that id.
func Find(id ID) (Action, bool) {
	i := slices.IndexFunc(all, func(a Action) bool { return a.ID == id })
	if i < 0 {
		return Action{}, false
	}
	return all[i], true
}

// Must is Find for ids that stand in the code.
func Must(id ID) Action {
	a, ok := Find(id)
	if !ok {
		panic("there is no action " + string(id))
	}
	return a
}

// Does is what the action named in the code does, for a command's short help.
func Does(id ID) string { return Must(id).Does }
