package migrate

import (
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

type stages int

const (
	planning stages = iota // the plan is being read
	asking
	working
	finished
)

type kinds int

const (
	acting kinds = iota
	signing
	waiving
	unsigning
)

type outcome int

const (
	stays outcome = iota
	closes
	confirmed
)

// input is one field of a dialog.
type input struct {
	label   string
	field   parts.Field
	needed  string   // what is said where it is empty; empty: it may be
	choices []string // up and down go through them
}

// dialog asks before a step's action: its plan, what it needs, Cancel and the
// action, with the focus on Cancel.
type dialog struct {
	serial int
	kind   kinds
	step   ops.WalkStep
	verb   string
	opened time.Time // when what is on it appeared; the grace period counts from here
	stage  stages
	words  []string
	inputs []input
	at     int // the inputs, then Cancel, then the action
	hint   string
	result string
	bad    bool
}

// longVerb is a step's action as its button says it; empty: none.
func longVerb(s *ops.WalkStep) string {
	switch s.Action {
	case ops.ActMigrate:
		if s.State == ops.StepDone || s.Run != nil {
			return ""
		}
		return "Run the schema migration"
	case ops.ActRollout:
		switch {
		case s.Rollout != nil:
			return "End the roll-out here"
		case len(s.Canaries) > 0 && s.State != ops.StepWaived:
			return "Roll " + string(s.Type) + " out"
		}
	case ops.ActFallback:
		switch {
		case len(s.Services) == 0:
			return ""
		case s.Back:
			return "Take the fallback back"
		}
		return "Send a service to http"
	case ops.ActRehearse:
		if s.Back {
			return "Undo the rollback"
		}
		return "Roll back to http-only"
	case ops.ActSign:
		return "Sign off"
	}
	return ""
}

const wantReason = "Give a reason first: others will read it."

func newDialog(serial int, s ops.WalkStep, verb string, now time.Time) *dialog {
	d := &dialog{serial: serial, step: s, verb: verb, opened: now}
	reason := input{label: "Reason", needed: wantReason}
	switch {
	case s.Action == ops.ActRollout && s.Rollout == nil:
		var names []string
		for _, c := range s.Canaries {
			names = append(names, c.Service+"."+c.Operation)
		}
		d.inputs = []input{choice("Canary", names), {label: "Its input", needed: "Give an input first, a JSON object."}, reason}
		d.inputs[1].field.Set(s.Canaries[0].Input)
	case s.Action == ops.ActRollout, s.Action == ops.ActRehearse:
		d.inputs = []input{reason}
	case s.Action == ops.ActFallback:
		d.inputs = []input{choice("Service", s.Services), reason}
	}
	d.at = len(d.inputs)
	return d
}

func choice(label string, names []string) input {
	in := input{label: label, choices: names}
	in.field.Set(names[0])
	return in
}

func newSigning(serial int, s ops.WalkStep, waive bool, signer string, now time.Time) *dialog {
	d := &dialog{serial: serial, kind: signing, step: s, verb: "Sign off", opened: now, stage: asking,
		words: []string{"Your word for it: " + s.Title + " is done."}}
	if waive {
		d.kind, d.verb = waiving, "Waive"
		d.words = []string{"One goes without " + s.Title + "; what comes after it may be done.", "It can be taken back."}
	}
	name := input{label: "Name", needed: "Give a name first."}
	name.field.Set(signer)
	d.inputs = []input{name, {label: "Note", needed: "Give a note first: others will read it."}}
	d.at = len(d.inputs)
	return d
}

func newUnsigning(serial int, s ops.WalkStep, now time.Time) *dialog {
	return &dialog{serial: serial, kind: unsigning, step: s, verb: "Take back", opened: now, stage: asking,
		words: []string{"The word of " + parts.Clean(s.Signed.Name) + " for " + s.Title + " is taken back; the evidence decides again."}}
}

func (d *dialog) planned(msg planMsg, now time.Time) {
	d.opened = now
	if msg.err != nil {
		d.stage, d.bad, d.result = finished, true, "The plan could not be read; nothing was changed. "+parts.Clean(msg.err.Error())
		return
	}
	d.stage = asking
	if d.words = msg.words; d.words == nil && d.step.Will != "" {
		will := d.step.Will
		if d.step.Back {
			will = "what was done before is taken back"
		} else if d.step.Rollout != nil {
			will = "the type stays on, services that wait for their turn go on, and nobody watches any more"
		}
		d.words = []string{strings.ToUpper(will[:1]) + will[1:] + "."}
	}
}

func (d *dialog) done(msg doneMsg, now time.Time) {
	d.stage, d.opened = finished, now
	if d.result = msg.text; msg.err != nil {
		d.bad, d.result = true, parts.Clean(msg.err.Error())
	}
}

func (d *dialog) values() []string {
	values := make([]string, len(d.inputs))
	for i := range d.inputs {
		values[i] = strings.TrimSpace(d.inputs[i].field.Text())
	}
	return values
}

func (d *dialog) key(msg tea.KeyPressMsg, now time.Time) outcome {
	name := msg.String()
	if now.Sub(d.opened) < parts.Grace || d.stage == working {
		return stays
	}
	switch d.stage {
	case planning:
		if name == "esc" {
			return closes
		}
	case finished:
		if name == "esc" || name == "enter" || name == "q" {
			return closes
		}
	case asking:
		return d.askKey(name, msg.Text)
	}
	return stays
}

func (d *dialog) askKey(name, text string) outcome {
	d.hint = ""
	n := len(d.inputs)
	switch name {
	case "esc":
		return closes
	case "tab":
		d.at = (d.at + 1) % (n + 2)
		return stays
	case "shift+tab":
		d.at = (d.at + n + 1) % (n + 2)
		return stays
	}
	if d.at < n {
		d.inputKey(name, text)
		return stays
	}
	switch name {
	case "left", "right":
		d.at = 2*n + 1 - d.at
	case "up":
		d.at = max(n-1, 0)
	case "enter":
		if d.at == n {
			return closes
		}
		if d.hint = d.missing(); d.hint == "" {
			d.stage = working
			return confirmed
		}
	}
	return stays
}

func (d *dialog) inputKey(name, text string) {
	in := &d.inputs[d.at]
	switch {
	case name == "enter":
		d.at++
	case in.choices != nil:
		for i, c := range in.choices {
			if c == in.field.Text() {
				step := map[string]int{"up": -1, "left": -1, "down": 1, "right": 1}[name]
				d.choose((i + step + len(in.choices)) % len(in.choices))
				return
			}
		}
	case name == "up":
		d.at = max(d.at-1, 0)
	case name == "down":
		d.at++
	default:
		in.field.Key(name, text)
	}
}

// choose takes one of the choices; a canary brings its example input along.
func (d *dialog) choose(i int) {
	d.inputs[d.at].field.Set(d.inputs[d.at].choices[i])
	if d.step.Action == ops.ActRollout && d.at == 0 {
		d.inputs[1].field.Set(d.step.Canaries[i].Input)
	}
}

func (d *dialog) paste(text string, now time.Time) {
	if d.stage == asking && d.at < len(d.inputs) && d.inputs[d.at].choices == nil && now.Sub(d.opened) >= parts.Grace {
		d.inputs[d.at].field.Insert(text)
	}
}

// missing says what the action still wants; empty: it may go.
func (d *dialog) missing() string {
	for i := range d.inputs {
		if in := &d.inputs[i]; in.needed != "" && strings.TrimSpace(in.field.Text()) == "" {
			return in.needed
		}
	}
	return ""
}

func (d *dialog) keys(now time.Time) []parts.Key {
	if now.Sub(d.opened) < parts.Grace {
		return nil
	}
	switch d.stage {
	case asking:
		keys := []parts.Key{{Keys: "tab", Help: "next field"}, {Keys: "enter", Help: "take it"}, {Keys: "esc", Help: "cancel"}}
		if d.at < len(d.inputs) && d.inputs[d.at].choices != nil {
			keys = append([]parts.Key{{Keys: "↑↓", Help: "choose"}}, keys...)
		}
		return keys
	case working:
		return nil
	}
	return []parts.Key{{Keys: "esc", Help: "close"}}
}

func (d *dialog) view(th *parts.Theme, w, h int) []string {
	bw := min(w-4, 76)
	inner := bw - 4
	var lines []string
	switch d.stage {
	case planning:
		lines = []string{th.Muted.Render("Reading what it will do …"), "", th.Muted.Render("esc cancels")}
	case asking:
		lines = d.question(th, inner, h < 20)
	case working:
		lines = []string{th.Accent.Render("● At work …")}
	case finished:
		symbol, style := "● ", th.Good
		if d.bad {
			symbol, style = "✕ ", th.Bad
		}
		for _, l := range parts.Wrap(symbol+parts.Clean(d.result), inner) {
			lines = append(lines, style.Render(l))
		}
		lines = append(lines, "", parts.Button(th, "Close", true, false))
	}
	return parts.Framed(lines, bw, " "+th.Strong.Render(d.verb)+" ", "", th.Accent)
}

func (d *dialog) question(th *parts.Theme, inner int, tight bool) []string {
	var lines []string
	gap := func() {
		if !tight && len(lines) > 0 {
			lines = append(lines, "")
		}
	}
	for _, word := range d.words {
		for i, l := range parts.Wrap(parts.Clean(word), inner-2) {
			lines = append(lines, th.Text.Render(map[bool]string{true: "· ", false: "  "}[i == 0]+l))
		}
	}
	if len(d.inputs) > 0 {
		gap()
	}
	for i := range d.inputs {
		label := d.inputs[i].label
		if d.inputs[i].choices != nil {
			label += " (↑↓)"
		}
		lines = append(lines, parts.Entry(th, label, &d.inputs[i].field, d.at == i, inner))
	}
	gap()
	n := len(d.inputs)
	lines = append(lines, parts.Button(th, "Cancel", d.at == n, false)+"  "+parts.Button(th, d.verb, d.at == n+1, d.missing() != ""))
	hint := d.hint
	if hint == "" && d.at == n+1 {
		hint = d.missing()
	}
	return append(lines, th.Warn.Render(parts.Fit(hint, inner)))
}
