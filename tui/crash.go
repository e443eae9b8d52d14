package tui

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/internal/version"
)

// crash is a panic that was caught, wherever it was.
type crash struct {
	value any
	stack []byte
}

type crashMsg struct{ crash }

func (a *app) crashed(value any) { a.crash = &crash{value, debug.Stack()} }

// guard catches a command's panic, also in the commands of its batch: one in a
// goroutine of its own would leave the terminal broken.
func guard(cmd tea.Cmd) tea.Cmd {
	if cmd == nil {
		return nil
	}
	return func() (msg tea.Msg) {
		defer func() {
			if v := recover(); v != nil {
				msg = crashMsg{crash{v, debug.Stack()}}
			}
		}()
		msg = cmd()
		if batch, ok := msg.(tea.BatchMsg); ok {
			for i := range batch {
				batch[i] = guard(batch[i])
			}
		}
		return msg
	}
}

// report writes down what happened, for whoever mends it, and returns the
// error for the operator. It holds nothing of any job.
func (c *crash) report(a *app) error {
	text := fmt.Sprintf("specql-tui %s\n%s\nscreen %d×%d, page %s\n\npanic: %v\n\n%s", version.String(), time.Now().UTC().Format(time.RFC3339),
		a.w, a.h, a.pages[a.at].id, c.value, c.stack)
	head := strings.SplitN(fmt.Sprint(c.value), "\n", 2)[0]
	f, err := os.CreateTemp("", "specql-tui-crash-*.txt")
	if err != nil {
		return fmt.Errorf("the console broke off (%s), and no report could be written: %w\n%s", head, err, text)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return fmt.Errorf("the console broke off (%s), and no report could be written: %w\n%s", head, err, text)
	}
	return fmt.Errorf("the console broke off (%s); nothing that it had begun in the database is half done. Send %s to whoever maintains it, and open the console again", head, f.Name())
}
