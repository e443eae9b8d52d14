package parts

import (
	"context"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Grace is how long a dialog that appears swallows every key: what was typed
// for the page beneath must not confirm it.
const Grace = 400 * time.Millisecond

// NewDialog opens an Ask; serial tells its answers from those of others.
func NewDialog(serial int, ask Ask, now time.Time) (*Dialog, tea.Cmd) {
	d := &Dialog{Serial: serial}
	return d, d.begin(ask, now)
}

func (d *Dialog) begin(ask Ask, now time.Time) tea.Cmd {
	d.ask, d.opened = ask, now
	d.fields = make([]Field, len(ask.Fields))
	for i, f := range ask.Fields {
		d.fields[i].Set(f.Value)
	}
	if len(ask.Choices) > 0 {
		d.stage = askChoosing
		return nil
	}
	d.stage = askPlanning
	serial, plan, shows := d.Serial, ask.Plan, ask.Shows
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), DoDeadline)
		defer cancel()
		if shows != nil {
			lines, err := shows(ctx)
			return Planned{Serial: serial, Shown: lines, Err: err}
		}
		p, err := plan(ctx)
		return Planned{Serial: serial, Plan: p, Err: err}
	}
}

// Take records an answer; cmd waits for the next one.
func (d *Dialog) Take(msg tea.Msg, now time.Time) tea.Cmd {
	switch msg := msg.(type) {
	case Planned:
		if msg.Serial == d.Serial && d.stage == askPlanning {
			d.planned(msg, now)
		}
	case Progressed:
		if msg.Serial == d.Serial && d.stage == askWorking {
			d.done = msg.Done
			return d.await()
		}
	case Done:
		if msg.Serial == d.Serial {
			d.outcome, d.stage, d.opened = msg.Outcome, askFinished, now
		}
	}
	return nil
}

func (d *Dialog) planned(msg Planned, now time.Time) {
	d.opened = now
	switch {
	case msg.Err != nil:
		d.outcome = Outcome{Bad: true, Lines: []string{"▲ What it would do could not be read; nothing was changed.", Clean(msg.Err.Error())}}
		d.stage = askFinished
	case msg.Shown != nil:
		d.shown, d.stage = msg.Shown, askShowing
	case msg.Plan.Nothing != "":
		d.outcome = Outcome{Lines: []string{"○ " + msg.Plan.Nothing}}
		d.stage = askFinished
	default:
		d.plan, d.stage = msg.Plan, askAsking
		if d.plan.Action == "" {
			d.plan.Action = d.ask.Title
		}
		if d.plan.Leave == "" {
			d.plan.Leave = "Cancel"
		}
		d.at = d.leave()
		if len(d.fields) > 0 {
			d.at = d.firstField()
		}
	}
}

// The spots in the order of the tab key: the name, the fields, the reason, the
// way out, the action.
func (d *Dialog) firstField() int {
	if d.plan.Name != "" {
		return 1
	}
	return 0
}
func (d *Dialog) reasonAt() int { return d.firstField() + len(d.fields) }
func (d *Dialog) leave() int {
	if d.plan.Plain {
		return d.reasonAt()
	}
	return d.reasonAt() + 1
}
func (d *Dialog) action() int { return d.leave() + 1 }

func (d *Dialog) field() *Field {
	switch first := d.firstField(); {
	case d.at < first:
		return &d.name
	case d.at < first+len(d.fields):
		return &d.fields[d.at-first]
	case d.at < d.leave():
		return &d.reason
	}
	return nil
}

// Key takes a key press; closed tells that the dialog is over.
func (d *Dialog) Key(msg tea.KeyPressMsg, now time.Time) (closed bool, cmd tea.Cmd) {
	if now.Sub(d.opened) < Grace {
		return false, nil
	}
	name := msg.String()
	switch d.stage {
	case askChoosing:
		return d.chooseKey(name, now)
	case askPlanning:
		return name == "esc", nil
	case askAsking:
		return d.askKey(name, msg.Text, now)
	case askWorking:
		if name == "esc" && d.ask.Lasts {
			d.stop()
		}
	case askShowing:
		d.top += map[string]int{"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -d.height, "pgdown": d.height, "space": d.height,
			"home": -1 << 20, "end": 1 << 20}[name]
		return name == "esc" || name == "enter" || name == "q", nil
	case askFinished:
		return name == "esc" || name == "enter" || name == "q", nil
	}
	return false, nil
}

func (d *Dialog) chooseKey(name string, now time.Time) (bool, tea.Cmd) {
	n := len(d.ask.Choices)
	switch name {
	case "esc", "q":
		return true, nil
	case "up", "k", "shift+tab":
		d.choice = (d.choice + n - 1) % n
	case "down", "j", "tab":
		d.choice = (d.choice + 1) % n
	case "enter":
		return false, d.begin(d.ask.Choices[d.choice].Ask, now)
	default:
		for i, c := range d.ask.Choices {
			if c.Key == name {
				d.choice = i
				return false, d.begin(c.Ask, now)
			}
		}
	}
	return false, nil
}

func (d *Dialog) askKey(name, text string, now time.Time) (closed bool, cmd tea.Cmd) {
	d.hint = ""
	n := d.action() + 1
	switch name {
	case "esc":
		return true, nil
	case "tab", "down":
		d.at = (d.at + 1) % n
		return false, nil
	case "shift+tab", "up":
		d.at = (d.at + n - 1) % n
		return false, nil
	}
	if f := d.field(); f != nil {
		if name == "enter" {
			d.at++
			return false, nil
		}
		f.Key(name, text)
		return false, nil
	}
	switch name {
	case "left", "right":
		d.at = d.leave() + d.action() - d.at
	case "enter":
		if d.at == d.leave() {
			return true, nil
		}
		if d.hint = d.missing(); d.hint == "" {
			return false, d.work(now)
		}
	}
	return false, nil
}

// missing says what the action still wants; empty: it may go.
func (d *Dialog) missing() string {
	if d.plan.Name != "" && d.name.Text() != d.plan.Name {
		return "Type the name " + d.plan.Name + " first."
	}
	for i, f := range d.ask.Fields {
		if f.Check != nil {
			if fault := f.Check(d.fields[i].Text()); fault != "" {
				return f.Label + ": " + fault
			}
		}
	}
	if d.plan.Reason && strings.TrimSpace(d.reason.Text()) == "" {
		return "Give a reason first: others will read it in the audit log."
	}
	return ""
}

func (d *Dialog) work(now time.Time) tea.Cmd {
	d.stage, d.opened, d.done = askWorking, now, 0
	said := Said{Reason: strings.TrimSpace(d.reason.Text()), Fields: map[string]string{}}
	for i, f := range d.ask.Fields {
		said.Fields[f.Name] = d.fields[i].Text()
	}
	ctx, cancel := context.WithCancel(context.Background())
	if !d.ask.Lasts {
		ctx, cancel = context.WithTimeout(context.Background(), DoDeadline)
	}
	d.stop, d.told = cancel, make(chan int64, 1)
	serial, do, told := d.Serial, d.ask.Do, d.told
	work := func() tea.Msg {
		defer cancel()
		defer close(told)
		return Done{serial, do(ctx, said, func(done int64) {
			select {
			case <-told: // the newest count replaces one that nobody took
			default:
			}
			told <- done
		})}
	}
	return tea.Batch(work, d.await())
}

// await waits until the action has come further.
func (d *Dialog) await() tea.Cmd {
	serial, told := d.Serial, d.told
	return func() tea.Msg {
		done, ok := <-told
		if !ok {
			return nil
		}
		return Progressed{Serial: serial, Done: done}
	}
}

// Paste types a text into the field that has the focus.
func (d *Dialog) Paste(text string, now time.Time) {
	if d.stage == askAsking && now.Sub(d.opened) >= Grace {
		if f := d.field(); f != nil {
			f.Insert(text)
		}
	}
}

// Opened is when what the dialog shows appeared: until a Grace later it swallows
// every key.
func (d *Dialog) Opened() time.Time { return d.opened }

// Keys lists what works in the dialog; nothing does in its first moment.
func (d *Dialog) Keys(now time.Time) []Key {
	if now.Sub(d.opened) < Grace {
		return nil
	}
	switch d.stage {
	case askChoosing:
		return []Key{{Keys: "↑↓", Help: "choose"}, {Keys: "enter", Help: "go on"}, {Keys: "esc", Help: "cancel"}}
	case askAsking:
		return []Key{{Keys: "tab", Help: "next field"}, {Keys: "enter", Help: "take it"}, {Keys: "esc", Help: "cancel"}}
	case askWorking:
		if d.ask.Lasts {
			return []Key{{Keys: "esc", Help: "stop here"}}
		}
		return nil
	case askShowing:
		return []Key{{Keys: "↑↓", Help: "scroll"}, {Keys: "esc", Help: "close"}}
	default:
		return []Key{{Keys: "esc", Help: "close"}}
	}
}
