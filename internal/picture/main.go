//go:build unix

// Command picture makes the documentation's picture of the console: it opens
// the demo in a terminal of its own, waits until jobs of both types have
// finished, and keeps what the screen shows.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/specql/specql-ops/internal/screen"
)

func main() {
	program := flag.String("program", "bin/specql-tui", "the console")
	out := flag.String("o", "docs/console.png", "the picture")
	light := flag.Bool("light", false, "in a terminal with a light background")
	warm := flag.Duration("warm", 90*time.Second, "how long the demo runs first")
	flag.Parse()
	if err := run(*program, *out, *warm, *light); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(program, out string, warm time.Duration, light bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), warm+time.Minute)
	defer cancel()
	theme := screen.Dark
	if light {
		theme = screen.Light
	}
	t, err := screen.Start(140, 40, theme, exec.Command(program, "demo"))
	if err != nil {
		return err
	}
	defer t.Close()
	ready := time.Now().Add(warm)
	err = t.Until(ctx, "some minutes of http and shell jobs", func(s string) bool {
		return time.Now().After(ready) && strings.Contains(s, "daily_summary") && strings.Contains(s, "p95")
	})
	if err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := t.Picture(file, screen.Fonts); err != nil {
		return err
	}
	if err := t.Type("q"); err != nil {
		return err
	}
	return t.Wait(ctx)
}
