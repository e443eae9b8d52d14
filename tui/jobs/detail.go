package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	tea "charm.land/bubbletea/v2"

	contract "github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// documentMost bounds how much of one JSON document is laid out, in bytes.
const documentMost = 64 << 10

// atEnd is further down than any job's lines.
const atEnd = 1 << 30

// detail is one job in full, as lines to scroll.
type detail struct {
	env    *parts.Env
	source Source
	row    ops.JobRow
	feed   parts.Feed[ops.JobDetail]
	top    int
	height int

	following bool // the log's end stays in view
	stop      context.CancelFunc
	chunks    chan ops.LogChunk
	said      []said
	missed    int64
	over      bool

	lines []string // laid out for the width and the theme below
	forW  int
	theme *parts.Theme
}

func newDetail(env *parts.Env, source Source, row ops.JobRow, turn int) *detail {
	d := &detail{env: env, source: source, row: row,
		feed: parts.Feed[ops.JobDetail]{Interval: interval, Clock: source.Clock}}
	d.feed.Begin(turn)
	return d
}

func (d *detail) refresh(now time.Time) tea.Cmd {
	id, job := d.row.ID, d.source.Job
	return d.feed.Ask(now, func(ctx context.Context) (ops.JobDetail, error) { return job(ctx, id) })
}

func (d *detail) take(msg parts.Read[ops.JobDetail]) {
	if d.feed.Take(msg) {
		d.row = msg.Value.JobRow
		d.lines = nil
	}
}

// scroll moves the lines; going up leaves the end that is followed.
func (d *detail) scroll(by int) {
	d.top += by
	if by < 0 {
		d.following = false
	}
}

func (d *detail) key(key string) {
	switch key {
	case "up", "k":
		d.scroll(-1)
	case "down", "j":
		d.scroll(1)
	case "pgup":
		d.scroll(-d.height)
	case "pgdown", " ", "space":
		d.scroll(d.height)
	case "home", "g":
		d.top = 0
	case "end", "G":
		d.top = atEnd
	}
}

func (d *detail) view(w, h int) string {
	th := d.env.Theme
	symbol, style := state(th, &d.row)
	head := []string{
		style.Render(symbol+" "+string(d.row.Status)) + th.Strong.Render("  "+parts.Clean(d.row.Service)+" · "+parts.Clean(d.row.Operation)) +
			th.Types[string(d.row.Type)].Render("  "+string(d.row.Type)),
		th.Muted.Render(parts.Fit(d.row.ID.String()+"  "+parts.Clean(d.row.Identifier), w)),
	}
	if !d.feed.Health().Loaded {
		return parts.Block(head, w, 2) + "\n" + d.feed.Health().Missing(d.env, "the job", w, h-2)
	}
	if d.lines == nil || d.forW != w || d.theme != th {
		d.lines, d.forW, d.theme = d.layout(w), w, th
	}
	d.height = max(h-3, 1)
	if d.following {
		d.top = atEnd
	}
	d.top = min(max(d.top, 0), max(len(d.lines)-d.height, 0))
	rest := ""
	if below := len(d.lines) - d.top - d.height; below > 0 {
		rest = fmt.Sprintf("↓ %d more lines", below)
	}
	shown := append(head, th.Muted.Render(parts.FitRight(rest, w)))
	return parts.Block(append(shown, d.lines[d.top:min(d.top+d.height, len(d.lines))]...), w, h)
}

// layout makes the lines once for each answer; times are absolute, so that
// they need no laying out as they age.
func (d *detail) layout(w int) []string {
	th, v := d.env.Theme, &d.feed.Value
	var out []string
	pair := func(name, value string) {
		if value == "" {
			return
		}
		for i, l := range parts.Wrap(value, w-18) {
			if i > 0 {
				name = ""
			}
			out = append(out, th.Muted.Render(parts.Fit("  "+name, 18))+th.Text.Render(l))
		}
	}
	section := func(name string) {
		if len(out) > 0 {
			out = append(out, "")
		}
		out = append(out, th.Accent.Render(name))
	}
	if v.Error != "" {
		section("Error")
		for _, line := range parts.CleanLines(clip(v.Error)) {
			for _, l := range parts.Wrap(line, w-2) {
				out = append(out, th.Bad.Render("  "+l))
			}
		}
	}
	if v.HeldReason != "" {
		section("Held")
		pair("Reason", "▲ "+parts.Clean(v.HeldReason))
	}
	section("Timeline")
	pair("Created", moment(&v.CreatedAt))
	pair("Started", moment(v.StartedAt))
	pair("Ended", moment(v.CompletedAt))
	pair("Next try", moment(v.RetryAt))
	pair("Changed", moment(&v.UpdatedAt))
	if v.DurationSeconds != nil {
		pair("Took", parts.Duration(time.Duration(*v.DurationSeconds*float64(time.Second))))
	}
	pair("Attempts", strconv.Itoa(v.Attempts)+" of "+strconv.Itoa(v.MaxAttempts)+deadLetter(v))
	if v.TimeoutSeconds != nil {
		pair("Timeout", strconv.Itoa(*v.TimeoutSeconds)+" s")
	}
	pair("Agent", parts.Clean(v.Agent))
	if v.TenantID+v.TriggeredBy+v.CorrelationID+v.IdempotencyKey+v.EntityType+v.EntityPK != "" {
		section("Origin")
	}
	pair("Tenant", parts.Clean(v.TenantID))
	pair("Triggered by", parts.Clean(v.TriggeredBy))
	pair("Correlation", parts.Clean(v.CorrelationID))
	pair("Idempotency", parts.Clean(v.IdempotencyKey))
	if v.EntityType != "" || v.EntityPK != "" {
		pair("Entity", parts.Clean(v.EntityType+" "+v.EntityPK))
	}
	if len(v.History) > 0 {
		section("Earlier failures")
		for _, a := range v.History {
			what := moment(&a.FinishedAt)
			if a.DurationSeconds != nil {
				what += "  " + parts.Duration(time.Duration(*a.DurationSeconds*float64(time.Second)))
			}
			if a.Agent != "" {
				what += "  on " + parts.Clean(a.Agent)
			}
			if a.Violation != "" {
				what += "  refused by " + parts.Clean(a.Violation)
			}
			pair("Attempt "+strconv.Itoa(a.Attempt), what)
			pair("", parts.Clean(clip(a.Error)))
		}
	}
	for _, doc := range []struct {
		name string
		raw  json.RawMessage
	}{{"Input", v.Input}, {"Output", v.Output}, {"Resource usage", v.ResourceUsage}, {"Runner config", v.RunnerConfig}, {"Security context", v.SecurityContext}} {
		if len(doc.raw) == 0 {
			continue
		}
		section(doc.name)
		for _, line := range document(doc.raw) {
			for _, l := range parts.Wrap(line, w-2) {
				out = append(out, th.Text.Render("  "+l))
			}
		}
	}
	d.layoutLogs(&out, section, w)
	return out
}

func deadLetter(v *ops.JobDetail) string {
	if v.Status == contract.Failed && v.Attempts >= v.MaxAttempts {
		return ", final: a dead letter"
	}
	return ""
}

func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05.000") + " UTC"
}

// document lays JSON out in lines; what is too long ends with a note.
func document(raw json.RawMessage) []string {
	var b bytes.Buffer
	text := string(raw)
	if len(raw) <= documentMost && json.Indent(&b, raw, "", "  ") == nil {
		text = b.String()
	}
	return parts.CleanLines(clip(text))
}

func clip(s string) string {
	if len(s) <= documentMost {
		return s
	}
	return s[:documentMost] + fmt.Sprintf("\n… and %s bytes more", parts.Count(int64(len(s)-documentMost), false))
}
