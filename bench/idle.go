package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// settling is how long a start has effects: the server writes down what an idle
// connection did after up to ten seconds.
const settling = 12 * time.Second

// idle measures what both programs take while there is nothing to do, at the
// same time: the agent, and the console on its live page.
func idle(ctx context.Context, l *lab) error {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		l.note("idle: left out, this system has no /proc that tells a process's CPU time")
		return nil
	}
	built, err := buildPrograms(ctx)
	if err != nil {
		return err
	}
	defer built.remove()
	empty, err := l.backlogTemplate(ctx, 0)
	if err != nil {
		return err
	}
	// Each has a database to itself, whose transactions are its queries.
	// Autovacuum would count too.
	if err := l.autovacuum(ctx, "off"); err != nil {
		return err
	}
	defer l.autovacuum(context.WithoutCancel(ctx), "on")
	var agent, console usage
	_, err = l.onCopy(ctx, empty, func(a *database) (figures, error) {
		return l.onCopy(ctx, empty, func(c *database) (_ figures, err error) {
			agent, console, err = l.watch(ctx, built, a, c)
			return nil, err
		})
	})
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	l.table.heading("Idle: what a program takes without work")
	for _, program := range []struct {
		name string
		took usage
	}{{"agent", agent}, {"console", console}} {
		l.table.figure(program.name+", transactions", program.took.transactions, perSecond, atMost(0.34)) // one in three seconds
		l.table.figure(program.name+", CPU time of a core", program.took.cpu, percent, atMost(0.2))
		l.table.figure(program.name+", memory", program.took.memory, mebibytes, atMost(40))
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

// watch lets both programs settle and then be, and returns what they took.
func (l *lab) watch(ctx context.Context, built programs, a, c *database) (agent, console usage, err error) {
	for _, db := range []*database{a, c} {
		db.conn.Close(ctx) // whatever it asked would count
	}
	agentPID, stop, err := built.agent(ctx, a.url)
	if err != nil {
		return agent, console, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	consolePID, quit, err := built.console(ctx, c.url)
	if err != nil {
		return agent, console, err
	}
	defer func() { err = errors.Join(err, quit()) }()
	l.note("idle: watching for %s", settling+l.sizes.idle)
	time.Sleep(settling)
	agentBefore, err1 := l.spent(ctx, a, agentPID)
	consoleBefore, err2 := l.spent(ctx, c, consolePID)
	time.Sleep(l.sizes.idle)
	agentAfter, err3 := l.spent(ctx, a, agentPID)
	consoleAfter, err4 := l.spent(ctx, c, consolePID)
	return agentAfter.since(agentBefore), consoleAfter.since(consoleBefore), errors.Join(err1, err2, err3, err4)
}

// usage is what a program takes while it idles.
type usage struct {
	transactions float64 // a second
	cpu          float64 // percent of a core
	memory       float64 // MiB resident
}

// spending is what a program has taken until a moment.
type spending struct {
	at           time.Time
	transactions int64
	cpu          time.Duration
	memory       float64 // MiB resident at that moment
}

func (s spending) since(before spending) usage {
	seconds := s.at.Sub(before.at).Seconds()
	return usage{transactions: float64(s.transactions-before.transactions) / seconds,
		cpu: 100 * (s.cpu - before.cpu).Seconds() / seconds, memory: s.memory}
}

func (l *lab) spent(ctx context.Context, db *database, pid int) (s spending, err error) {
	s.at = time.Now()
	err = l.admin.QueryRow(ctx, `SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1`, db.name).Scan(&s.transactions)
	if err != nil {
		return s, err
	}
	if s.cpu, err = cpuTime(pid); err != nil {
		return s, err
	}
	s.memory, err = resident(pid)
	return s, err
}

// resident is the process's memory in MiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return kib / 1024, nil
}
