// Package migrate is the console's page of the migration: the guide's phases
// and steps with their state at the left, and at the right the step under the
// cursor: why, its evidence with its age, what will happen, the command that
// does the same, and the action.
//
// The page draws what it was given and asks through Source; it does no I/O in
// Update and decides no policy.
package migrate

import (
	"context"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// Source is what the page asks and does.
type Source struct {
	// Walk reads the walk; guard lets roll-outs that are under way go on or stop.
	Walk   func(ctx context.Context, guard bool) (ops.Walk, error)
	Plan   func(ctx context.Context, step ops.WalkStep) ([]string, error)                // what its action will do, in sentences
	Do     func(ctx context.Context, step ops.WalkStep, values []string) (string, error) // its action, with what was filled in
	Sign   func(ctx context.Context, w ops.Walk, id string, waive bool, name, note string) error
	Unsign func(ctx context.Context, id string) error
	Signer string // who signs unless another name is typed
	Clock  func() time.Time
}

// walkEvery is how often the evidence is looked at while nothing is at work.
const walkEvery = 3 * time.Second

// doDeadline bounds an action; a rollback waits for running jobs.
const doDeadline = 2 * time.Minute

// Page is the page. Make one with New.
type Page struct {
	env    *parts.Env
	source Source
	feed   parts.Feed[ops.Walk]
	rows   []row
	cursor string // the step's id; empty: the first that can be done
	top    int
	scroll int  // of the step's text
	whole  bool // on a narrow screen the step is shown, and not the list
	tall   int  // rows of the list at the last View
	narrow bool // at the last View
	dialog *dialog
	serial int
}

// row is a line of the list: a phase's head, or a step.
type row struct {
	phase *ops.WalkPhase
	step  *ops.WalkStep
}

type planMsg struct {
	serial int
	words  []string
	err    error
}

type doneMsg struct {
	serial int
	text   string
	err    error
}

// New makes the page.
func New(env *parts.Env, source Source) *Page {
	return &Page{env: env, source: source, feed: parts.Feed[ops.Walk]{Interval: walkEvery, Clock: source.Clock}}
}

// Refresh asks for the walk when it is due: each second while something is at
// work.
func (p *Page) Refresh() tea.Cmd {
	p.feed.Interval = walkEvery
	if p.busy() {
		p.feed.Interval = time.Second
	}
	guard, walk := p.env.ReadOnly == "", p.source.Walk
	return p.feed.Ask(p.env.Now, func(ctx context.Context) (ops.Walk, error) { return walk(ctx, guard) })
}

// busy tells whether a migration or a roll-out is under way, or nothing is
// known yet.
func (p *Page) busy() bool {
	for _, r := range p.rows {
		if r.step != nil && (r.step.Run != nil || r.step.Rollout != nil) {
			return true
		}
	}
	return p.feed.Good.IsZero()
}

// News makes the walk due.
func (p *Page) News() {
	if p.busy() {
		p.feed.Soon()
	}
}

// Health tells how fresh the page is.
func (p *Page) Health() parts.Health { return p.feed.Health() }

// Capturing tells whether a dialog takes every key.
func (p *Page) Capturing() bool { return p.dialog != nil }

// Overlay is the dialog's box, nil when there is none.
func (p *Page) Overlay(w, h int) []string {
	if p.dialog == nil {
		return nil
	}
	return p.dialog.view(p.env.Theme, w, h)
}

// Opened is when what the dialog shows appeared.
func (p *Page) Opened() time.Time {
	if p.dialog == nil {
		return time.Time{}
	}
	return p.dialog.opened
}

// step is the step under the cursor; nil: there is none yet.
func (p *Page) step() *ops.WalkStep {
	for _, r := range p.rows {
		if r.step != nil && r.step.ID == p.cursor {
			return r.step
		}
	}
	return nil
}

// readOnly says why nothing may be changed; before the migration the migration
// itself may.
func (p *Page) readOnly(action ops.StepAction) string {
	if p.env.Old && action == ops.ActMigrate && p.env.OldWritable {
		return ""
	}
	return p.env.ReadOnly
}

// Place is where the page's actions work.
func (p *Page) Place() actions.Place { return actions.Migrate }

// Hints lists what works in a dialog.
func (p *Page) Hints() []parts.Key {
	if p.dialog == nil {
		return nil
	}
	return p.dialog.keys(p.env.Now)
}

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	s := p.step()
	switch {
	case s == nil:
		return "there is no step yet"
	case id == actions.MigrateAct:
		verb, why := p.action(s)
		if verb == "" && !p.narrow {
			return "nothing is to be done here, the evidence decides"
		}
		return why
	case id == actions.MigrateUnsign && s.Signed == nil:
		return "nobody signed this step"
	case id == actions.MigrateWaive && s.Signed != nil:
		return "it is signed"
	case id == actions.MigrateWaive && s.State == ops.StepDone:
		return "it is done"
	case id == actions.MigrateWhole && !p.narrow:
		return "the screen shows both"
	}
	return ""
}

// Do does one of the page's actions.
func (p *Page) Do(id actions.ID) tea.Cmd {
	switch id {
	case actions.MigrateAct:
		return p.act()
	case actions.MigrateWaive:
		return p.sign(true)
	case actions.MigrateUnsign:
		return p.unsign()
	case actions.MigrateNext:
		if len(p.rows) > 0 {
			p.open()
		}
	case actions.MigrateWhole:
		p.whole = !p.whole
	case actions.MigrateBack:
		p.whole = false
	}
	return nil
}

// action is what enter does to a step, and why it cannot.
func (p *Page) action(s *ops.WalkStep) (verb, why string) {
	verb = longVerb(s)
	if verb == "" {
		return "", ""
	}
	if why = p.readOnly(s.Action); why == "" && len(s.BlockedBy) > 0 {
		why = "first: " + s.BlockedBy[0]
	}
	return verb, why
}

// Update takes a key or an answer.
func (p *Page) Update(msg tea.Msg) tea.Cmd {
	switch msg := msg.(type) {
	case parts.Read[ops.Walk]:
		if p.feed.Take(msg) {
			p.list()
		}
	case planMsg:
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.planned(msg, p.env.Now)
		}
	case doneMsg:
		p.feed.Hurry()
		if p.dialog != nil && msg.serial == p.dialog.serial {
			p.dialog.done(msg, p.env.Now)
		}
	case tea.KeyPressMsg:
		if p.dialog != nil {
			return p.dialogKey(msg)
		}
		p.key(msg.String())
	case tea.PasteMsg:
		if p.dialog != nil {
			p.dialog.paste(msg.Content, p.env.Now)
		}
	case tea.MouseWheelMsg:
		switch {
		case p.dialog != nil:
		case msg.Button == tea.MouseWheelUp:
			p.move(-1)
		case msg.Button == tea.MouseWheelDown:
			p.move(1)
		}
	}
	return nil
}

// list lays the rows out anew and keeps the cursor on its step.
func (p *Page) list() {
	p.rows = nil
	for i := range p.feed.Value.Phases {
		phase := &p.feed.Value.Phases[i]
		p.rows = append(p.rows, row{phase: phase})
		for k := range phase.Steps {
			p.rows = append(p.rows, row{phase: phase, step: &phase.Steps[k]})
		}
	}
	if p.step() == nil {
		p.cursor = ""
		p.open()
	}
}

// open puts the cursor on the next step that wants something.
func (p *Page) open() {
	from := p.index()
	for i := range p.rows {
		r := p.rows[(from+1+i)%len(p.rows)]
		if r.step != nil && (r.step.State == ops.StepNext || r.step.State == ops.StepFailed) {
			p.cursor, p.scroll = r.step.ID, 0
			return
		}
	}
	if p.step() == nil {
		p.move(1)
	}
}

func (p *Page) index() int {
	for i, r := range p.rows {
		if r.step != nil && r.step.ID == p.cursor {
			return i
		}
	}
	return -1
}

// move goes n steps on.
func (p *Page) move(n int) {
	at := p.index()
	for range max(n, -n) {
		next := at
		for {
			if next += map[bool]int{true: 1, false: -1}[n > 0]; next < 0 || next >= len(p.rows) {
				break
			}
			if p.rows[next].step != nil {
				at = next
				break
			}
		}
	}
	if at >= 0 {
		p.cursor, p.scroll = p.rows[at].step.ID, 0
	}
}

// key moves the cursor, or the step's text.
func (p *Page) key(key string) {
	switch key {
	case "up", "k":
		p.move(-1)
	case "down", "j":
		p.move(1)
	case "home", "g":
		p.move(-len(p.rows))
	case "end", "G":
		p.move(len(p.rows))
	case "pgdown":
		p.scroll += 5
	case "pgup":
		p.scroll = max(p.scroll-5, 0)
	}
}

func toast(text string) tea.Cmd {
	return func() tea.Msg { return parts.ToastMsg{Text: text, Bad: true} }
}

// act opens the dialog of the step's action.
func (p *Page) act() tea.Cmd {
	s := p.step()
	if s == nil {
		return nil
	}
	verb, why := p.action(s)
	switch {
	case verb == "" && p.narrow:
		p.whole = true
		return nil
	case verb == "":
		return toast("Nothing is to be done here: the evidence decides.")
	case why != "":
		return toast("Not now: " + why)
	case s.Action == ops.ActSign:
		return p.sign(false)
	}
	p.serial++
	p.dialog = newDialog(p.serial, *s, verb, p.env.Now)
	step, plan, serial := *s, p.source.Plan, p.serial
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), 5*parts.ReadDeadline)
		defer cancel()
		words, err := plan(ctx, step)
		return planMsg{serial, words, err}
	}
}

// sign opens the dialog that signs or waives the step.
func (p *Page) sign(waive bool) tea.Cmd {
	s := p.step()
	switch {
	case s == nil || s.Signed != nil || waive && s.State == ops.StepDone:
		return nil
	case p.readOnly("") != "":
		return toast("Not now: " + p.readOnly(""))
	}
	p.serial++
	p.dialog = newSigning(p.serial, *s, waive, p.source.Signer, p.env.Now)
	return nil
}

func (p *Page) unsign() tea.Cmd {
	s := p.step()
	switch {
	case s == nil || s.Signed == nil:
		return nil
	case p.readOnly("") != "":
		return toast("Not now: " + p.readOnly(""))
	}
	p.serial++
	p.dialog = newUnsigning(p.serial, *s, p.env.Now)
	return nil
}

func (p *Page) dialogKey(msg tea.KeyPressMsg) tea.Cmd {
	d := p.dialog
	switch d.key(msg, p.env.Now) {
	case closes:
		p.dialog = nil
	case confirmed:
		return p.carryOut(d)
	}
	return nil
}

// carryOut does what the dialog asked for.
func (p *Page) carryOut(d *dialog) tea.Cmd {
	source, walk, values, serial := p.source, p.feed.Value, d.values(), d.serial
	step, kind := d.step, d.kind
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), doDeadline)
		defer cancel()
		switch kind {
		case signing, waiving:
			err := source.Sign(ctx, walk, step.ID, kind == waiving, values[0], values[1])
			return doneMsg{serial, map[kinds]string{signing: "Signed off.", waiving: "Waived."}[kind] + " It is in the audit log too.", err}
		case unsigning:
			return doneMsg{serial, "Taken back: the evidence decides again.", source.Unsign(ctx, step.ID)}
		}
		text, err := source.Do(ctx, step, values)
		return doneMsg{serial, text, err}
	}
}
