package tui

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

func (c *console) did(want ...string) {
	c.t.Helper()
	if strings.Join(c.f.done, "; ") != strings.Join(want, "; ") {
		c.t.Fatalf("did %q, want %q", c.f.done, want)
	}
}

func TestCancellingAJobTellsWhatHappensAsksForAReasonAndDoesIt(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("3", "c", "enter", "tab", "enter") // typed for the list: the grace period swallows them
	c.did()
	c.grace()
	c.shows("Its agent stops what runs within a second", "▸[ Leave it ]")
	c.press("tab", "enter") // on the action, without a reason
	c.shows("Give a reason first")
	c.did()
	c.press("tab")
	c.typed("customer asked")
	c.press("tab", "tab", "enter")
	c.did(`cancel "" 1 ids because customer asked`)
	c.shows("1 job cancelled")
	c.grace()
	c.press("esc", "r")
	c.grace()
	c.press("enter") // the focus stands on the way out
	c.did(`cancel "" 1 ids because customer asked`)
}

func TestMarkedJobsAreChangedTogetherAndOthersLeftAlone(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("3", "space", "space", "down", "space")
	c.shows("✓ 3 marked", "✓ ○ pending")
	c.press("r")
	c.grace()
	c.shows("Retry the 3 marked jobs", "3,234 jobs are retried, 1,000 at a time")
	c.press("up")
	c.typed("outage over")
	c.press("enter", "right", "enter")
	c.did(`retry "" 3 ids because outage over`)
	c.grace()
	c.press("esc", "esc")
	c.lacks("marked")
}

func TestAllThatMatchTheFilterAreOfferedWithTheirCountFirst(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("3", "/")
	c.typed("status:failed")
	c.press("enter", "r")
	c.grace()
	c.shows("Retry this job", "Retry all that match status:failed")
	c.press("a")
	c.grace()
	c.shows("1,234 jobs are retried")
	c.press("up")
	c.typed("x")
	c.press("enter", "right", "enter")
	c.did(`retry "failed" 0 ids because x`)
}

func TestAJobIsEnqueuedByAFormOfItsOperationsFields(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("3", "n")
	c.grace()
	c.shows("stripe_api · create_charge", "data_processor · process_data")
	c.press("down", "enter") // the service under the cursor comes first
	c.grace()
	c.shows("rows *", "format", "integer")
	c.typed("many")
	c.press("tab", "tab", "tab", "tab", "enter")
	c.shows(`rows *: "many" is not a whole number`)
	c.did()
	c.press("tab", "backspace", "backspace", "backspace", "backspace")
	c.typed("12")
	c.press("tab")
	c.typed("csv")
	c.press("tab", "tab", "tab", "enter")
	c.did(`enqueue data_processor.process_data {"format":"csv","rows":12} <nil>`)
}

func TestReadOnlyConsoleChangesNothingWhateverActionIsTaken(t *testing.T) {
	for _, c := range []*console{open(t, newFake(), 120, 40, "the console was started with --read-only"), readOnlyRole(t)} {
		for _, place := range actions.Places() {
			for i, act := range actions.Of(place) {
				if act.ID == actions.Quit || act.ID == actions.Suspend {
					continue
				}
				c.press("2")
				goTo(c, place)
				before := len(c.f.done) + len(c.f.switched)
				c.app.undo = &parts.Undo{Title: "undo"}
				if cmd := c.app.do(act); cmd != nil {
					c.settle(cmd)
				}
				if act.Changes {
					if c.app.dialog != nil {
						t.Errorf("%s opens a dialog in a read-only console", act.ID)
					}
					c.shows("Not here")
				}
				// Whatever is open now, an operator who insists changes nothing.
				for range 6 {
					c.grace()
					c.press("tab", "x", "enter")
				}
				if got := len(c.f.done) + len(c.f.switched); got != before {
					t.Fatalf("%s (%d) changed something: %v %v", act.ID, i, c.f.done, c.f.switched)
				}
				for range 4 {
					c.grace()
					c.press("esc")
				}
			}
		}
	}
}

func readOnlyRole(t *testing.T) *console {
	f := newFake()
	f.overview.ReadOnly, f.overview.ReadOnlyReason = true, "the role anna lacks UPDATE on jobs.tb_execution_type"
	return open(t, f, 120, 40, "")
}

func goTo(c *console, place actions.Place) {
	keys := map[actions.Place][]string{actions.Jobs: {"3", "esc"}, actions.Job: {"3", "esc", "enter"}, actions.Services: {"4"}, actions.Agents: {"7"}, actions.Audit: {"8"}}
	c.press(keys[place]...)
}

func TestTheLastReversibleActionIsTakenBack(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("u")
	c.shows("nothing was done that can be taken back")
	c.press("7", "d")
	c.grace()
	c.press("o")
	c.grace()
	c.press("up")
	c.typed("kernel update")
	c.press("enter", "right", "enter")
	c.shows("u takes it back")
	c.grace()
	c.press("esc", "u")
	c.grace()
	c.shows("Resume 1 agent")
	c.press("right", "enter")
	c.did("drain 1 agents because kernel update", "resume 1 agents because ")
}

func TestAServiceIsSwitchedOffAndOnAgainByUndo(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("4", "b")
	c.shows("no http fallback")
	c.press("t")
	c.grace()
	c.shows("Switch data_processor off", "Waiting: 57, running: 5.")
	c.press("up")
	c.typed("bad deploy")
	c.press("enter", "right", "enter")
	c.grace()
	c.press("esc", "u")
	c.grace()
	c.shows("Switch data_processor on")
	c.press("right", "enter")
	c.did("disable data_processor because bad deploy", "enable data_processor because ")
}

func TestThePaletteFindsAnyActionByItsWords(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("3", ":")
	c.typed("oldest")
	c.shows("List the newest or the oldest jobs first")
	c.press("enter")
	c.shows("oldest first")
	c.press(":")
	c.typed("audit")
	c.press("enter")
	c.shows("[8 Audit]")
}

func TestFiguresLeadToTheJobsBehindThem(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("tab", "tab", "enter") // shell
	c.shows("[3 Jobs]", "/ type:shell age<15m")
	c.press("2", "h", "tab", "tab", "tab", "enter") // the first service, within an hour
	c.shows("/ service:stripe_api age<1h")
	c.press("3", "esc", "2", "tab", "enter")
	c.shows("/ service:ml_model status:pending")
}

func TestALogIsFollowedAndItsEndIsInView(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("3", "enter", "end")
	c.shows("Log of attempt 2", "1,200 lines before", "reading 12,000 rows")
	followed(c)
	c.shows("row 1 of 3", "row 3 of 3 ·gnp", "the attempt is over")
}

// followed presses f, and lets what is said come as it is said.
func followed(c *console) {
	c.press("f")
}

func TestWhatAPageListsIsExportedAndAnExistingFileIsKept(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	t.Chdir(t.TempDir())
	for _, page := range []string{"3", "4", "7", "8"} {
		c.press(page, "e")
		c.grace()
		c.press("tab", "tab", "enter")
		c.shows("rows are in")
		c.grace()
		c.press("esc")
	}
	files, err := filepath.Glob("*.csv")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	text, err := os.ReadFile("jobs-20261123-031223.csv")
	if err != nil && len(files) > 0 {
		for _, f := range files {
			if strings.HasPrefix(f, "jobs-") {
				text, err = os.ReadFile(f)
			}
		}
	}
	if err != nil || strings.Count(string(text), "stripe_api") != 125 {
		t.Errorf("%v: the file has %d rows of stripe_api, want 125", err, strings.Count(string(text), "stripe_api"))
	}
	c.press("3", "e")
	c.grace()
	for range 40 {
		c.press("backspace")
	}
	for _, r := range files[0] {
		c.press(string(r))
	}
	c.press("tab", "tab", "enter")
	c.shows("was not written", "file exists")
}

func TestAPanicGivesTheTerminalBackAndLeavesAReport(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	c := open(t, newFake(), 80, 24, "")
	c.app.pages = nil // the next key finds nothing where a page should be
	c.press("3")
	if c.app.crash == nil {
		t.Fatal("the panic was not caught")
	}
	c.app.pages, c.app.at = open(t, newFake(), 80, 24, "").app.pages, 0
	err := c.app.crash.report(c.app)
	files, _ := filepath.Glob(filepath.Join(os.TempDir(), "specql-tui-crash-*.txt"))
	if len(files) != 1 || !strings.Contains(err.Error(), files[0]) {
		t.Fatalf("report %v, error %v", files, err)
	}
	text, _ := os.ReadFile(files[0])
	if !strings.Contains(string(text), "index out of range") || !strings.Contains(string(text), "tui/keys.go") {
		t.Errorf("the report does not say where:\n%s", text)
	}
}
