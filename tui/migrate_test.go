package tui

import (
	"testing"
	"time"

	"github.com/specql/specql-ops/ops"
)

func (c *console) walked(want ...string) {
	c.t.Helper()
	if len(c.f.switched) != len(want) {
		c.t.Fatalf("did %q, want %q", c.f.switched, want)
	}
	for i := range want {
		if c.f.switched[i] != want[i] {
			c.t.Fatalf("did %q, want %q", c.f.switched, want)
		}
	}
}

func TestMigrateOpensOnTheFirstOpenStepAndShowsItsEvidence(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("1")
	c.shows("[1 Migrate]", "1 Infrastructure preparation", "▸ ▲ Schema migration", "131 of 175 objects are missing", "$ specql-tui migrate-schema", "Guide: Schema migration completed")
	c.press("n")
	c.shows("success 96.1 %, in the hour before the migration 99.2 %", "✕ failed")
	c.press("end")
	c.shows("signed off by Ben, 2 d ago: runbook 12")
}

func TestADatabaseThatIsNotMigratedOpensOnThePageThatMigratesIt(t *testing.T) {
	f := newFake()
	f.overview.Migrated, f.overview.ReadOnly, f.overview.ReadOnlyReason = false, true, "the schema is not migrated: run specql-tui migrate-schema"
	c := open(t, f, 120, 40, "")
	c.shows("[1 Migrate]", "Schema migration")
	c.press("enter")
	c.grace()
	c.shows("7 migrations with 84 steps", "▸[ Cancel ]")
	c.press("right", "enter")
	c.walked("do schema ")
	c.grace()
	c.shows("It is done.")
}

func TestMigratingWantsTheActionNotTheFirstKey(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("1", "enter", "right", "enter", "enter")
	c.walked()
	c.grace()
	c.press("enter") // Cancel has the focus
	c.lacks("▸[ Cancel ]")
	c.walked()
}

func (c *console) toStep(n int) {
	c.press("home")
	for range n {
		c.press("down")
	}
}

func TestARolloutIsStartedWithItsCanary(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("1")
	c.toStep(8)
	c.shows("Enable shell", "roll-out by anna is at stage hundred")
	c.press("enter")
	c.grace()
	c.shows("data_processor.process_data", `{"records":1}`)
	c.press("right", "enter")
	c.shows("Give a reason first")
	c.press("tab") // on to the canary
	c.press("down")
	c.shows("reports.daily_summary", `{"date":"canary"}`)
	c.press("tab", "tab")
	c.typed("go")
	c.press("enter", "right", "enter")
	c.walked(`do enabled:shell reports.daily_summary|{"date":"canary"}|go`)
}

func TestStepsAreSignedWaivedAndTakenBack(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("1")
	c.toStep(12)
	c.press("enter")
	c.grace()
	c.shows("Your word for it: Team trained is done.", "anna")
	c.press("up")
	c.typed("on Monday")
	c.press("enter", "right", "enter")
	c.walked("sign team anna|on Monday")
	c.grace()
	c.press("enter")
	c.toStep(5)
	c.press("w")
	c.grace()
	c.press("up")
	c.typed("known")
	c.press("enter", "right", "enter")
	c.grace()
	c.press("enter", "end", "x")
	c.grace()
	c.press("right", "enter")
	c.walked("sign team anna|on Monday", "waive jobs-process anna|known", "unsign incident-plans")
}

func TestReadOnlyMigratesAndSignsNothing(t *testing.T) {
	c := open(t, newFake(), 120, 40, "the console was started with --read-only")
	c.press("1")
	for range 20 {
		c.press("enter", "w", "x", "down")
		c.grace()
		c.press("right", "enter")
	}
	c.walked()
	c.press("home", "n")
	c.shows("the console was started with --read-only")
}

func TestAMigrationAtWorkShowsItsAdvanceAndWhomItWaitsFor(t *testing.T) {
	f := newFake()
	f.walk.Phases[0].Steps[2].Run = &ops.WalkRun{Actor: "anna@ops", Step: "build index idx_tb_job_run_lane", Position: 21, Of: 84, Done: 1200, Total: 4000, Unit: "blocks",
		Left: 42 * time.Second, Waiting: "process 4711 (app, 12 s): UPDATE jobs.tb_job_run"}
	c := open(t, f, 120, 40, "")
	c.press("1")
	c.shows("step 21 of 84", "build index idx_tb_job_run_lane: 1,200 of 4,000 blocks, 42 s left", "▲ waits for process 4711", "safe to leave")
	c.lacks("[ Run the schema migration ]")
}
