// Command testsum runs `go test` and ends with what came of it: the reason for
// each skip, and one line `N passed, N failed, N skipped`.
//
// It hands its arguments to `go test -json` and counts the events of it
// (`go doc test2json`). A test with subtests counts by its subtests. A package
// that does not build, or ends outside of any test, counts as one failure, so
// that no failure is ever left out of the line. The exit status is go test's.
// It never runs a test again and never hides the output of one that failed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: go test's, or 1 when go test said that all was
// well although a failure was counted.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	command := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	command.Stderr = errOut
	// An interrupt goes on to go test, which stops its tests and reports them.
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	events, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		fmt.Fprintf(errOut, "testsum: start go test: %v\n", err)
		return 1
	}
	sum := newSummary(out)
	readErr := sum.read(events)
	status := exitStatus(command.Wait())
	if readErr != nil {
		fmt.Fprintf(errOut, "testsum: read the events of go test: %v\n", readErr)
	}
	failed := sum.report()
	if status == 0 && (failed > 0 || readErr != nil) {
		return 1
	}
	return status
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	return 1 // killed by a signal, or never waited for
}

// event is one line of `go test -json`.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64 // seconds
	ImportPath  string  // of build-output and build-fail, instead of Package
	FailedBuild string  // on a package's fail: what did not build
}

// read takes events until the stream ends. A line that is no event is passed
// on as it is: go writes such lines when it cannot even list the packages.
func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				s.add(e)
			} else {
				s.out.Write(line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
