package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

type stage int

const (
	choosing stage = iota // which type
	planning              // the plan is being read
	asking                // plan, reason, Cancel and the action
	working
	finished
)

// What stands in the dialog, in the order of the tab key.
type spot int

const (
	onName spot = iota // only where the type's name must be typed
	onReason
	onCancel
	onAction
)

type outcome int

const (
	stays outcome = iota
	closes
	chosen
	confirmed
)

type planMsg struct {
	serial int
	plan   ops.SwitchPlan
	err    error
}

type doneMsg struct {
	serial  int
	changed []jobs.Switch
	err     error
}

// dialog switches one type on or off.
type dialog struct {
	serial   int
	opened   time.Time // when what is on it appeared; the grace period counts from here
	stage    stage
	switches []jobs.Switch
	choice   int

	of     jobs.ExecutionType
	enable bool
	plan   ops.SwitchPlan
	name   parts.Field
	reason parts.Field
	at     spot
	hint   string
	result []string
	bad    bool
}

var letters = map[string]jobs.ExecutionType{"h": jobs.HTTP, "s": jobs.Shell, "d": jobs.Docker, "v": jobs.Serverless}

func letterOf(t jobs.ExecutionType) string {
	for l, of := range letters {
		if of == t {
			return l
		}
	}
	return " "
}

func (d *dialog) choose(i int, now time.Time) {
	d.choice, d.of, d.enable = i, d.switches[i].Type, !d.switches[i].Enabled
	d.stage, d.opened = planning, now
}

func (d *dialog) planned(msg planMsg, now time.Time) {
	d.opened = now
	if msg.err != nil {
		d.stage, d.bad = finished, true
		d.result = []string{"▲ The plan could not be read; nothing was changed.", parts.Clean(msg.err.Error())}
		return
	}
	d.plan, d.stage, d.at = msg.plan, asking, onCancel
}

func (d *dialog) done(msg doneMsg) {
	d.stage = finished
	verb := "off"
	if d.enable {
		verb = "on"
	}
	switch {
	case errors.Is(msg.err, context.DeadlineExceeded):
		d.bad = true
		d.result = []string{"▲ The database did not answer in time.", "Look at the card of " + string(d.of) + " whether it is " + verb + " before you try again."}
	case msg.err != nil:
		d.bad = true
		d.result = []string{"✕ " + string(d.of) + " was not switched " + verb + ".", parts.Clean(msg.err.Error())}
	case len(msg.changed) == 0:
		d.result = []string{"● " + string(d.of) + " was " + verb + " already; nothing changed."}
	default:
		d.result = []string{"● " + string(d.of) + " is " + verb + ". Agents obey with their next claim.", "The change is in the audit log."}
	}
}

func (d *dialog) key(msg tea.KeyPressMsg, now time.Time) outcome {
	name := msg.String()
	if now.Sub(d.opened) < parts.Grace || d.stage == working {
		return stays
	}
	switch d.stage {
	case choosing:
		return d.chooseKey(name)
	case planning:
		if name == "esc" {
			return closes
		}
	case asking:
		return d.askKey(name, msg.Text)
	case finished:
		if name == "esc" || name == "enter" || name == "q" {
			return closes
		}
	}
	return stays
}

func (d *dialog) chooseKey(name string) outcome {
	switch name {
	case "esc", "q":
		return closes
	case "up", "k", "shift+tab":
		d.choice = (d.choice + len(d.switches) - 1) % len(d.switches)
	case "down", "j", "tab":
		d.choice = (d.choice + 1) % len(d.switches)
	case "enter":
		return chosen
	default:
		for i, s := range d.switches {
			if t, ok := letters[name]; ok && s.Type == t {
				d.choice = i
				return chosen
			}
		}
	}
	return stays
}

func (d *dialog) first() spot {
	if d.plan.NeedsForce {
		return onName
	}
	return onReason
}

func (d *dialog) move(by int) {
	first, n := int(d.first()), int(onAction-d.first())+1
	d.at = spot((int(d.at)-first+by+n)%n + first)
}

func (d *dialog) askKey(name, text string) outcome {
	d.hint = ""
	switch name {
	case "esc":
		return closes
	case "tab", "down":
		d.move(1)
		return stays
	case "shift+tab", "up":
		d.move(-1)
		return stays
	}
	switch d.at {
	case onName, onReason:
		if name == "enter" {
			d.move(1)
			return stays
		}
		d.field().Key(name, text)
	case onCancel:
		switch name {
		case "enter":
			return closes
		case "left", "right":
			d.at = onAction
		}
	case onAction:
		switch name {
		case "left", "right":
			d.at = onCancel
		case "enter":
			if d.hint = d.missing(); d.hint == "" {
				d.stage = working
				return confirmed
			}
		}
	}
	return stays
}

func (d *dialog) field() *parts.Field {
	if d.at == onName {
		return &d.name
	}
	return &d.reason
}

func (d *dialog) paste(text string, now time.Time) {
	if d.stage == asking && d.at <= onReason && now.Sub(d.opened) >= parts.Grace {
		d.field().Insert(text)
	}
}

// missing says what the action still wants; empty: it may go.
func (d *dialog) missing() string {
	switch {
	case d.plan.NeedsForce && d.name.Text() != string(d.of):
		return "Type the name " + string(d.of) + " first."
	case !d.enable && strings.TrimSpace(d.reason.Text()) == "":
		return "Give a reason first: others will read it beside the held jobs."
	}
	return ""
}

func (d *dialog) keys() []parts.Key {
	switch d.stage {
	case choosing:
		return []parts.Key{{Keys: "↑↓", Help: "choose"}, {Keys: "enter", Help: "go on"}, {Keys: "esc", Help: "cancel"}}
	case asking:
		return []parts.Key{{Keys: "tab", Help: "next field"}, {Keys: "enter", Help: "take it"}, {Keys: "esc", Help: "cancel"}}
	case working:
		return nil
	default:
		return []parts.Key{{Keys: "esc", Help: "close"}}
	}
}

func (d *dialog) title() string {
	switch {
	case d.stage == choosing:
		return "Switch an execution type"
	case d.enable:
		return "Switch " + string(d.of) + " on"
	default:
		return "Switch " + string(d.of) + " off"
	}
}

func (d *dialog) view(th *parts.Theme, w, h int) []string {
	bw := min(w-4, 72)
	inner := bw - 4
	var lines []string
	switch d.stage {
	case choosing:
		lines = d.choices(th, inner)
	case planning:
		lines = []string{th.Muted.Render("Reading what it will do …"), "", th.Muted.Render("esc cancels")}
	case asking:
		lines = d.question(th, inner, h < 18)
	case working:
		lines = []string{th.Accent.Render("● Switching " + string(d.of) + " …")}
	case finished:
		style := th.Good
		if d.bad {
			style = th.Bad
		}
		for i, r := range d.result {
			for _, l := range parts.Wrap(r, inner) {
				if i == 0 {
					lines = append(lines, style.Render(l))
				} else {
					lines = append(lines, th.Text.Render(l))
				}
			}
		}
		lines = append(lines, "", parts.Button(th, "Close", true, false))
	}
	return parts.Framed(lines, bw, " "+th.Strong.Render(d.title())+" ", "", th.Accent)
}

func (d *dialog) choices(th *parts.Theme, inner int) []string {
	var lines []string
	for i, s := range d.switches {
		symbol, does := "●", "on   → switch off"
		if !s.Enabled {
			symbol, does = "○", "off  → switch on"
		}
		text := fmt.Sprintf(" %s   %s %s %s", letterOf(s.Type), symbol, parts.Fit(string(s.Type), 11), does)
		if i == d.choice {
			lines = append(lines, th.Selected.Render(parts.Fit("▸"+text, inner)))
		} else {
			lines = append(lines, th.Text.Render(" "+text))
		}
	}
	return append(lines, "", th.Muted.Render("Its plan comes first; nothing changes yet."))
}

func (d *dialog) question(th *parts.Theme, inner int, tight bool) []string {
	var lines []string
	gap := func() {
		if !tight {
			lines = append(lines, "")
		}
	}
	for _, t := range d.plan.Types {
		for _, sentence := range effects(t, d.enable) {
			for i, l := range parts.Wrap(sentence, inner-2) {
				if i == 0 {
					l = "· " + l
				} else {
					l = "  " + l
				}
				lines = append(lines, th.Text.Render(l))
			}
		}
	}
	gap()
	if d.plan.NeedsForce {
		lines = append(lines, th.Bad.Render(parts.Fit("✕ http runs what the application enqueues by default.", inner)),
			parts.Input(th, "Type "+string(d.of)+" to go on", &d.name, d.at == onName, inner))
	}
	want := "Reason"
	if d.enable {
		want = "Reason (if any)"
	}
	lines = append(lines, parts.Input(th, want, &d.reason, d.at == onReason, inner))
	gap()
	action := d.title()
	lines = append(lines, parts.Button(th, "Cancel", d.at == onCancel, false)+"  "+parts.Button(th, action, d.at == onAction, d.missing() != ""))
	hint := d.hint
	if hint == "" && d.at == onAction {
		hint = d.missing()
	}
	return append(lines, th.Warn.Render(parts.Fit(hint, inner)))
}

// effects says in sentences what the switch will do to one type.
func effects(t ops.TypePlan, enable bool) []string {
	pending := parts.Count(t.Pending, t.PendingCapped)
	services := plural(int64(t.Services), "service", "services")
	if t.Already {
		state := "off"
		if enable {
			state = "on"
		}
		return []string{fmt.Sprintf("%s is %s already: nothing will change.", t.Type, state)}
	}
	if enable {
		return []string{
			fmt.Sprintf("Pending: %s jobs of %s go on.", pending, services),
			"Agents that run " + string(t.Type) + " claim them at once.",
			"It can be switched off again at any time.",
		}
	}
	return []string{
		fmt.Sprintf("Pending: %s jobs of %s are held, not changed.", pending, services),
		fmt.Sprintf("Running: %s to the end; nothing is cancelled.", jobsGo(t.Running)),
		"New " + string(t.Type) + " jobs wait until it is switched on again.",
	}
}

func jobsGo(n int64) string {
	if n == 1 {
		return "1 job goes on"
	}
	return parts.Count(n, false) + " jobs go on"
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return parts.Count(n, false) + " " + many
}
