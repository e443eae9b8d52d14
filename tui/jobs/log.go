package jobs

import (
	"context"
	"errors"
	"fmt"

	tea "charm.land/bubbletea/v2"

	contract "github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// followMost bounds the lines of a followed log that are kept on the screen.
const followMost = 5000

// said is one line of a followed log.
type said struct {
	attempt int
	line    contract.LogLine
}

// logMsg is what a followed log has to say.
type logMsg struct {
	of    *detail
	chunk ops.LogChunk
	ended bool
	err   error
}

// follow begins to follow the log of the job's present attempt, or stops.
func (d *detail) follow() tea.Cmd {
	if d.stop != nil {
		d.stopFollowing()
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop, d.chunks, d.following, d.over = cancel, make(chan ops.LogChunk), true, false
	d.said, d.missed, d.lines = nil, 0, nil
	chunks, id, follow := d.chunks, d.row.ID, d.source.Follow
	return tea.Batch(d.listen(), func() tea.Msg {
		defer close(chunks)
		err := follow(ctx, id, func(c ops.LogChunk) error {
			select {
			case chunks <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return logMsg{of: d, ended: true, err: err}
	})
}

// listen waits for the next piece.
func (d *detail) listen() tea.Cmd {
	chunks := d.chunks
	return func() tea.Msg {
		c, ok := <-chunks
		if !ok {
			return nil
		}
		return logMsg{of: d, chunk: c}
	}
}

func (d *detail) stopFollowing() {
	if d.stop != nil {
		d.stop()
	}
	d.stop, d.following = nil, false
}

// log takes a piece of the log.
func (d *detail) log(msg logMsg) tea.Cmd {
	if msg.of != d {
		return nil
	}
	d.lines = nil
	if msg.ended {
		d.over = true
		if d.following {
			d.top = atEnd
		}
		d.stopFollowing()
		if msg.err != nil {
			return parts.Toast("The log cannot be followed: "+msg.err.Error(), true)
		}
		return nil
	}
	d.missed += msg.chunk.Missed
	for _, l := range msg.chunk.Lines {
		d.said = append(d.said, said{msg.chunk.Attempt, l})
	}
	if over := len(d.said) - followMost; over > 0 {
		d.said, d.missed = d.said[over:], d.missed+int64(over)
	}
	return d.listen()
}

// layoutLogs shows the followed log, else what is kept of the attempts' logs.
func (d *detail) layoutLogs(out *[]string, section func(string), w int) {
	th := d.env.Theme
	line := func(l contract.LogLine) {
		style := th.Text
		if l.Stream == "stderr" {
			style = th.Warn
		}
		for i, text := range parts.Wrap(parts.Clean(l.Text), w-17) {
			head := l.At.UTC().Format("15:04:05.000")
			if i > 0 {
				head = ""
			}
			*out = append(*out, th.Muted.Render("  "+parts.Fit(head, 14))+style.Render(text))
		}
	}
	if d.stop != nil || d.over {
		state := "following; f stops, ↑ looks back"
		if d.over {
			state = "the attempt is over"
		}
		section("Log, " + state)
		if d.missed > 0 {
			*out = append(*out, th.Muted.Render(fmt.Sprintf("  … %s lines before", parts.Count(d.missed, false))))
		}
		for _, s := range d.said {
			line(s.line)
		}
		return
	}
	for _, l := range d.feed.Value.Logs {
		section(fmt.Sprintf("Log of attempt %d", l.Attempt))
		if l.Dropped > 0 {
			*out = append(*out, th.Muted.Render(fmt.Sprintf("  … %s lines before", parts.Count(l.Dropped, false))))
		}
		for _, each := range l.Lines {
			line(each)
		}
	}
}

// copy is the line of the registry that would permit what was refused, else
// the whole job.
func (d *detail) copy() (what, text string) {
	if line := ops.PermitLine(d.row.Error); line != "" {
		return "the line that would permit it: " + parts.Clean(line), line
	}
	return "the job as JSON", jobDocument(&d.feed.Value)
}
