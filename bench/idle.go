package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/specql/specql-ops/internal/screen"
)

const (
	module   = ".."            // the folder of the module that is measured, from this one's
	settling = 5 * time.Second // what a start needs is over by then
	tick     = 10 * time.Millisecond
)

// idle measures what both programs, as they are installed, take while there is
// nothing to do: the agent, and the console on its live page. Each has a
// database to itself, whose transactions are its queries; autovacuum, which
// would count too, is off meanwhile.
func idle(ctx context.Context, l *lab) error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		l.note("idle: left out, this system has no /proc that tells a process's CPU time")
		return nil
	}
	folder, err := os.MkdirTemp("", "specql-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := buildPrograms(ctx, folder); err != nil {
		return err
	}
	empty, err := l.jobsTemplate(ctx, "no jobs")
	if err != nil {
		return err
	}
	if err := l.autovacuum(ctx, "off"); err != nil {
		return err
	}
	defer l.autovacuum(context.WithoutCancel(ctx), "on")
	l.table.heading("Idle: what a program takes without work")
	for _, p := range []program{
		{"agent", startIdleAgent, atMost(0.34), atMost(0.2), atMost(40)},
		{"console", startIdleConsole, none, none, none},
	} {
		found, err := l.onCopy(ctx, empty, func(db *database) (figures, error) { return l.idling(ctx, db, folder, p) })
		if err != nil {
			return fmt.Errorf("idle: %s: %w", p.name, err)
		}
		l.note("idle, %s: %s", p.name, found)
		l.table.figure(p.name+", transactions", found[rateOfQueries], perSecond, p.queries)
		l.table.figure(p.name+", CPU of a core", found[cpuShare], percent, p.cpu)
		l.table.figure(p.name+", memory", found[memory], mebibytes, p.memory)
	}
	return nil
}

// program is one of those that are measured, and what it may take.
type program struct {
	name                 string
	start                func(ctx context.Context, folder, url string) (pid int, stop func() error, err error)
	queries, cpu, memory target
}

// buildPrograms builds both as a release does.
func buildPrograms(ctx context.Context, folder string) error {
	build := exec.CommandContext(ctx, "go", "build", "-C", module, "-trimpath", "-ldflags", "-s -w", "-o", folder,
		"./cmd/specql-agent", "./cmd/specql-tui")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

func (l *lab) autovacuum(ctx context.Context, onOff string) error {
	_, err := l.admin.Exec(ctx, "ALTER SYSTEM SET autovacuum = "+onOff)
	if err == nil {
		_, err = l.admin.Exec(ctx, "SELECT pg_reload_conf()")
	}
	return err
}

// idleRegistry is what a small application's agent would have.
const idleRegistry = `services:
  - { name: payments, type: payment, category: financial, runner_config: { base_url: "https://payments.example" },
      operations: [{ name: create_charge, input_schema: {}, output_schema: {} }] }
  - { name: mail, type: email, category: communication, runner_config: { base_url: "https://mail.example" },
      operations: [{ name: send, input_schema: {}, output_schema: {} }] }
`

// startIdleAgent starts the agent with the defaults of its flags.
func startIdleAgent(ctx context.Context, folder, url string) (pid int, stop func() error, err error) {
	registry := filepath.Join(folder, "service_registry.yaml")
	if err := os.WriteFile(registry, []byte(idleRegistry), 0o600); err != nil {
		return 0, nil, err
	}
	var log strings.Builder
	agent := exec.CommandContext(ctx, filepath.Join(folder, "specql-agent"), "--registry", registry, "--database-url", url)
	agent.Stderr = &log
	if err := agent.Start(); err != nil {
		return 0, nil, err
	}
	return agent.Process.Pid, func() error {
		agent.Process.Signal(syscall.SIGTERM)
		if err := agent.Wait(); err != nil {
			return fmt.Errorf("%w\n%s", err, &log)
		}
		return nil
	}, nil
}

// startIdleConsole opens the console in a terminal; it begins with the live
// page.
func startIdleConsole(ctx context.Context, folder, url string) (pid int, stop func() error, err error) {
	console := exec.CommandContext(ctx, filepath.Join(folder, "specql-tui"), "--database-url", url)
	terminal, err := screen.Start(140, 40, screen.Dark, console)
	if err != nil {
		return 0, nil, err
	}
	if err := terminal.Expect(ctx, "[1 Live]"); err != nil {
		return 0, nil, errors.Join(err, terminal.Close())
	}
	return console.Process.Pid, func() error {
		err := terminal.Type("q")
		if err == nil {
			err = terminal.Wait(ctx)
		}
		fmt.Println(terminal.Text())
		return errors.Join(err, terminal.Close())
	}, nil
}

// The figures of a program that idles: transactions a second, percent of a
// core, MiB resident.
const rateOfQueries, cpuShare, memory = rate + " of queries", "CPU", "memory"

// idling lets a program settle and then be, and returns what it took.
func (l *lab) idling(ctx context.Context, db *database, folder string, p program) (found figures, err error) {
	db.conn.Close(ctx) // whatever it asks would count
	pid, stop, err := p.start(ctx, folder, db.url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	time.Sleep(settling)
	start, asked, used, err := l.spent(ctx, db, pid)
	if err != nil {
		return nil, err
	}
	time.Sleep(l.sizes.idle)
	end, askedAfter, usedAfter, err := l.spent(ctx, db, pid)
	if err != nil {
		return nil, err
	}
	resident, err := residentMiB(pid)
	seconds := end.Sub(start).Seconds()
	return figures{rateOfQueries: float64(askedAfter-asked) / seconds, cpuShare: 100 * (usedAfter - used).Seconds() / seconds, memory: resident}, err
}

// spent reads what the program has asked and used up to now.
func (l *lab) spent(ctx context.Context, db *database, pid int) (at time.Time, transactions int64, cpu time.Duration, err error) {
	err = l.admin.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`, db.name).Scan(&transactions)
	if err != nil {
		return at, 0, 0, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return at, 0, 0, err
	}
	// The fields are counted from the end of the command's name, which may
	// hold anything: utime and stime are the 14th and 15th of all.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return at, 0, 0, err
		}
		ticks += n
	}
	return time.Now(), transactions, time.Duration(ticks) * tick, nil
}

func residentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmRSS", pid)
}
