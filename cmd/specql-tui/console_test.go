package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/screen"
)

// pressUntil types a key again and again until the text is there: a dialog
// swallows the keys of its first moment. It is patient, since a key that was
// only slow to show would be typed twice.
func pressUntil(ctx context.Context, t *testing.T, term *screen.Terminal, key, text string) {
	t.Helper()
	for {
		if strings.Contains(term.Text(), text) {
			return
		}
		if err := term.Type(key); err != nil {
			t.Fatal(err)
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := term.Expect(try, text)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%q never came:\n%s", text, term.Text())
		}
	}
}

func TestOperatorSwitchesShellOffAndOnInTheConsoleWhileJobsCome(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	term, err := screen.Start(120, 40, screen.Dark, exec.Command("specql-tui", "demo"))
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	expect := func(texts ...string) {
		t.Helper()
		if err := term.Expect(ctx, texts...); err != nil {
			t.Fatal(err)
		}
	}
	press := func(keys string) {
		t.Helper()
		if err := term.Type(keys); err != nil {
			t.Fatal(err)
		}
	}

	expect("1 agent", "data_processor", "Nothing is held")
	press("t")
	expect("Switch an execution type")
	pressUntil(ctx, t, term, "s", "Switch shell off ]")
	expect("nothing is cancelled") // the plan
	expect("▸[ Cancel ]")          // the focus stands on the harmless answer
	pressUntil(ctx, t, term, "\t", "▸ Reason")
	press("maintenance")
	pressUntil(ctx, t, term, "\t", "▸[ Switch shell off ]")
	press("\r")
	pressUntil(ctx, t, term, "\x1b", "shell is switched off: maintenance") // jobs are held, and the page says why

	pressUntil(ctx, t, term, "t", "Switch an execution type")
	pressUntil(ctx, t, term, "s", "Switch shell on ]")
	pressUntil(ctx, t, term, "\t", "▸[ Switch shell on ]")
	press("\r")
	pressUntil(ctx, t, term, "\x1b", "Nothing is held")

	pressUntil(ctx, t, term, "3", "[3 Jobs]")
	expect("Status", "Service", "Operation")
	press("/")
	press("type:shell status:completed\r")
	expect("completed", "shell")
	press("7")
	expect("demo", "running")
	press("q")
	if err := term.Wait(ctx); err != nil {
		t.Fatalf("quitting: %v", err)
	}
}
