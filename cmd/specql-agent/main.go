// Command specql-agent watches the service registry, claims jobs from
// jobs.tb_job_run, runs them under the registry's policy and records results.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/agent/telemetry"
	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/docker"
	"github.com/specql/specql-ops/runners/docker/waiter"
	"github.com/specql/specql-ops/runners/httpapi"
	"github.com/specql/specql-ops/runners/serverless"
	"github.com/specql/specql-ops/runners/shell"
)

// The exit statuses that scripts may rely on.
const (
	exitUsage    = 2
	exitYAML     = 3
	exitConfig   = 4
	exitDatabase = 5
)

// exitError carries the status that a failure ends the program with.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	shell.ShimMain()
	waiter.Main()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(agent.GCPercent)
	}
	if err := command().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "specql-agent:", strings.TrimSpace(err.Error()))
		status := exitUsage
		if e := (*exitError)(nil); errors.As(err, &e) {
			status = e.status
		}
		os.Exit(status)
	}
}

type flags struct {
	registry, env, databaseURL, name, logFormat, logLevel, listen string
	types                                                         []string
	slots, dockerAhead                                            int
	lease, drain, retention                                       time.Duration
	pprof                                                         bool
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "specql-agent",
		Short: "Claims jobs from jobs.tb_job_run and runs them under the registry's policy",
		Long: "specql-agent watches the service registry, claims jobs, runs them and records their results.\n" +
			"SIGTERM stops claiming and lets running jobs finish for --drain-timeout; a second one hands them\n" +
			"back at once. SIGHUP reads the registry again; SIGUSR1 makes the log one step more verbose, SIGUSR2\n" +
			"one step less. Every flag is also a variable: --drain-timeout is SPECQL_DRAIN_TIMEOUT.\n\n" +
			"--listen serves /metrics for Prometheus, /healthz and /readyz for probes, and /loglevel. OpenTelemetry's\n" +
			"variables switch spans on: OTEL_EXPORTER_OTLP_ENDPOINT and the like.",
		Version:       version.String(),
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	cmd.SetVersionTemplate("specql-agent {{.Version}}\n")
	v := cmd.Flags()
	v.StringVar(&f.registry, "registry", env("REGISTRY", "registry/service_registry.yaml"), "the service registry")
	v.StringVar(&f.env, "env", env("ENV", ""), "environment whose overlay is merged: development, staging, production …")
	v.StringVar(&f.databaseURL, "database-url", "", "PostgreSQL; else SPECQL_DATABASE_URL, DATABASE_URL, PG* variables")
	v.StringVar(&f.name, "name", env("NAME", ""), "the agent's name on screens (default: the host's)")
	v.StringSliceVar(&f.types, "types", strings.Split(env("TYPES", "http,shell,docker"), ","), "execution types to take")
	v.IntVar(&f.slots, "slots", envInt("SLOTS", 100), "jobs at once")
	v.DurationVar(&f.lease, "lease", envDuration("LEASE", 15*time.Second), "without a heartbeat for so long the jobs are taken over")
	v.DurationVar(&f.drain, "drain-timeout", envDuration("DRAIN_TIMEOUT", 30*time.Second), "running jobs get so long when the agent stops")
	v.DurationVar(&f.retention, "retention", envDuration("RETENTION", 0), "delete jobs so long after they ended, such as 720h; at least 1h, 0 keeps them")
	v.IntVar(&f.dockerAhead, "docker-ahead-mb", envInt("DOCKER_AHEAD_MB", 256), "memory for containers that are started ahead of jobs, in MiB; 0 starts none")
	v.StringVar(&f.logFormat, "log-format", env("LOG_FORMAT", "text"), "text or json")
	v.StringVar(&f.logLevel, "log-level", env("LOG_LEVEL", "info"), "debug, info, warn or error")
	v.StringVar(&f.listen, "listen", env("LISTEN", "127.0.0.1:9464"), "metrics and probes over HTTP, to whoever reaches the address; off for none")
	v.BoolVar(&f.pprof, "pprof", envBool("PPROF", false), "serve Go's profiles at /debug/pprof/ too")
	cmd.AddCommand(doctor())
	return cmd
}

func run(ctx context.Context, f flags) error {
	level, log, err := logger(f.logFormat, f.logLevel)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	stepLevel(level)
	listener, err := listen(f.listen)
	if err != nil {
		return err
	}
	f.name = cmp.Or(f.name, hostName())
	tracing, err := telemetry.NewTracing(ctx, os.Getenv, f.name, version.Short(), log)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	config, err := load(f)
	if err != nil {
		return err
	}
	url := ops.DatabaseURL(f.databaseURL, os.Getenv)
	if err := checkDatabase(ctx, url); err != nil {
		return &exitError{exitDatabase, err}
	}
	taken, isolation, abilities, closeAll, err := makeRunners(f, log)
	if err != nil {
		return err
	}
	defer closeAll()
	a, err := agent.New(agent.Options{DatabaseURL: url, Config: config, Runners: taken, Name: f.name,
		Version: version.Short(), Isolation: isolation, Abilities: abilities, Slots: f.slots, Lease: f.lease, Drain: f.drain, Retention: f.retention, Log: log, Tracer: tracing.Tracer()})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	seen, err := watch(a, listener, url, f, level, log)
	if err != nil {
		return err
	}
	defer seen.close()
	defer tracing.Close()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	watcher := registry.NewWatcher(f.registry, registry.Options{Env: f.env}, registry.WatchOptions{Loaded: config, Logger: log})
	go a.Follow(ctx, watcher)
	go signals(ctx, a, watcher, seen.systemd)
	if err := a.Run(ctx); err != nil {
		return &exitError{exitDatabase, err}
	}
	return nil
}

// signals reloads on SIGHUP, and ends a drain on the second SIGTERM or SIGINT.
func signals(ctx context.Context, a *agent.Agent, w *registry.Watcher, systemd *telemetry.Supervised) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	again := make(chan os.Signal, 1)
	for {
		select {
		case <-hup:
			w.Reload()
		case <-ctx.Done():
			systemd.Stopping()
			signal.Notify(again, syscall.SIGTERM, os.Interrupt)
			<-again
			a.Halt()
			return
		}
	}
}

// load reads the registry; all its faults are printed, and none is applied.
func load(f flags) (*registry.Config, error) {
	config, diags, err := registry.Load(f.registry, registry.Options{Env: f.env})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	diags.WriteText(os.Stderr)
	if config == nil {
		status := exitConfig
		if diags.Unreadable() {
			status = exitYAML
		}
		return nil, &exitError{status, fmt.Errorf("the registry %s has %d faults: mend them and start again", f.registry, diags.Errors())}
	}
	return config, nil
}

// checkDatabase gives the clear words for what may be wrong before the loop
// starts to wait for it.
func checkDatabase(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	pool, err := ops.Connect(ctx, url, "specql-agent")
	if err != nil {
		return err
	}
	defer pool.Close()
	return ops.CheckMigrated(ctx, pool)
}

func makeRunners(f flags, log *slog.Logger) (made []runners.Runner, isolation string, abilities agent.Abilities, closeAll func(), err error) {
	var closers []func()
	abilities = agent.Abilities{}
	closeAll = func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}
	for _, word := range f.types {
		t, err := jobs.ParseExecutionType(word)
		if err != nil {
			return nil, "", nil, closeAll, &exitError{exitUsage, fmt.Errorf("--types: %w", err)}
		}
		switch t {
		case jobs.HTTP:
			r := httpapi.New(httpapi.Options{Version: version.Short(), Log: log})
			closers = append(closers, r.Close)
			made = append(made, r)
			abilities[t] = examine(examineHTTP)
		case jobs.Shell:
			r, err := shell.New(shell.Options{Log: log, Hide: agentFiles(f.registry, os.Getenv)})
			if err != nil {
				return nil, "", nil, closeAll, &exitError{exitConfig, err}
			}
			closers = append(closers, func() { r.Close() })
			made = append(made, r)
			isolation = r.Host().Isolation
			abilities[t] = r.Checks()
		case jobs.Docker:
			r, err := docker.New(docker.Options{Log: log, Agent: f.name, AheadMB: f.dockerAhead})
			if err != nil {
				return nil, "", nil, closeAll, &exitError{exitConfig, err}
			}
			closers = append(closers, func() { r.Close() })
			made = append(made, r)
			abilities[t] = examine(docker.Examine)
		case jobs.Serverless:
			r := serverless.New(serverless.Options{Version: version.Short(), Log: log})
			closers = append(closers, r.Close)
			made = append(made, r)
			abilities[t] = examine(serverless.Examine)
		}
	}
	return made, isolation, abilities, closeAll, nil
}

func logger(format, word string) (*telemetry.Level, *slog.Logger, error) {
	start, err := telemetry.ParseLevel(word)
	if err != nil {
		return nil, nil, fmt.Errorf("--log-level: %w", err)
	}
	var handler func(slog.Leveler) slog.Handler
	switch format {
	case "text":
		handler = func(l slog.Leveler) slog.Handler {
			return slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})
		}
	case "json":
		handler = func(l slog.Leveler) slog.Handler {
			return slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l})
		}
	default:
		return nil, nil, fmt.Errorf("--log-format: %q is not text or json", format)
	}
	level, log := telemetry.NewLevel(start, handler)
	return level, log, nil
}

func hostName() string {
	name, _ := os.Hostname()
	return name
}
