package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/terminal"
)

// Options is what a console needs.
type Options struct {
	Pool     *pgxpool.Pool
	By       jobs.By // who changes something, for the audit log
	ReadOnly bool    // nothing may be changed, whatever the role may do
	Environ  []string
	In       *os.File // os.Stdin when nil
	Out      *os.File // os.Stdout when nil
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
	if !term.IsTerminal(o.In.Fd()) || !term.IsTerminal(o.Out.Fd()) {
		return ErrNoTerminal
	}
	keymap, err := actions.ReadKeymap(actions.BindingsFile(os.Getenv))
	if err != nil {
		return err
	}
	readOnly := ""
	if o.ReadOnly {
		readOnly = "the console was started with --read-only"
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hung := make(chan os.Signal, 1)
	signal.Notify(hung, syscall.SIGHUP)
	defer signal.Stop(hung)
	go func() {
		select {
		case <-hung: // the terminal was closed
			stop()
		case <-ctx.Done():
		}
	}()
	return run(ctx, o, newApp(Database(ctx, o.Pool, o.By, keymap), readOnly))
}

// run shows the app on the terminal and gives the terminal back, whatever
// happens.
func run(ctx context.Context, o Options, a *app) error {
	t := terminal.Open(o.In, o.Out, o.Environ)
	defer t.Close()
	w, h, err := t.Size()
	if err != nil {
		return fmt.Errorf("ask the terminal for its size: %w", err)
	}
	a.term = t
	if err := t.Enter(); err != nil {
		return err
	}
	// The library reads keys and runs the messages' loop; what it would draw it
	// would look for at every tick of its clock, so the clock is slow.
	p := tea.NewProgram(a, tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithEnvironment(o.Environ),
		tea.WithoutRenderer(), tea.WithFPS(1), tea.WithWindowSize(w, h))
	go t.Resized(func(w, h int) { p.Send(tea.WindowSizeMsg{Width: w, Height: h}) })
	// A program whose context ends would close its input while it is read.
	defer context.AfterFunc(ctx, p.Quit)()
	_, err = p.Run()
	t.Close()
	switch {
	case a.crash != nil:
		return a.crash.report(a)
	case err == nil, errors.Is(err, tea.ErrInterrupted), ctx.Err() != nil:
		return nil
	}
	return fmt.Errorf("run the console: %w", err)
}
