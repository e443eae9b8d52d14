package tui

import (
	"context"
	"strings"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

// acting is a console whose job actions are noted down.
func acting(t *testing.T, readOnly string) (c *console, done *[]string) {
	f := newFake()
	done = &[]string{}
	source := f.source()
	source.PlanJob = func(_ context.Context, a ops.JobAction, id jobs.ID) (ops.JobPlan, error) {
		r := row(4)
		r.ID, r.Status = id, jobs.Running
		return ops.JobPlan{Action: a, Count: 1, Running: 1, Sample: []ops.JobRow{r}}, nil
	}
	source.ChangeJob = func(_ context.Context, a ops.JobAction, id jobs.ID, reason string) (ops.JobResult, error) {
		*done = append(*done, string(a)+" because "+reason)
		return ops.JobResult{Action: a, Changed: 1}, nil
	}
	c = &console{t, f, newApp(source, readOnly)}
	c.app.w, c.app.h = 80, 24
	c.press("3")
	return c, done
}

func TestCancellingAJobTellsWhatHappensAsksForAReasonAndDoesIt(t *testing.T) {
	c, done := acting(t, "")
	c.press("c", "enter", "tab", "enter") // typed for the list: the grace period swallows them
	if len(*done) != 0 {
		t.Fatalf("keys typed while the dialog opened did %v", *done)
	}
	c.pass(parts.Grace)
	if text := c.app.draw(); !strings.Contains(text, "Its agent stops what runs within a second") {
		t.Errorf("the plan is not shown:\n%s", text)
	}
	c.press("tab", "enter") // on the action, without a reason
	if len(*done) != 0 || !strings.Contains(c.app.draw(), "Give a reason first") {
		t.Fatalf("did %v without a reason", *done)
	}
	c.press("tab")
	c.typed("customer asked")
	c.press("tab", "tab", "enter")
	if len(*done) != 1 || (*done)[0] != "cancel because customer asked" {
		t.Fatalf("did %v", *done)
	}
	if text := c.app.draw(); !strings.Contains(text, "The job is cancelled") {
		t.Errorf("the outcome is not shown:\n%s", text)
	}
	c.press("esc", "r")
	c.pass(parts.Grace)
	c.press("enter") // the focus stands on the way out
	if len(*done) != 1 {
		t.Errorf("enter on the way out did %v", *done)
	}
}

func TestReadOnlyConsoleChangesNoJob(t *testing.T) {
	c, done := acting(t, "the role may only read")
	c.press("c")
	c.pass(parts.Grace)
	c.press("tab")
	c.typed("x")
	c.press("tab", "tab", "enter")
	if len(*done) != 0 || strings.Contains(c.app.draw(), "Cancel this job") {
		t.Errorf("did %v in a read-only console", *done)
	}
}
