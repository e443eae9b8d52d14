package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/specql/specql-ops/internal/screen"
)

// module is the folder of the module that is measured, from this one's.
const module = ".."

// programs are the two programs, built as a release builds them.
type programs struct{ folder string }

func buildPrograms(ctx context.Context) (programs, error) {
	folder, err := os.MkdirTemp("", "specql-bench-")
	if err != nil {
		return programs{}, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-C", module, "-trimpath", "-ldflags", "-s -w", "-o", folder,
		"./cmd/specql-agent", "./cmd/specql-tui")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return programs{}, errors.Join(fmt.Errorf("build the programs: %w\n%s", err, out), os.RemoveAll(folder))
	}
	return programs{folder}, nil
}

func (p programs) remove() { os.RemoveAll(p.folder) }

// registryFile is a small application's registry.
const registryFile = `services:
  - { name: payments, type: payment, category: financial, runner_config: { base_url: "https://payments.example" },
      operations: [{ name: create_charge, input_schema: {}, output_schema: {} }] }
  - { name: mail, type: email, category: communication, runner_config: { base_url: "https://mail.example" },
      operations: [{ name: send, input_schema: {}, output_schema: {} }] }
`

// agent starts specql-agent with the defaults of its flags. Stop ends it in
// order.
func (p programs) agent(ctx context.Context, url string) (pid int, stop func() error, err error) {
	registry := filepath.Join(p.folder, "service_registry.yaml")
	if err := os.WriteFile(registry, []byte(registryFile), 0o600); err != nil {
		return 0, nil, err
	}
	var log strings.Builder
	agent := exec.CommandContext(ctx, filepath.Join(p.folder, "specql-agent"), "--registry", registry, "--database-url", url)
	agent.Stderr = &log
	if err := agent.Start(); err != nil {
		return 0, nil, err
	}
	return agent.Process.Pid, func() error {
		agent.Process.Signal(syscall.SIGTERM)
		if err := agent.Wait(); err != nil {
			return fmt.Errorf("specql-agent: %w\n%s", err, &log)
		}
		return nil
	}, nil
}

// console opens specql-tui in a terminal, on the live page, with which it
// begins. Stop quits it.
func (p programs) console(ctx context.Context, url string) (pid int, stop func() error, err error) {
	_, console, stop, err := p.open(ctx, url, 140, 40)
	if err != nil {
		return 0, nil, err
	}
	return console.Process.Pid, stop, nil
}

// open is console with its terminal, of any size.
func (p programs) open(ctx context.Context, url string, cols, rows int) (terminal *screen.Terminal, console *exec.Cmd, stop func() error, err error) {
	console = exec.CommandContext(ctx, filepath.Join(p.folder, "specql-tui"), "--database-url", url)
	if terminal, err = screen.Start(cols, rows, screen.Dark, console); err != nil {
		return nil, nil, nil, err
	}
	soon, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := terminal.Expect(soon, "Live]"); err != nil {
		return nil, nil, nil, errors.Join(err, terminal.Close())
	}
	return terminal, console, func() error {
		err := terminal.Type("q")
		if err == nil {
			err = terminal.Wait(ctx)
		}
		return errors.Join(err, terminal.Close())
	}, nil
}
