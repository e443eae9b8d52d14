package tui

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
)

var update = flag.Bool("update", false, "write the golden screens anew")

var screens = []struct {
	name string
	open func(c *console)
}{
	{"live", func(*console) {}},
	{"jobs", func(c *console) { c.press("3", "down", "down") }},
	{"detail", func(c *console) { c.press("3", "down", "down", "down", "down", "enter") }},
	{"agents", func(c *console) { c.press("7", "down") }},
	{"services", func(c *console) { c.press("4", "s") }},
	{"service", func(c *console) { c.press("4", "enter") }},
	{"audit", func(c *console) { c.press("8", "down") }},
	{"entry", func(c *console) { c.press("8", "enter") }},
	{"palette", func(c *console) { c.press("3", ":"); c.typed("ret") }},
	{"bulk", func(c *console) {
		c.press("3", "space", "space", "r")
		c.grace()
	}},
	{"form", func(c *console) { c.press("3", "n"); c.grace(); c.press("enter"); c.grace() }},
	{"dialog", func(c *console) { c.press("t"); c.grace(); c.press("h"); c.grace() }},
	{"stop", func(c *console) { c.press("!"); c.grace() }},
	{"stopped", func(c *console) {
		c.f.overview.Stopped = "emergency stop: fire (anna, 2 min ago)"
		c.tick(3 * time.Second)
	}},
	{"migrate", func(c *console) { c.press("1") }},
	{"migrate-service", func(c *console) { c.press("1", "n", "n") }},
	{"migrate-dialog", func(c *console) {
		c.press("1", "end", "up", "up", "enter")
		c.grace()
	}},
	{"help", func(c *console) { c.press("?") }},
}

func TestEveryScreenFillsTheTerminalExactly(t *testing.T) {
	themes := []struct {
		name    string
		dark    bool
		profile colorprofile.Profile
	}{{"dark", true, colorprofile.TrueColor}, {"light", false, colorprofile.TrueColor}, {"nocolor", true, colorprofile.ASCII}, {"16", true, colorprofile.ANSI}}
	for _, size := range [][2]int{{60, 15}, {80, 24}, {120, 40}, {200, 60}} {
		for _, theme := range themes {
			for _, s := range screens {
				name := fmt.Sprintf("%s-%dx%d-%s", s.name, size[0], size[1], theme.name)
				t.Run(name, func(t *testing.T) {
					c := open(t, newFake(), size[0], size[1], "").theme(theme.dark, theme.profile)
					s.open(c)
					got := c.app.draw()
					exact(t, got, size[0], size[1])
					if theme.profile == colorprofile.ASCII && strings.Contains(got, "\x1b[3") {
						t.Error("NO_COLOR: the screen sets a colour")
					}
					golden(t, name, got)
				})
			}
		}
	}
}

func exact(t testing.TB, screen string, w, h int) {
	t.Helper()
	lines := strings.Split(screen, "\n")
	if len(lines) != h {
		t.Errorf("%d lines, want %d", len(lines), h)
	}
	for i, l := range lines {
		if n := ansi.StringWidth(l); n != w {
			t.Errorf("line %d is %d cells wide, want %d: %q", i+1, n, w, ansi.Strip(l))
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".ansi")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got+"\n" != string(want) {
		t.Errorf("the screen changed (go test ./tui -update takes it):\n%s", ansi.Strip(got))
	}
}

func TestAnySizeIsFilledOrSaysWhatIsNeeded(t *testing.T) {
	for w := 1; w < 230; w += 7 {
		for h := 1; h < 70; h += 5 {
			c := open(t, newFake(), w, h, "")
			for _, s := range screens {
				c.press("esc", "2", "esc")
				c.pass(time.Second)
				s.open(c)
				exact(t, c.app.draw(), w, h)
				c.pass(time.Second)
				c.press("esc")
				c.pass(time.Second)
				c.press("esc", "esc")
			}
		}
	}
}
