package tui

import (
	"context"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/agents"
	"github.com/specql/specql-ops/tui/audit"
	"github.com/specql/specql-ops/tui/jobs"
	"github.com/specql/specql-ops/tui/live"
	"github.com/specql/specql-ops/tui/migrate"
	"github.com/specql/specql-ops/tui/parts"
	"github.com/specql/specql-ops/tui/services"
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
	Copy(text string) error
	Size() (w, h int, err error)
}

// page is one of the console's pages. What a key does is looked up in the list
// of actions; a page gets the keys that are none, which move its cursor.
type page interface {
	Place() actions.Place          // where it stands: what its keys do
	Do(id actions.ID) tea.Cmd      // one of its place's actions
	Disabled(id actions.ID) string // why an action does nothing here and now; empty: it works
	Update(tea.Msg) tea.Cmd
	Refresh() tea.Cmd // what is due to be asked; nil: nothing
	News()            // something happened: ask soon
	View(w, h int) string
	Capturing() bool    // a text is typed: every key belongs to the page
	Hints() []parts.Key // what works while it captures keys
	Health() parts.Health
}

// overlayer is a page with dialogs of its own, more than an action's.
type overlayer interface {
	Overlay(w, h int) []string // nil: none is open
	Opened() time.Time         // when what it shows appeared
}

// copier and exporter are pages that have something to copy or to write.
type (
	copier   interface{ Copy() (what, text string) }
	exporter interface {
		Export() (name string, write func(ctx context.Context, w io.Writer, asJSON bool, progress func(int64)) (int64, error))
	}
)

type entry struct {
	id   actions.ID // that goes there
	page page
}

type tickMsg time.Time

type (
	// newsMsg says that something happened in the database.
	newsMsg struct{}
	// wakeMsg draws the screen again: time alone has changed it.
	wakeMsg struct{}
)

// app routes messages to pages and draws the frame around them.
type app struct {
	env      *parts.Env
	source   Source
	overview parts.Feed[ops.Overview]
	readOnly string // by option; the role's own reason comes with the overview

	pages   []entry
	at      int
	led     bool // to the page that fits the database
	help    bool
	palette *palette
	dialog  *parts.Dialog
	serial  int       // of dialogs: a late answer to a closed one is dropped
	opened  time.Time // what a dialog showed last appeared then
	undo    *parts.Undo
	toast   parts.ToastMsg

	dark    bool
	profile colorprofile.Profile
	w, h    int

	term  screen // nil in tests of the model
	waits bool   // for an answer, and draws the screen then
	crash *crash
}

func newApp(source Source, readOnly string) *app {
	a := &app{env: &parts.Env{Now: source.Clock(), ReadOnly: readOnly, Keymap: source.Keymap}, source: source, readOnly: readOnly,
		overview: parts.Feed[ops.Overview]{Interval: 2 * time.Second, Clock: source.Clock},
		dark:     true, profile: colorprofile.TrueColor}
	a.env.Listening = source.News != nil
	a.env.Ask = a.ask
	a.env.Theme = parts.NewTheme(a.dark, a.profile)
	a.pages = a.allPages()
	a.at = 1
	return a
}

// allPages makes the pages in the order of their tabs.
func (a *app) allPages() []entry {
	s := a.source
	return []entry{
		{actions.PageMigrate, migrate.New(a.env, s.Migrate)},
		{actions.PageLive, live.New(a.env, live.Source{Live: s.Live, Plan: s.Plan, Switch: s.Switch, Clock: s.Clock})},
		{actions.PageJobs, jobs.New(a.env, jobs.Source{List: s.List, Job: s.Job, Filter: s.Filter, Plan: s.PlanJobs, Change: s.ChangeJobs,
			Operations: s.Operations, Enqueue: s.Enqueue, Follow: s.Follow, Clock: s.Clock})},
		{actions.PageServices, services.New(a.env, services.Source{Services: s.Services, Service: s.Service, Plan: s.PlanService, Switch: s.SwitchService, Versions: s.Versions, Diff: s.Diff, Clock: s.Clock})},
		{actions.PageAgents, agents.New(a.env, agents.Source{Agents: s.Agents, Order: s.Order, Clock: s.Clock})},
		{actions.PageAudit, audit.New(a.env, audit.Source{Audit: s.Audit, Clock: s.Clock})},
	}
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
	cmd = guard(tea.Batch(a.take(msg), a.wake()))
	a.waits = a.drawnLater(msg)
	return a, cmd
}

// drawnLater tells whether the screen may stay as it is after a message: at rest,
// while an answer is on its way that will have it drawn. Otherwise each look at a
// database where nothing happens would draw the screen three times.
func (a *app) drawnLater(msg tea.Msg) bool {
	switch msg.(type) {
	case tickMsg, parts.Read[ops.Overview], parts.Read[ops.Live]:
		return a.env.Resting() && a.dialog == nil && (a.overview.Health().Busy || a.page().Health().Busy)
	}
	return false
}

// wake draws the screen again when a dialog that has just appeared takes keys:
// its keys are shown from then on.
func (a *app) wake() tea.Cmd {
	var opened time.Time
	if a.dialog != nil {
		opened = a.dialog.Opened()
	} else if own, ok := a.page().(overlayer); ok {
		opened = own.Opened()
	}
	if opened.Equal(a.opened) || a.source.After == nil {
		return nil
	}
	if a.opened = opened; opened.IsZero() {
		return nil
	}
	return a.source.After(parts.Grace)
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
		a.news()
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
	case parts.GoMsg:
		return a.goTo(msg)
	case parts.Planned, parts.Progressed, parts.Done:
		return a.answered(msg)
	case tea.KeyPressMsg:
		return a.key(msg)
	case tea.PasteMsg:
		return a.paste(msg)
	case tea.MouseWheelMsg, tea.MouseClickMsg:
		return a.mouse(msg)
	case tea.MouseMsg, wakeMsg:
	default:
		return a.toAll(msg)
	}
	return nil
}

// news makes every page ask soon.
func (a *app) news() {
	a.overview.Soon()
	for _, e := range a.pages {
		e.page.News()
	}
}

// toAll hands an answer to every page; the one that asked takes it.
func (a *app) toAll(msg tea.Msg) tea.Cmd {
	var cmds []tea.Cmd
	for _, e := range a.pages {
		cmds = append(cmds, e.page.Update(msg))
	}
	return tea.Batch(cmds...)
}

// goTo changes the page and tells it what is wanted of it.
func (a *app) goTo(msg parts.GoMsg) tea.Cmd {
	for i, e := range a.pages {
		if e.id == msg.Page {
			a.at = i
			return tea.Batch(a.page().Update(msg), a.page().Refresh())
		}
	}
	return nil
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

func (a *app) tooSmall() bool { return a.w < leastWidth || a.h < leastHeight }

// View draws the screen and has it painted; the library draws nothing.
func (a *app) View() (v tea.View) {
	defer func() {
		if r := recover(); r != nil && a.crash == nil {
			a.crashed(r)
		}
	}()
	if a.term != nil && a.crash == nil && !a.waits {
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
