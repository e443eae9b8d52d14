// Package demo shows the product at work on this machine alone: a private
// PostgreSQL with an HTTP-only application's jobs, a local HTTP service, the
// example scripts, a container's image where a Docker engine answers, the migration, an agent, and jobs that keep coming. It
// leaves nothing behind and touches nothing of the host's.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/examples"
	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/internal/version"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/docker"
	"github.com/specql/specql-ops/runners/httpapi"
	"github.com/specql/specql-ops/runners/serverless"
	"github.com/specql/specql-ops/runners/shell"
)

// Options says how the demo runs.
type Options struct {
	Headless bool          // no console: feed for Duration, wait until the queue is empty, report
	Duration time.Duration // of a headless run's feeding; 20 s when 0
	// Untouched leaves the migration to whoever sits before the console: the
	// agent starts, and jobs of new types come, once it has run. Not Headless.
	Untouched bool
	// Console opens the console on the database and returns when it is left.
	// Required unless Headless.
	Console func(ctx context.Context, url string) error
	Log     io.Writer // what happens, a line each; nil: nobody reads
}

// Result is what a headless run reports.
type Result struct {
	Types     map[string]TypeResult `json:"types"`
	Migration Migration             `json:"migration"`
	Lost      int                   `json:"lost"` // jobs that were inserted and did not come to an end
}

// TypeResult is one execution type's part. Durations are of the last attempt.
type TypeResult struct {
	Completed int     `json:"completed"`
	Failed    int     `json:"failed"` // for good: no attempt is left
	P50       float64 `json:"p50_ms"`
	P95       float64 `json:"p95_ms"`
}

// Migration says what migrate-schema did.
type Migration struct {
	Applied []string `json:"applied"`
	Seconds float64  `json:"seconds"`
}

// database is the demo's database on its private server.
const database = "shop"

// Run runs the demo until its console is left, its time is over or ctx ends,
// and cleans up.
func Run(ctx context.Context, opt Options) (result Result, err error) {
	if opt.Duration == 0 {
		opt.Duration = 20 * time.Second
	}
	if opt.Log == nil {
		opt.Log = io.Discard
	}
	say := func(format string, args ...any) { fmt.Fprintf(opt.Log, format+"\n", args...) }

	server, err := devdb.Start(ctx, devdb.Options{Durable: true})
	if err != nil {
		return result, err
	}
	defer server.Stop()
	if err := server.CreateDatabase(ctx, database); err != nil {
		return result, err
	}
	url := server.URL(database)
	say("PostgreSQL %s, private: %s", server.Version(), url)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return result, err
	}
	defer pool.Close()

	finished, pending, err := seed(ctx, pool)
	if err != nil {
		return result, err
	}
	say("an HTTP-only application with %d finished and %d pending jobs", finished, pending)

	if !opt.Untouched {
		if result.Migration, err = migrate(ctx, url); err != nil {
			return result, err
		}
		say("migrated to multi-execution in %.2f s: %v", result.Migration.Seconds, result.Migration.Applied)
	}

	service, err := startService()
	if err != nil {
		return result, err
	}
	defer service.stop()
	image, err := buildImage(ctx)
	if err != nil {
		say("no docker jobs: %v", err)
	} else {
		say("image %s, built from examples/containers/predictor", image.tag)
		defer image.remove()
	}
	functions, err := startFunctions(ctx)
	if err != nil {
		return result, err
	}
	defer functions.Close()
	say("local AWS Lambda: %s, with examples/functions/image_resizer", functions.URL())
	start := func(log io.Writer) (done <-chan error, stop func() error, err error) {
		return startAgent(ctx, log, url, service.url, functions.URL(), image)
	}
	feedAll := func(ctx context.Context) error { return feed(ctx, pool, allKinds(service.url, image != nil)) }
	if opt.Untouched {
		return result, beside(ctx, func(ctx context.Context) error { return opt.Console(ctx, url) }, func(ctx context.Context) error {
			if err := feedUntilMigrated(ctx, pool); err != nil || ctx.Err() != nil {
				return err
			}
			_, stop, err := start(io.Discard)
			if err != nil {
				return err
			}
			return errors.Join(feedAll(ctx), stop())
		})
	}
	agentDone, stopAgent, err := start(opt.Log)
	if err != nil {
		return result, err
	}
	defer func() {
		if stopErr := stopAgent(); err == nil {
			err = stopErr
		}
	}()
	if !opt.Headless {
		return result, beside(ctx, func(ctx context.Context) error { return opt.Console(ctx, url) }, feedAll)
	}
	feeding, stopFeed := context.WithCancel(ctx)
	defer stopFeed()
	fed := make(chan error, 1)
	go func() { fed <- feedAll(feeding) }()
	say("jobs are coming for %s", opt.Duration)
	select {
	case <-time.After(opt.Duration):
	case <-ctx.Done():
		return result, ctx.Err()
	case err := <-fed:
		return result, fmt.Errorf("feeding jobs: %w", err)
	case err := <-agentDone:
		return result, fmt.Errorf("the agent ended: %w", err)
	}
	stopFeed()
	if err := <-fed; err != nil {
		return result, fmt.Errorf("feeding jobs: %w", err)
	}
	say("waiting until the queue is empty")
	if err := waitEmpty(ctx, pool, 2*time.Minute); err != nil {
		return result, err
	}
	return report(ctx, pool, result)
}

// beside has the application work as long as the console is open.
func beside(ctx context.Context, console, application func(context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	worked := make(chan error, 1)
	go func() { worked <- application(working) }()
	err := console(ctx)
	stop()
	return errors.Join(err, <-worked)
}

// feedUntilMigrated queues what an HTTP-only application does until somebody's
// migration is through.
func feedUntilMigrated(ctx context.Context, pool *pgxpool.Pool) error {
	feeding, stop := context.WithCancel(ctx)
	defer stop()
	fed := make(chan error, 1)
	go func() { fed <- feed(feeding, pool, overHTTP) }()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := migrations.Look(ctx, pool)
		if err == nil && status.State == migrations.Finished && !status.Down {
			stop()
			return <-fed
		}
		select {
		case <-tick.C:
		case err := <-fed:
			return err
		}
	}
}

func migrate(ctx context.Context, url string) (Migration, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return Migration{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	done, err := migrations.Apply(ctx, conn, migrations.Options{})
	return Migration{Applied: done.Applied, Seconds: done.Seconds}, err
}

// startAgent unpacks the examples and runs an agent on them in this process.
// What it logs goes to a file beside the registry, not over the console.
func startAgent(ctx context.Context, say io.Writer, url, serviceURL, lambdaURL string, image *image) (done <-chan error, stop func() error, err error) {
	dir, err := unpack()
	if err != nil {
		return nil, nil, err
	}
	vars := map[string]string{"SPECQL_DEMO_URL": serviceURL, "SPECQL_DEMO_LAMBDA": lambdaURL, "SPECQL_DEMO_SCRIPTS": filepath.Join(dir, "scripts")}
	if image != nil {
		vars["SPECQL_DEMO_IMAGE"] = image.tag
	}
	read := registry.Options{LookupEnv: func(name string) (string, bool) { v, ok := vars[name]; return v, ok }}
	file := filepath.Join(dir, "registry", "service_registry.yaml")
	config, diags, err := registry.Load(file, read)
	if err == nil {
		err = diags.Err()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	logFile, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	log := slog.New(slog.NewTextHandler(logFile, nil))
	sh, err := shell.New(shell.Options{Log: log})
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	web := httpapi.New(httpapi.Options{LookupEnv: read.LookupEnv, Version: version.Short(), Log: log})
	cloud := serverless.New(serverless.Options{Version: version.Short(), Log: log, Credentials: localKeys})
	taken := []runners.Runner{web, sh, cloud}
	closeAll := func() { web.Close(); sh.Close(); cloud.Close() }
	if image != nil {
		containers, err := docker.New(docker.Options{Log: log, Agent: "demo", AheadMB: 128})
		if err != nil {
			os.RemoveAll(dir)
			return nil, nil, err
		}
		taken = append(taken, containers)
		closeAll = func() { web.Close(); sh.Close(); cloud.Close(); containers.Close() }
	}
	a, err := agent.New(agent.Options{DatabaseURL: url, Config: config, Name: "demo", Version: version.Short(),
		Runners: taken, Isolation: sh.Host().Isolation, Slots: 50,
		RetryBase: 200 * time.Millisecond, Drain: 10 * time.Second, Log: log})
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	fmt.Fprintf(say, "agent with registry %s, log %s\n", file, logFile.Name())
	working, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(working) }()
	go a.Follow(working, registry.NewWatcher(file, read, registry.WatchOptions{Loaded: config, Logger: log}))
	stop = func() error {
		cancel()
		err := <-ended
		closeAll()
		logFile.Close()
		os.RemoveAll(dir)
		return err
	}
	return ended, stop, nil
}

// unpack writes the examples where any user may read them: shell jobs may run
// as another one.
func unpack() (string, error) {
	dir, err := os.MkdirTemp("", "specql-demo-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	err = fs.WalkDir(examples.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(dir, path)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		content, err := examples.Files.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o755)
	})
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}

// seed makes the past of an HTTP-only application: some thousands of finished
// jobs and some that wait.
func seed(ctx context.Context, pool *pgxpool.Pool) (finished, pending int, err error) {
	if _, err := pool.Exec(ctx, appschema.HTTPOnly); err != nil {
		return 0, 0, fmt.Errorf("the application's schema: %w", err)
	}
	tag, err := pool.Exec(ctx, seedFinishedSQL)
	if err != nil {
		return 0, 0, fmt.Errorf("the application's finished jobs: %w", err)
	}
	waiting, err := pool.Exec(ctx, seedPendingSQL)
	if err != nil {
		return 0, 0, fmt.Errorf("the application's pending jobs: %w", err)
	}
	return int(tag.RowsAffected()), int(waiting.RowsAffected()), nil
}
