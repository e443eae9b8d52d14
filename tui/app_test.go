package tui

import (
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/parts"
)

func (c *console) screen() string { return ansi.Strip(c.app.draw()) }

func (c *console) shows(words ...string) {
	c.t.Helper()
	s := c.screen()
	for _, w := range words {
		if !strings.Contains(s, w) {
			c.t.Errorf("the screen lacks %q:\n%s", w, s)
		}
	}
}

func (c *console) lacks(words ...string) {
	c.t.Helper()
	s := c.screen()
	for _, w := range words {
		if strings.Contains(s, w) {
			c.t.Errorf("the screen shows %q:\n%s", w, s)
		}
	}
}

func TestKeysTypedWhileADialogOpensNeverConfirmIt(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("tab", "tab", "t") // shell
	c.press("up", "enter", "enter", "right", "enter", "y")
	c.shows("Switch shell off", "▸[ Cancel ]")
	if len(c.f.switched) != 0 {
		t.Fatalf("switched within the grace period: %v", c.f.switched)
	}
	c.grace()
	c.press("enter")
	c.lacks("Switch shell off")
	if len(c.f.switched) != 0 {
		t.Fatalf("Cancel switched: %v", c.f.switched)
	}
}

func TestADialogShowsItsKeysWhenItTakesThem(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	woken := 0
	c.app.source.After = func(d time.Duration) tea.Cmd {
		if d != parts.Grace {
			t.Errorf("woken after %v", d)
		}
		woken++
		return nil
	}
	bottom := func() string { return strings.TrimSpace(ansi.Strip(c.app.bottom())) }
	for i, each := range []struct {
		keys []string // the last one opens a dialog, or its next question
		hint string
	}{
		{[]string{"!"}, "enter take it"},
		{[]string{"esc", "t"}, "enter go on"},
		{[]string{"h"}, "enter take it"},
		{[]string{"esc", "1", "enter"}, "enter take it"},
	} {
		c.press(each.keys...)
		if got := bottom(); got != "" || woken != i+1 {
			t.Errorf("%v: the bottom line says %q in the first moment, woken %d times", each.keys, got, woken)
		}
		c.grace()
		if got := bottom(); !strings.Contains(got, each.hint) || woken != i+1 {
			t.Errorf("%v: the bottom line says %q, woken %d times", each.keys, got, woken)
		}
	}
}

func TestATypeIsSwitchedOffWithItsReasonOnce(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("t")
	c.grace()
	c.press("s")
	c.grace()
	c.shows("12,408+ jobs of 3 services are held", "7 jobs go on to the end")
	c.press("right", "enter")
	c.shows("Give a reason first")
	c.press("up", "up")
	c.typed("disk full 2q")
	c.press("enter", "right", "enter")
	c.shows("shell is off")
	c.press("enter")
	if want := `shell enable=false force=false reason="disk full 2q"`; len(c.f.switched) != 1 || c.f.switched[0] != want {
		t.Fatalf("switched %q, want once %q", c.f.switched, want)
	}
}

func TestHTTPIsSwitchedOffOnlyWithItsNameTyped(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("t")
	c.grace()
	c.press("h")
	c.grace()
	c.press("up")
	c.typed("stop")
	c.press("enter", "right", "enter")
	c.shows("Type the name http first")
	if len(c.f.switched) != 0 {
		t.Fatal("http was switched off without its name")
	}
	c.press("tab")
	c.typed("http")
	c.press("up", "enter")
	if want := `http enable=false force=true reason="stop"`; len(c.f.switched) != 1 || c.f.switched[0] != want {
		t.Fatalf("switched %q, want %q", c.f.switched, want)
	}
}

func TestOneKeyStopsAllClaimingAndOneLetsItGoOn(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	confirm := func(page, outcome string, asked ...string) {
		t.Helper()
		c.press(page, "!") // from any page
		c.grace()
		c.shows(asked...)
		c.press("right", "enter")
		c.shows(outcome)
		c.grace()
		c.press("enter")
		c.tick(3 * time.Second)
	}
	confirm("3", "All claiming is stopped.", "Emergency stop", "Nothing new starts", "812 jobs are held")
	c.shows("✕ ALL CLAIMING STOPPED")
	confirm("2", "Claiming goes on.", "Resume all claiming", "It was stopped by: emergency stop")
	c.lacks("STOPPED")
	if want := []string{"stop=true because ", "stop=false because "}; !slices.Equal(c.f.done, want) {
		t.Fatalf("did %q, want %q", c.f.done, want)
	}
}

func TestWhatCannotBeCountedKeepsNobodyFromStopping(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.f.err = errGone
	c.press("!")
	c.grace()
	c.shows("could not be counted")
	c.f.err = nil
	c.press("right", "enter")
	c.shows("All claiming is stopped.")
}

func TestReadOnlyGreysTheSwitchAndSaysWhy(t *testing.T) {
	f := newFake()
	f.overview.ReadOnly, f.overview.ReadOnlyReason = true, "the role anna lacks UPDATE on jobs.tb_execution_type"
	for _, c := range []*console{open(t, f, 120, 40, ""), open(t, newFake(), 120, 40, "the console was started with --read-only")} {
		c.press("tab", "t")
		c.shows("Not here", c.app.env.ReadOnly, "read-only")
		c.lacks("Cancel")
		c.press("?")
		c.shows("not here:")
	}
}

func TestALostDatabaseKeepsTheScreenAndComesBackByItself(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.f.err = errGone
	c.tick(time.Second)
	c.tick(2 * time.Second)
	c.shows("99.6 %", "▲ stale", "next try")
	c.f.err = nil
	for range 20 {
		c.tick(time.Second)
	}
	c.lacks("stale")
}

func TestAConsoleWithoutADatabaseSaysSo(t *testing.T) {
	f := newFake()
	f.err = errGone
	c := open(t, f, 80, 24, "")
	c.shows("Cannot read the live figures", "connection refused", "Next try")
}

func TestPauseStopsRefreshing(t *testing.T) {
	c := open(t, newFake(), 80, 24, "")
	c.press("p")
	c.shows("paused")
	c.f.live.Types[0].Completed, c.f.live.Types[0].Failed = 1, 1
	c.tick(10 * time.Second)
	c.shows("99.6 %")
	c.press("p")
	c.tick(time.Second)
	c.shows("50.0 %", "✕ http")
}

func TestTooSmallSaysWhatIsNeededAndRecovers(t *testing.T) {
	c := open(t, newFake(), 59, 14, "")
	c.shows("60×15 needed", "59×14 here")
	c.send(tea.WindowSizeMsg{Width: 60, Height: 15})
	c.shows("2 Live", "http")
}

func TestAFilterSelectsAndAFaultyOneIsExplained(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.press("3", "/")
	c.typed("status:broken")
	c.press("enter")
	c.shows("✕", "broken")
	c.press("/") // is typed, not obeyed
	for range len("status:broken/") {
		c.press("backspace")
	}
	c.typed("status:failed")
	c.press("enter")
	c.shows("/ status:failed", "failed")
	c.lacks("completed", "pending")
	c.press("esc")
	c.shows("All jobs", "completed")
}

func TestTheListReadsOnAsTheCursorNearsItsEnd(t *testing.T) {
	c := open(t, newFake(), 160, 40, "")
	c.press("3")
	for range 8 {
		c.press("end")
	}
	c.shows("500 of 500", "job-899501")
	c.press("home")
	c.shows("1 of", "job-900000")
}

func TestTheCursorStaysOnItsJobWhileNewOnesArrive(t *testing.T) {
	c := open(t, newFake(), 160, 40, "")
	c.press("3", "down", "down")
	fresh := row(0)
	fresh.ID[0], fresh.CreatedAt, fresh.Identifier = 1, start.Add(time.Minute), "job-new"
	c.f.rows = append([]ops.JobRow{fresh}, c.f.rows...)
	c.tick(3 * time.Second)
	c.shows("job-new", "4 of")
	for _, l := range strings.Split(c.screen(), "\n") {
		if strings.Contains(l, "▸") && !strings.Contains(l, "job-899998") {
			t.Errorf("the cursor moved to %q", l)
		}
	}
}

func TestADetailShowsTheJobAndNoControlSequenceOfIts(t *testing.T) {
	c := open(t, newFake(), 120, 60, "")
	c.press("3", "down", "down", "down", "down", "enter")
	c.shows("stripe_api · create_charge", "charge-81", "HTTP 503", `"customer": "c_81"`)
	if s := c.app.draw(); strings.Contains(s, "\x1b[31mto") || strings.Contains(s, "\u202e") {
		t.Error("a job's text reached the terminal as it was")
	}
	c.press("esc")
	c.shows("newest first")
}

func TestStateIsNeverToldByColourAlone(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.shows("● http", "▲ shell", "○ docker", " off ")
	c.press("7")
	c.shows("● running", "▲ a1b2c3d", "✕ lost")
}

func TestTheRateIsTheChangeOfTheTotalAndSurvivesAMinutesEnd(t *testing.T) {
	c := open(t, newFake(), 120, 40, "")
	c.shows("137/s")
	c.f.live.Types[0].Total = 3
	c.f.live.Types[0].TotalAt = c.f.live.Types[0].TotalAt.Add(time.Minute)
	c.tick(time.Second)
	c.shows("137/s")
}

func BenchmarkFrame(b *testing.B) {
	f := newFake()
	f.rows = nil
	for i := range 100_000 {
		r := row(i % 5000)
		r.CreatedAt = start.Add(-time.Duration(i) * time.Second)
		r.ID = jobs.ID{byte(0x90), 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}
		f.rows = append(f.rows, r)
	}
	for _, p := range []string{"2", "3", "7"} {
		b.Run("page"+p, func(b *testing.B) {
			c := open(b, f, 200, 60, "")
			c.press(p)
			if p == "3" {
				fill(c, f)
				if !strings.Contains(c.screen(), "100000 of") {
					b.Fatal("not every row was read")
				}
			}
			for b.Loop() {
				c.app.draw()
			}
		})
	}
}

// fill scrolls until the list holds every row.
func fill(c *console, f *fake) {
	for range len(f.rows)/200 + 5 {
		c.press("end")
		c.pass(time.Second)
	}
}
