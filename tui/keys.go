package tui

import (
	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// key hands a key to whatever is on top: a dialog, the palette, help, a text
// being typed, an action, the page's cursor.
func (a *app) key(msg tea.KeyPressMsg) tea.Cmd {
	name := msg.String()
	switch {
	case name == "ctrl+c":
		return tea.Quit
	case name == "ctrl+z":
		return a.suspend()
	case a.tooSmall():
		if name == "q" {
			return tea.Quit
		}
		return nil
	}
	a.toast = parts.ToastMsg{}
	switch {
	case a.dialog != nil:
		closed, cmd := a.dialog.Key(msg, a.env.Now)
		if closed {
			a.dialog = nil
		}
		return cmd
	case a.palette != nil:
		return a.paletteKey(msg)
	case a.help:
		a.help = false
		if id, _ := a.env.Keymap.Find(actions.Everywhere, name); id == actions.Quit {
			return tea.Quit
		}
		return nil
	case a.page().Capturing():
		return a.page().Update(msg)
	}
	if id, ok := a.env.Keymap.Find(a.page().Place(), name); ok {
		return a.do(actions.Must(id))
	}
	return a.page().Update(msg)
}

// disabled says why an action does nothing here and now; empty: it works.
func (a *app) disabled(act actions.Action) string {
	switch {
	case act.Changes && a.env.ReadOnly != "":
		return a.env.ReadOnly
	case act.ID == actions.Undo && a.undo == nil:
		return "nothing was done that can be taken back"
	case act.ID == actions.Copy && !can[copier](a.page()), act.ID == actions.Export && !can[exporter](a.page()):
		return "this page has nothing for it"
	case act.Place == actions.Everywhere && a.pageOf(act.ID) < 0 && isPage(act.ID):
		return "this console has no such page"
	case act.Place == actions.Everywhere:
		return ""
	}
	return a.page().Disabled(act.ID)
}

func can[T any](p page) bool { _, ok := p.(T); return ok }

func isPage(id actions.ID) bool { return len(id) > 5 && id[:5] == "page." }

func (a *app) pageOf(id actions.ID) int {
	for i, e := range a.pages {
		if e.id == id {
			return i
		}
	}
	return -1
}

// do does an action, or says why not. Nothing that changes anything gets
// further than this in a read-only console.
func (a *app) do(act actions.Action) tea.Cmd {
	if reason := a.disabled(act); reason != "" {
		return parts.Toast("Not here: "+act.Title+": "+reason, true)
	}
	switch act.ID {
	case actions.Palette:
		a.palette = newPalette(a)
	case actions.Help:
		a.help = true
	case actions.Pause:
		a.env.Paused = !a.env.Paused
	case actions.Quit:
		return tea.Quit
	case actions.Suspend:
		return a.suspend()
	case actions.Copy:
		return a.copy()
	case actions.Export:
		return a.export()
	case actions.Stop:
		return a.ask(a.stopping(a.overview.Value.Stopped == ""))
	case actions.Undo:
		u := a.undo
		return a.ask(parts.Ask{Title: u.Title, Plan: u.Plan, Do: u.Do})
	default:
		if i := a.pageOf(act.ID); i >= 0 {
			a.at, a.led = i, true
			return a.page().Refresh()
		}
		return a.page().Do(act.ID)
	}
	return nil
}

// ask opens a dialog.
func (a *app) ask(ask parts.Ask) (cmd tea.Cmd) {
	a.serial++
	a.dialog, cmd = parts.NewDialog(a.serial, ask, a.env.Now)
	return cmd
}

// answered hands an answer to the dialog that waits for it. What was done is
// seen on every page soon, also where the dialog was closed meanwhile.
func (a *app) answered(msg tea.Msg) tea.Cmd {
	var cmd tea.Cmd
	if a.dialog != nil {
		cmd = a.dialog.Take(msg, a.env.Now)
	}
	if done, ok := msg.(parts.Done); ok {
		if done.Outcome.Undo != nil {
			a.undo = done.Outcome.Undo
		} else if a.undo != nil && !done.Outcome.Bad {
			a.undo = nil // it would take back what is not the last any more
		}
		a.news()
		return tea.Batch(cmd, a.page().Refresh())
	}
	return cmd
}

func (a *app) paste(msg tea.PasteMsg) tea.Cmd {
	switch {
	case a.tooSmall() || a.help:
	case a.dialog != nil:
		a.dialog.Paste(msg.Content, a.env.Now)
	case a.palette != nil:
		a.palette.field.Insert(msg.Content)
		a.palette.find()
	case a.page().Capturing():
		return a.page().Update(msg)
	}
	return nil
}

// mouse hands clicks and the wheel to the page, in its own coordinates; a
// click on a tab goes there.
func (a *app) mouse(msg tea.Msg) tea.Cmd {
	if a.tooSmall() || a.dialog != nil || a.palette != nil {
		return nil
	}
	if a.help {
		if _, click := msg.(tea.MouseClickMsg); click {
			a.help = false
		}
		return nil
	}
	switch msg := msg.(type) {
	case tea.MouseClickMsg:
		if msg.Y == 1 {
			return a.clickTab(msg.X)
		}
		msg.X, msg.Y = msg.X-1, msg.Y-a.headHeight()
		if msg.Y >= 0 && msg.Y < a.h-a.headHeight()-1 {
			return a.page().Update(msg)
		}
	case tea.MouseWheelMsg:
		return a.page().Update(msg)
	}
	return nil
}

func (a *app) clickTab(x int) tea.Cmd {
	at := 1
	for i, e := range a.pages {
		width := parts.Width(a.tab(i, e)) + 1
		if x >= at && x < at+width {
			a.at, a.led = i, true
			return a.page().Refresh()
		}
		at += width
	}
	return nil
}
