package tui

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/agents"
	"github.com/specql/specql-ops/tui/jobs"
	"github.com/specql/specql-ops/tui/live"
	"github.com/specql/specql-ops/tui/migrate"
	"github.com/specql/specql-ops/tui/parts"
)

// The least screen on which everything that matters can be read.
const (
	leastWidth  = 60
	leastHeight = 15
)

// The clock of ages and of what is due. While nothing happens nothing ages by
// the second.
const (
	tick     = time.Second
	restTick = 3 * time.Second
)

// screen is the terminal as the app needs it.
type screen interface {
	Show(frame string, width int)
	Enter() error
	Leave() error
	Size() (w, h int, err error)
}

// page is one of the console's pages.
type page interface {
	Update(tea.Msg) tea.Cmd
	Refresh() tea.Cmd // what is due to be asked; nil: nothing
	View(w, h int) string
	Overlay(w, h int) []string // a dialog's box; nil: none
	Capturing() bool           // every key belongs to the page
	Keys() []parts.Key
	Health() parts.Health
}

type entry struct {
	key, name string
	page      page
}

type tickMsg time.Time

// newsMsg says that something happened in the database.
type newsMsg struct{}

// app routes messages to pages and draws the frame around them.
type app struct {
	env      *parts.Env
	source   Source
	overview parts.Feed[ops.Overview]
	readOnly string // by option; the role's own reason comes with the overview

	pages []entry
	at    int
	led   bool // to the page that fits the database
	help  bool
	toast parts.ToastMsg

	dark    bool
	profile colorprofile.Profile
	w, h    int

	term  screen // nil in tests of the model
	crash *crash
}

func newApp(source Source, readOnly string) *app {
	a := &app{env: &parts.Env{Now: source.Clock(), ReadOnly: readOnly}, source: source, readOnly: readOnly,
		overview: parts.Feed[ops.Overview]{Interval: 2 * time.Second, Clock: source.Clock},
		dark:     true, profile: colorprofile.TrueColor}
	a.env.Listening = source.News != nil
	a.env.Theme = parts.NewTheme(a.dark, a.profile)
	a.pages = []entry{
		{"1", "Migrate", migrate.New(a.env, source.Migrate)},
		{"2", "Live", live.New(a.env, live.Source{Live: source.Live, Plan: source.Plan, Switch: source.Switch, Clock: source.Clock})},
		{"3", "Jobs", jobs.New(a.env, jobs.Source{List: source.List, Job: source.Job, Filter: source.Filter,
			Plan: source.PlanJob, Change: source.ChangeJob, Clock: source.Clock})},
		{"7", "Agents", agents.New(a.env, agents.Source{Agents: source.Agents, Clock: source.Clock})},
	}
	a.at = 1
	return a
}

// Init asks for the first figures.
func (a *app) Init() tea.Cmd {
	return guard(tea.Batch(a.refresh(), a.tick(), a.awaitNews()))
}

// awaitNews waits until the database says that something happened.
func (a *app) awaitNews() tea.Cmd {
	if a.source.News == nil {
		return nil
	}
	return func() tea.Msg { <-a.source.News; return newsMsg{} }
}

func (a *app) tick() tea.Cmd {
	every := tick
	if a.env.Resting() && a.page().Health().Err == nil && a.overview.Err == nil {
		every = restTick
	}
	return tea.Tick(every, func(t time.Time) tea.Msg { return tickMsg(t) })
}

func (a *app) page() page { return a.pages[a.at].page }

func (a *app) refresh() tea.Cmd {
	a.overview.Interval = max(2*time.Second, a.env.Every(a.overview.Value.AgentsRunning > 0))
	return tea.Batch(a.overview.Ask(a.env.Now, func(ctx context.Context) (ops.Overview, error) { return a.source.Overview(ctx) }),
		a.page().Refresh())
}

// Update takes a message. A panic in it ends the console in order.
func (a *app) Update(msg tea.Msg) (model tea.Model, cmd tea.Cmd) {
	defer func() {
		if v := recover(); v != nil {
			a.crashed(v)
			model, cmd = a, tea.Quit
		}
	}()
	if a.crash != nil {
		return a, tea.Quit
	}
	return a, guard(a.take(msg))
}

// take dispatches: to the frame what is the frame's, else to the pages.
func (a *app) take(msg tea.Msg) tea.Cmd {
	a.env.Now = a.source.Clock()
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		a.w, a.h = msg.Width, msg.Height
	case crashMsg:
		a.crash = &msg.crash
		return tea.Quit
	case tea.ResumeMsg:
		return a.resume()
	case tea.BackgroundColorMsg:
		a.dark = msg.IsDark()
		a.env.Theme = parts.NewTheme(a.dark, a.profile)
	case tea.ColorProfileMsg:
		a.profile = msg.Profile
		a.env.Theme = parts.NewTheme(a.dark, a.profile)
	case tickMsg:
		if a.env.Paused {
			return a.tick()
		}
		return tea.Batch(a.refresh(), a.tick())
	case newsMsg:
		a.env.News = a.env.Now
		a.overview.Soon()
		for _, e := range a.pages {
			if p, ok := e.page.(interface{ News() }); ok {
				p.News()
			}
		}
		if a.env.Paused {
			return a.awaitNews()
		}
		return tea.Batch(a.refresh(), a.awaitNews())
	case parts.Read[ops.Overview]:
		if a.overview.Take(msg) {
			a.permissions()
		}
	case parts.ToastMsg:
		a.toast = msg
	case tea.KeyPressMsg:
		return a.key(msg)
	case tea.PasteMsg, tea.MouseWheelMsg:
		if !a.tooSmall() && !a.help {
			return a.page().Update(msg)
		}
	default:
		return a.toAll(msg)
	}
	return nil
}

// toAll hands an answer to every page; the one that asked takes it.
func (a *app) toAll(msg tea.Msg) tea.Cmd {
	var cmds []tea.Cmd
	for _, e := range a.pages {
		cmds = append(cmds, e.page.Update(msg))
	}
	return tea.Batch(cmds...)
}

func (a *app) permissions() {
	v := a.overview.Value
	// Before the migration there is one page that has something to show.
	if !a.led && !v.Migrated {
		a.at = 0
	}
	a.led = true
	a.env.Old, a.env.OldWritable = !v.Migrated, a.readOnly == ""
	switch {
	case a.readOnly != "":
	case v.ReadOnly && v.ReadOnlyReason == "":
		a.env.ReadOnly = "the role " + parts.Clean(v.Role) + " may only read"
	case v.ReadOnly:
		a.env.ReadOnly = parts.Clean(v.ReadOnlyReason)
	default:
		a.env.ReadOnly = ""
	}
}

func (a *app) key(msg tea.KeyPressMsg) tea.Cmd {
	name := msg.String()
	switch name {
	case "ctrl+c":
		return tea.Quit
	case "ctrl+z":
		return a.suspend()
	}
	if a.tooSmall() {
		if name == "q" {
			return tea.Quit
		}
		return nil
	}
	a.toast = parts.ToastMsg{}
	if a.help {
		if name == "q" {
			return tea.Quit
		}
		a.help = false
		return nil
	}
	if a.page().Capturing() {
		return a.page().Update(msg)
	}
	switch name {
	case "q":
		return tea.Quit
	case "?":
		a.help = true
		return nil
	case "p":
		a.env.Paused = !a.env.Paused
		return nil
	}
	for i, e := range a.pages {
		if name == e.key {
			a.at, a.led = i, true
			return a.page().Refresh()
		}
	}
	return a.page().Update(msg)
}

func (a *app) tooSmall() bool { return a.w < leastWidth || a.h < leastHeight }

// View draws the screen and has it painted; the library draws nothing.
func (a *app) View() (v tea.View) {
	defer func() {
		if r := recover(); r != nil && a.crash == nil {
			a.crashed(r)
			a.w, a.h = 0, 0
		}
	}()
	if a.term != nil && a.crash == nil {
		a.term.Show(a.draw(), a.w)
	}
	return v
}

// suspend gives the terminal back and stops the process, as ctrl+z does.
func (a *app) suspend() tea.Cmd {
	term := a.term
	return func() tea.Msg {
		if term == nil || term.Leave() != nil {
			return nil
		}
		return tea.SuspendMsg{}
	}
}

// resume takes the terminal over again; its size may have changed.
func (a *app) resume() tea.Cmd {
	term := a.term
	return func() tea.Msg {
		if term == nil || term.Enter() != nil {
			return tea.QuitMsg{}
		}
		w, h, err := term.Size()
		if err != nil {
			return nil
		}
		return tea.WindowSizeMsg{Width: w, Height: h}
	}
}
