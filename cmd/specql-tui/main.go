// Command specql-tui operates SpecQL's jobs: the console, and a command for
// each of its actions, for scripts and for machines without a terminal.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/specql/specql-ops/internal/demo"
	"github.com/specql/specql-ops/runners/docker/waiter"
	"github.com/specql/specql-ops/runners/shell"
)

func main() {
	// demo runs an agent in this process, whose sandboxed jobs start as
	// copies of it, and so does its sample function.
	shell.ShimMain()
	waiter.Main()
	demo.FunctionMain()
	os.Exit(run(os.Args[1:]))
}

// run executes one command and returns its exit status.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		err = errInterrupted
	}
	return report(os.Stderr, err, asksJSON(args))
}
