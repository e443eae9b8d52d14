// Package parts holds what the console's pages share: the theme, text that is
// safe to print, formats of stable width, the windowed table, the sparkline,
// layers over a screen, and the feed that keeps a page fresh.
//
// Everything here is a value or a plain struct that draws into a string of an
// exact size. Nothing does I/O and nothing reads the clock: time comes in
// with the Env.
package parts

import (
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops/actions"
)

// Env is what every page knows of the console around it. The app owns it and
// changes it only between messages.
type Env struct {
	Theme    *Theme
	Now      time.Time // of the message in hand
	Paused   bool      // no feed refreshes by itself
	ReadOnly string    // why nothing may be changed; empty: it may

	// Old tells that the schema is not migrated; OldWritable, that it may be
	// migrated from here, which is all that can be done then.
	Old, OldWritable bool

	// Listening tells that the database says when something happens, and News
	// when it last did: while it says nothing and nothing runs, feeds may rest.
	Listening bool
	News      time.Time
	busy      bool

	Keymap actions.Keymap

	// Ask opens a dialog over the page.
	Ask func(Ask) tea.Cmd
}

// A screen is one second fresh while something happens. Figures follow what
// they count, so the time after the last news is part of it.
const (
	freshEvery = time.Second
	restEvery  = 6 * time.Second
	aftermath  = 3 * time.Second
)

// Every is how often a feed shall ask; busy tells that its last answer showed
// something under way.
func (e *Env) Every(busy bool) time.Duration {
	e.busy = busy
	if e.Resting() {
		return restEvery
	}
	return freshEvery
}

// Resting tells that nothing happens: nothing new was heard of, and the last
// figures showed nothing under way.
func (e *Env) Resting() bool { return e.Listening && !e.busy && e.Now.Sub(e.News) > aftermath }

// Key is one binding as help and the bottom line show it. Disabled says why it
// does nothing here and now; an empty string means that it works.
type Key struct {
	Keys     string // as people read it: "↑↓", "enter"
	Help     string // one to three words
	Disabled string
	Hidden   bool // in the help only
}

// GoMsg asks the app for another page, which gets the message too.
type GoMsg struct {
	Page    actions.ID // page.jobs …
	Filter  string     // for the page of jobs: the filter's words
	Service string     // for the page of services: the one to open
}

// Go is the command that goes to another page.
func Go(msg GoMsg) tea.Cmd { return func() tea.Msg { return msg } }

// Toast is the command that shows a line of text until the next key.
func Toast(text string, bad bool) tea.Cmd { return func() tea.Msg { return ToastMsg{text, bad} } }

// ToastMsg asks the app for a line of text that stays until the next key.
type ToastMsg struct {
	Text string
	Bad  bool
}
