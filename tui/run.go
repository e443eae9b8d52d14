package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// Options is what a console needs.
type Options struct {
	Pool     *pgxpool.Pool
	By       jobs.By // who changes something, for the audit log
	ReadOnly bool    // nothing may be changed, whatever the role may do
	Environ  []string
	In       io.Reader // os.Stdin when nil
	Out      io.Writer // os.Stdout when nil
}

// ErrNoTerminal says that the console has no terminal to draw on.
var ErrNoTerminal = errors.New("the console needs a terminal; without one use health-check, queue-status, agents, jobs list or execution-types, with --output json for programs")

// Run shows the console until the operator quits or ctx ends. It leaves the
// terminal as it found it.
func Run(ctx context.Context, o Options) error {
	if o.In == nil {
		o.In = os.Stdin
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if !terminal(o.In) || !terminal(o.Out) {
		return ErrNoTerminal
	}
	readOnly := ""
	if o.ReadOnly {
		readOnly = "the console was started with --read-only"
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p := tea.NewProgram(newApp(Database(ctx, o.Pool, o.By), readOnly), tea.WithContext(ctx),
		tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithEnvironment(o.Environ))
	_, err := p.Run()
	if err == nil || errors.Is(err, tea.ErrInterrupted) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("run the console: %w", err)
}

func terminal(v any) bool {
	f, ok := v.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(f.Fd())
}
