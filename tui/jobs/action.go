package jobs

import (
	"context"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// What stands in the dialog, in the order of the tab key. The focus starts on
// the way out.
type spot int

const (
	onReason spot = iota
	onLeave
	onAction
	spots
)

type plannedMsg struct {
	serial int
	plan   ops.JobPlan
	err    error
}

type changedMsg struct {
	serial int
	result ops.JobResult
	err    error
}

// dialog cancels or retries one job: plan, reason, then the action.
type dialog struct {
	serial int
	action ops.JobAction
	row    ops.JobRow
	opened time.Time // when what is on it appeared; the grace period counts from here

	plan    *ops.JobPlan // nil while it is being read
	working bool
	result  []string // once it is over
	bad     bool

	at     spot
	reason parts.Field
	hint   string
}

var actionKeys = map[string]ops.JobAction{"c": ops.CancelJobs, "r": ops.RetryJobs}

// begin opens the dialog for the job under the cursor, or the open one.
func (p *Page) begin(action ops.JobAction) tea.Cmd {
	row, ok := p.current()
	if !ok || p.env.ReadOnly != "" {
		return nil
	}
	p.serial++
	p.dialog = &dialog{serial: p.serial, action: action, row: row, opened: p.env.Now, at: onLeave}
	serial, ask := p.serial, p.source.Plan
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), parts.ReadDeadline)
		defer cancel()
		plan, err := ask(ctx, action, row.ID)
		return plannedMsg{serial, plan, err}
	}
}

// current is the open job, else the one under the cursor.
func (p *Page) current() (ops.JobRow, bool) {
	if p.detail != nil {
		return p.detail.row, true
	}
	if p.table.Cursor < len(p.list.rows) {
		return p.list.rows[p.table.Cursor], true
	}
	return ops.JobRow{}, false
}

func (p *Page) dialogKey(msg tea.KeyPressMsg) tea.Cmd {
	d := p.dialog
	name := msg.String()
	switch {
	case p.env.Now.Sub(d.opened) < parts.Grace || d.working:
	case name == "esc", d.result != nil && (name == "enter" || name == "q"), d.plan != nil && name == "enter" && d.at == onLeave:
		p.dialog = nil
	case d.plan == nil || d.result != nil:
	case d.key(name, msg.Text):
		d.working = true
		serial, action, id, reason, do := d.serial, d.action, d.row.ID, d.reason.Text(), p.source.Change
		return func() tea.Msg {
			ctx, cancel := context.WithTimeout(context.Background(), 3*parts.ReadDeadline)
			defer cancel()
			result, err := do(ctx, action, id, reason)
			return changedMsg{serial, result, err}
		}
	}
	return nil
}

// key tells whether the action is confirmed.
func (d *dialog) key(name, text string) bool {
	d.hint = ""
	switch {
	case name == "tab" || name == "down" || name == "enter" && d.at == onReason:
		d.at = (d.at + 1) % spots
	case name == "shift+tab" || name == "up":
		d.at = (d.at + spots - 1) % spots
	case d.at == onReason:
		d.reason.Key(name, text)
	case name == "left" || name == "right":
		d.at = onLeave + onAction - d.at
	case name == "enter": // on the action
		d.hint = d.missing()
		return d.hint == ""
	}
	return false
}

// missing says what the action still wants; empty: it may go.
func (d *dialog) missing() string {
	if strings.TrimSpace(d.reason.Text()) == "" {
		return "Give a reason first: it goes to the audit log."
	}
	return ""
}

func (d *dialog) planned(msg plannedMsg, now time.Time) {
	d.opened = now
	switch {
	case msg.err != nil:
		d.end(true, "▲ The job could not be read; nothing was changed.", parts.Clean(msg.err.Error()))
	case msg.plan.Count == 0:
		d.end(false, "○ Nothing to "+string(d.action)+": the job is "+d.now(msg.plan)+".")
	default:
		d.plan = &msg.plan
	}
}

func (d *dialog) now(plan ops.JobPlan) string {
	if len(plan.Unfit) > 0 {
		return string(plan.Unfit[0].Status) + " already"
	}
	return "gone"
}

func (d *dialog) changed(msg changedMsg) {
	d.working = false
	switch {
	case msg.err != nil:
		d.end(true, "✕ Whether the job was "+d.action.Done()+" is not certain: look at it again.", parts.Clean(msg.err.Error()))
	case msg.result.Changed == 0 && msg.result.Locked > 0:
		d.end(true, "▲ Another session holds the job: nothing was changed. Try again.")
	case msg.result.Changed == 0:
		d.end(false, "○ The job had ended before: nothing was changed.")
	case d.action == ops.CancelJobs && d.plan.Running > 0:
		d.end(false, "● The job is cancelled. Its agent stops it within a second.", "The change is in the audit log.")
	case d.action == ops.CancelJobs:
		d.end(false, "● The job is cancelled.", "The change is in the audit log.")
	default:
		d.end(false, "● The job waits again, with one attempt more at least.", "The change is in the audit log.")
	}
}

func (d *dialog) end(bad bool, lines ...string) { d.bad, d.result = bad, lines }

func (d *dialog) title() string {
	if d.action == ops.CancelJobs {
		return "Cancel this job"
	}
	return "Retry this job"
}

// effects says in sentences what will happen.
func (d *dialog) effects() []string {
	what := parts.Clean(d.row.Service) + " · " + parts.Clean(d.row.Operation) + ", " + string(d.plan.Sample[0].Status)
	switch {
	case d.action == ops.RetryJobs:
		return []string{what, "It waits again behind the jobs that wait already.", "Its service may see the same request once more."}
	case d.plan.Running > 0:
		return []string{what, "Its agent stops what runs within a second.", "What the service has done by then stays done."}
	}
	return []string{what, "It will not run. Retry brings it back."}
}

func (d *dialog) keys() []parts.Key {
	switch {
	case d.working:
		return nil
	case d.plan == nil || d.result != nil:
		return []parts.Key{{Keys: "esc", Help: "close"}}
	}
	return []parts.Key{{Keys: "tab", Help: "next field"}, {Keys: "enter", Help: "take it"}, {Keys: "esc", Help: "leave it"}}
}

func (d *dialog) view(th *parts.Theme, w int) []string {
	bw := min(w-4, 72)
	inner := bw - 4
	var lines []string
	add := func(style parts.Style, mark, text string) {
		for i, l := range parts.Wrap(text, inner-parts.Width(mark)) {
			if i > 0 {
				mark = strings.Repeat(" ", parts.Width(mark))
			}
			lines = append(lines, style.Render(mark+l))
		}
	}
	switch {
	case d.result != nil:
		style := th.Good
		if d.bad {
			style = th.Bad
		}
		for _, text := range d.result {
			add(style, "", text)
			style = th.Text
		}
		lines = append(lines, "", parts.Button(th, "Close", true, false))
	case d.working:
		add(th.Accent, "", "● Working …")
	case d.plan == nil:
		add(th.Muted, "", "Reading the job …")
	default:
		for _, text := range d.effects() {
			add(th.Text, "· ", text)
		}
		hint := d.hint
		if hint == "" && d.at == onAction {
			hint = d.missing()
		}
		lines = append(lines, parts.Input(th, "Reason", &d.reason, d.at == onReason, inner), "",
			parts.Button(th, "Leave it", d.at == onLeave, false)+"  "+parts.Button(th, d.title(), d.at == onAction, d.missing() != ""),
			th.Warn.Render(parts.Fit(hint, inner)))
	}
	return parts.Framed(lines, bw, " "+th.Strong.Render(d.title())+" ", "", th.Accent)
}
