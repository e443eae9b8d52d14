//go:build unix

package screen

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAHalfDrawnFrameIsNotShown(t *testing.T) {
	terminal, err := Start(10, 2, Dark, exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, c := range []struct{ written, shown string }{
		{"one", "one"},
		{frameBegins + "\rtw", "one"},
		{"o" + frameEnds[:4], "one"},
		{frameEnds[4:], "two"},
		{"\r3" + frameBegins + "\r4" + frameEnds, "4wo"},
		{frameBegins + "\r5" + frameEnds + frameBegins + "\r6", "4wo"},
		{frameEnds, "6wo"},
	} {
		terminal.mu.Lock()
		terminal.draw([]byte(c.written), false)
		terminal.mu.Unlock()
		if got := strings.TrimSpace(terminal.Text()); got != c.shown {
			t.Fatalf("after %q the screen shows %q, want %q", c.written, got, c.shown)
		}
	}
	terminal.mu.Lock()
	terminal.draw([]byte(frameBegins+"\r7"), true)
	terminal.mu.Unlock()
	if got := strings.TrimSpace(terminal.Text()); got != "7wo" {
		t.Errorf("in the end the screen shows %q", got)
	}
}
