package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	tea "charm.land/bubbletea/v2"

	contract "github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

// Disabled says why an action does nothing here and now.
func (p *Page) Disabled(id actions.ID) string {
	empty := p.detail == nil && p.table.Cursor >= len(p.list.rows)
	switch id {
	case actions.JobsOpen, actions.JobsMark, actions.JobsRetry, actions.JobsCancel:
		if empty {
			return "the list is empty"
		}
	case actions.JobFollow:
		if p.source.Follow == nil {
			return "this console cannot follow logs"
		}
	}
	return ""
}

// Do does one of the actions of the list or of the open job.
func (p *Page) Do(id actions.ID) tea.Cmd {
	switch id {
	case actions.JobsOpen:
		if p.table.Cursor < len(p.list.rows) {
			return p.open(p.list.rows[p.table.Cursor])
		}
	case actions.JobsFilter:
		p.editing, p.fault = true, ""
		p.field.Set(p.words)
		if p.words != "" {
			p.field.Insert(" ")
		}
	case actions.JobsMark:
		p.mark()
	case actions.JobsSort:
		p.list.up = !p.list.up
		return p.restart()
	case actions.JobsAll:
		switch {
		case len(p.marked) > 0:
			p.marked = map[contract.ID]bool{}
		case p.words != "":
			return p.apply("", ops.Filter{})
		}
	case actions.JobsRetry, actions.JobRetry:
		return p.change(ops.RetryJobs)
	case actions.JobsCancel, actions.JobCancel:
		return p.change(ops.CancelJobs)
	case actions.JobsEnqueue:
		return p.chooseOperation()
	case actions.JobBack:
		p.leave()
	case actions.JobFollow:
		return p.detail.follow()
	case actions.JobService:
		return parts.Go(parts.GoMsg{Page: actions.PageServices, Service: p.detail.row.Service})
	}
	return nil
}

func (p *Page) open(row ops.JobRow) tea.Cmd {
	p.leave()
	p.turn++
	p.detail = newDetail(p.env, p.source, row, p.turn)
	return p.detail.refresh(p.env.Now)
}

// leave closes the open job.
func (p *Page) leave() {
	if p.detail != nil {
		p.detail.stopFollowing()
		p.detail = nil
	}
}

func (p *Page) mark() {
	if p.table.Cursor >= len(p.list.rows) {
		return
	}
	id := p.list.rows[p.table.Cursor].ID
	if p.marked[id] {
		delete(p.marked, id)
	} else {
		p.marked[id] = true
	}
	p.table.Move(1, len(p.list.rows))
}

// which is what an action is for: the open job, the marked ones, or the one
// under the cursor.
func (p *Page) which() (f ops.Filter, one ops.JobRow) {
	switch {
	case p.detail != nil:
		return ops.Filter{IDs: []contract.ID{p.detail.row.ID}}, p.detail.row
	case len(p.marked) > 0:
		ids := slices.Collect(maps.Keys(p.marked))
		slices.SortFunc(ids, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
		return ops.Filter{IDs: ids}, ops.JobRow{}
	}
	row := p.list.rows[p.table.Cursor]
	return ops.Filter{IDs: []contract.ID{row.ID}}, row
}

// change asks which jobs where there is a choice: those marked, or the one
// under the cursor, or all that match the filter.
func (p *Page) change(action ops.JobAction) tea.Cmd {
	f, one := p.which()
	some := "this job"
	if len(f.IDs) > 1 || one.ID == (contract.ID{}) {
		some = "the " + strconv.Itoa(len(f.IDs)) + " marked jobs"
	}
	name := map[ops.JobAction]string{ops.RetryJobs: "Retry ", ops.CancelJobs: "Cancel "}[action]
	first := p.changing(action, name+some, f)
	if p.words == "" || p.detail != nil {
		return p.env.Ask(first)
	}
	all := p.changing(action, name+"all that match", p.filter)
	return p.env.Ask(parts.Ask{Title: name + "jobs", Choices: []parts.Choice{
		{Key: string(action)[:1], Text: name + some, Ask: first},
		{Key: "a", Text: name + "all that match " + parts.Clean(p.words), Ask: all}}})
}

// changing is the dialog that does an action to jobs. Many are changed in
// batches, with progress and a stop.
func (p *Page) changing(action ops.JobAction, title string, f ops.Filter) parts.Ask {
	plan, change := p.source.Plan, p.source.Change
	var running int64
	return parts.Ask{Title: title, Lasts: true,
		Plan: func(ctx context.Context) (parts.Plan, error) {
			v, err := plan(ctx, action, f)
			if err != nil {
				return parts.Plan{}, err
			}
			running = v.Running
			return jobPlan(v, len(f.IDs) == 1), nil
		},
		Do: func(ctx context.Context, said parts.Said, progress func(int64)) parts.Outcome {
			r, err := change(ctx, action, f, said.Reason, progress)
			return jobOutcome(action, r, err, running)
		}}
}

func jobPlan(v ops.JobPlan, single bool) parts.Plan {
	out := parts.Plan{Reason: true, Leave: "Leave it", Total: v.Count}
	if v.Count == 0 {
		out.Nothing = "Nothing to " + string(v.Action) + ": no job is selected that it takes."
		if single && len(v.Unfit) > 0 {
			out.Nothing = "Nothing to " + string(v.Action) + ": the job is " + string(v.Unfit[0].Status) + " already."
		}
		return out
	}
	if single {
		r := v.Sample[0]
		out.Effects = append(out.Effects, parts.Clean(r.Service)+" · "+parts.Clean(r.Operation)+", "+string(r.Status))
	} else {
		out.Effects = append(out.Effects, parts.Count(v.Count, v.Capped)+" jobs are "+v.Action.Done()+", 1,000 at a time; it can be stopped.")
		out.Effects = append(out.Effects, "Such as "+samples(v.Sample))
		if n := len(v.Unfit); n > 0 {
			out.Effects = append(out.Effects, strconv.Itoa(n)+" of the marked jobs are left alone: their state does not fit.")
		}
	}
	switch {
	case v.Action == ops.RetryJobs:
		out.Effects = append(out.Effects, "They wait again behind the jobs that wait already.", "A service may see the same request once more.")
	case v.Running > 0 && single:
		out.Effects = append(out.Effects, "Its agent stops what runs within a second.", "What the service has done by then stays done.")
	case v.Running > 0:
		out.Effects = append(out.Effects, parts.Count(v.Running, v.Running >= ops.CountCap)+" of them run: their agents stop them within a second.",
			"What the services have done by then stays done.")
	default:
		out.Effects = append(out.Effects, "They will not run. Retry brings them back.")
	}
	return out
}

func samples(rows []ops.JobRow) string {
	var names []string
	for _, r := range rows {
		if name := parts.Clean(r.Service) + " · " + parts.Clean(r.Operation); !slices.Contains(names, name) && len(names) < 3 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func jobOutcome(action ops.JobAction, r ops.JobResult, err error, running int64) parts.Outcome {
	jobs := parts.Count(r.Changed, false) + " jobs"
	if r.Changed == 1 {
		jobs = "1 job"
	}
	switch {
	case errors.Is(err, context.Canceled):
		return parts.Outcome{Bad: true, Lines: []string{"▲ Stopped: " + jobs + " were " + action.Done() + " before.", "The rest is as it was. What was done is in the audit log."}}
	case err != nil && r.Changed > 0:
		return parts.Outcome{Bad: true, Lines: []string{"✕ Broken off: " + jobs + " were " + action.Done() + " before.", parts.Clean(err.Error())}}
	case err != nil:
		return parts.Failed("Whether anything was "+action.Done()+" is not certain: look again.", err)
	case r.Changed == 0 && r.Locked > 0:
		return parts.Outcome{Bad: true, Lines: []string{"▲ Another session holds the jobs: nothing was changed. Try again."}}
	case r.Changed == 0:
		return parts.Outcome{Lines: []string{"○ The jobs had ended before: nothing was changed."}}
	}
	lines := []string{"● " + jobs + " " + action.Done() + ".", "The change is in the audit log."}
	if action == ops.CancelJobs && running > 0 {
		lines[0] += " Agents stop what runs within a second."
	}
	if r.Locked > 0 {
		lines = append(lines, parts.Count(r.Locked, false)+" were left alone: another session holds them.")
	}
	return parts.Outcome{Lines: lines}
}

// openedMsg is a job that was enqueued or looked up, to be opened.
type openedMsg struct {
	operations []ops.Operation
	err        error
}

// chooseOperation reads what there is to enqueue.
func (p *Page) chooseOperation() tea.Cmd {
	read := p.source.Operations
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), parts.ReadDeadline)
		defer cancel()
		list, err := read(ctx)
		return openedMsg{list, err}
	}
}

// opened offers the operations; the service under the cursor comes first.
func (p *Page) opened(msg openedMsg) tea.Cmd {
	switch {
	case msg.err != nil:
		return parts.Toast("The operations could not be read: "+msg.err.Error(), true)
	case len(msg.operations) == 0:
		return parts.Toast("No agent has applied a registry yet, so no operation is known.", true)
	}
	ask := parts.Ask{Title: "Enqueue a job: which operation?"}
	for _, o := range msg.operations {
		ask.Choices = append(ask.Choices, parts.Choice{
			Text: parts.Fit(parts.Clean(o.Service)+" · "+parts.Clean(o.Name), 46) + string(o.Type), Ask: p.enqueuing(o)})
	}
	if p.table.Cursor < len(p.list.rows) {
		service := p.list.rows[p.table.Cursor].Service
		slices.SortStableFunc(ask.Choices, func(a, b parts.Choice) int {
			here := func(c parts.Choice) int {
				if strings.HasPrefix(c.Text, service+" ·") {
					return 0
				}
				return 1
			}
			return here(a) - here(b)
		})
	}
	return p.env.Ask(ask)
}

// enqueuing is the form of an operation's fields.
func (p *Page) enqueuing(o ops.Operation) parts.Ask {
	enqueue := p.source.Enqueue
	ask := parts.Ask{Title: "Enqueue " + parts.Clean(o.Service) + " · " + parts.Clean(o.Name)}
	for _, f := range o.Fields {
		hint := f.Type
		if f.Values != nil {
			hint = "one of " + strings.Join(f.Values, ", ")
		}
		if !f.Required {
			hint += ", may be left empty"
		}
		if f.About != "" {
			hint += ": " + f.About
		}
		label := f.Name
		if f.Required {
			label += " *"
		}
		ask.Fields = append(ask.Fields, parts.Input{Name: f.Name, Label: parts.Clean(label), Hint: parts.Clean(hint), Check: func(v string) string {
			if _, err := f.Parse(v); err != nil {
				return parts.Clean(err.Error())
			}
			return ""
		}})
	}
	ask.Plan = func(context.Context) (parts.Plan, error) {
		return parts.Plan{Action: "Enqueue", Effects: []string{"A " + string(o.Type) + " job is put in the queue and runs as soon as an agent has room."}}, nil
	}
	ask.Do = func(ctx context.Context, said parts.Said, _ func(int64)) parts.Outcome {
		id, err := enqueue(ctx, o, said.Fields, said.Reason)
		if err != nil {
			return parts.Failed("The job was not enqueued.", err)
		}
		return parts.Outcome{Lines: []string{"● Job " + id.String() + " is in the queue.", "It is the newest in the list."}}
	}
	return ask
}

// Copy is the job's document, or the line of the registry that would permit
// what was refused.
func (p *Page) Copy() (what, text string) {
	if p.detail != nil {
		return p.detail.copy()
	}
	if p.table.Cursor >= len(p.list.rows) {
		return "", ""
	}
	return "the job's id", p.list.rows[p.table.Cursor].ID.String()
}

// Export writes every job that the filter selects.
func (p *Page) Export() (string, func(context.Context, io.Writer, bool, func(int64)) (int64, error)) {
	filter, list, up := p.filter, p.source.List, p.list.up
	return "jobs", func(ctx context.Context, w io.Writer, asJSON bool, progress func(int64)) (int64, error) {
		sheet, err := parts.NewSheet(w, asJSON, "id", "identifier", "service_name", "operation", "execution_type", "status", "attempts",
			"max_attempts", "created_at", "started_at", "completed_at", "duration_seconds", "error_message")
		if err != nil {
			return 0, err
		}
		page, n := ops.Page{Size: ops.MaxPage, OldestFirst: up}, int64(0)
		for {
			rows, err := list(ctx, filter, page)
			if err != nil {
				return n, err
			}
			for i := range rows {
				r := &rows[i]
				took := ""
				if r.DurationSeconds != nil {
					took = strconv.FormatFloat(*r.DurationSeconds, 'g', -1, 64)
				}
				if err := sheet.Row(r.ID.String(), r.Identifier, r.Service, r.Operation, string(r.Type), string(r.Status), strconv.Itoa(r.Attempts),
					strconv.Itoa(r.MaxAttempts), moment(&r.CreatedAt), moment(r.StartedAt), moment(r.CompletedAt), took, r.Error); err != nil {
					return n, err
				}
			}
			n += int64(len(rows))
			progress(n)
			if len(rows) < page.Size {
				return sheet.End()
			}
			page.After = cursorOf(&rows[len(rows)-1])
		}
	}
}

// document is the whole job as JSON.
func jobDocument(v *ops.JobDetail) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Sprint(v.ID)
	}
	return string(text)
}
