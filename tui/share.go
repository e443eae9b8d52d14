package tui

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	tea "charm.land/bubbletea/v2"

	"github.com/specql/specql-ops/tui/parts"
)

// copyMost bounds what goes to a clipboard: terminals drop longer texts.
const copyMost = 74_000

// copy puts what is under the cursor on the operator's clipboard.
func (a *app) copy() tea.Cmd {
	what, text := a.page().(copier).Copy()
	switch {
	case text == "":
		return parts.Toast("Nothing to copy is under the cursor.", true)
	case len(text) > copyMost:
		return parts.Toast(fmt.Sprintf("%s is too long for a clipboard (%d bytes): export it instead.", what, len(text)), true)
	}
	term := a.term
	return func() tea.Msg {
		if term != nil {
			if err := term.Copy(text); err != nil {
				return parts.ToastMsg{Text: "Not copied: " + err.Error(), Bad: true}
			}
		}
		return parts.ToastMsg{Text: "Copied: " + what}
	}
}

// export asks for a file and writes what the page lists to it.
func (a *app) export() tea.Cmd {
	name, write := a.page().(exporter).Export()
	file := name + "-" + a.env.Now.UTC().Format("20060102-150405") + ".csv"
	return a.ask(parts.Ask{Title: "Export " + name, Lasts: true,
		Fields: []parts.Input{{Name: "file", Label: "File", Value: file, Hint: "A name that ends in .csv or .json; an existing file is not overwritten.",
			Check: func(v string) string {
				if v = strings.ToLower(v); !strings.HasSuffix(v, ".csv") && !strings.HasSuffix(v, ".json") {
					return "end its name in .csv or .json"
				}
				return ""
			}}},
		Plan: func(context.Context) (parts.Plan, error) {
			return parts.Plan{Plain: true, Action: "Export", Effects: []string{"What the page lists now, with its filter, is written to a file on this machine."}}, nil
		},
		Do: func(ctx context.Context, said parts.Said, progress func(int64)) parts.Outcome {
			file := said.Fields["file"]
			n, err := exportTo(ctx, file, write, progress)
			switch {
			case errors.Is(err, context.Canceled):
				return parts.Outcome{Bad: true, Lines: []string{"▲ Stopped: " + file + " was removed again."}}
			case err != nil:
				return parts.Failed(file+" was not written.", err)
			}
			return parts.Outcome{Lines: []string{"● " + parts.Count(n, false) + " rows are in " + file + "."}}
		}})
}

// exportTo writes the whole file or leaves none.
func exportTo(ctx context.Context, file string, write func(context.Context, io.Writer, bool, func(int64)) (int64, error), progress func(int64)) (n int64, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			os.Remove(file)
		}
	}()
	w := bufio.NewWriter(f)
	n, err = write(ctx, w, strings.HasSuffix(strings.ToLower(file), ".json"), progress)
	return n, errors.Join(err, w.Flush(), f.Close())
}
