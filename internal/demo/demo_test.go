package demo

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/runners/docker"
	"github.com/specql/specql-ops/runners/docker/waiter"
	"github.com/specql/specql-ops/runners/shell"
)

func TestMain(m *testing.M) {
	FunctionMain()
	shell.ShimMain() // the demo's agent starts shell jobs by this program
	waiter.Main()
	os.Exit(m.Run())
}

func TestHeadlessDemoLosesNothingAndReportsEveryType(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	tmp := ownTemp(t)
	result, err := Run(ctx, Options{Headless: true, Duration: 3 * time.Second, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if result.Lost != 0 {
		t.Errorf("%d jobs were lost", result.Lost)
	}
	if result.Types["http"].Completed < 250 { // those that waited before the migration alone
		t.Errorf("http: %+v", result.Types["http"])
	}
	if result.Types["shell"].Completed == 0 || result.Types["shell"].P50 <= 0 {
		t.Errorf("shell: %+v", result.Types["shell"])
	}
	if docker.Examine(ctx)[0].OK && (result.Types["docker"].Completed == 0 || result.Types["docker"].Failed > 0 || result.Types["docker"].P50 <= 0) {
		t.Errorf("docker: %+v", result.Types["docker"])
	}
	if s := result.Types["serverless"]; s.Completed == 0 || s.Failed > 0 || s.P50 <= 0 {
		t.Errorf("serverless: %+v", s)
	}
	if len(result.Migration.Applied) == 0 || result.Migration.Seconds <= 0 {
		t.Errorf("migration: %+v", result.Migration)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	var shape struct {
		Types map[string]map[string]float64
		Lost  *int
	}
	if err := json.Unmarshal(raw, &shape); err != nil || shape.Lost == nil || len(shape.Types["http"]) != 4 {
		t.Errorf("the report's JSON: %s, %v", raw, err)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "specql-demo-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// ownTemp makes a directory for temporary files that no other demo uses. It has a
// short name, for the paths of sockets, and is open to PostgreSQL's user.
func ownTemp(t *testing.T) string {
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

// The queries of the guide's section on new metrics, word for word.
const (
	guidePerformance = `
-- Performance by execution type
SELECT
    execution_type,
    avg(duration_seconds) as avg_duration,
    count(*) as total_jobs,
    count(*) filter (where status = 'completed')::float / count(*) as success_rate
FROM jobs.tb_job_run
WHERE created_at > now() - interval '1 hour'
GROUP BY execution_type;`

	guideResources = `
-- Resource usage tracking
SELECT
    execution_type,
    avg((resource_usage->>'cpu_usage_percent')::numeric) as avg_cpu,
    avg((resource_usage->>'memory_mb')::numeric) as avg_memory
FROM jobs.tb_job_run
WHERE resource_usage IS NOT NULL
GROUP BY execution_type;`
)

func TestGuidesMonitoringQueriesGiveSensibleNumbersAfterTheDemo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	_, err := Run(ctx, Options{Log: t.Output(), Console: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		type performance struct {
			duration, success float64
			total             int
		}
		// The query counts waiting jobs too, so the rate rises as they are done.
		seen := map[string]performance{}
		for seen["shell"].success <= 0.5 || seen["http"].success <= 0.5 || seen["shell"].total < 5 {
			rows, err := conn.Query(ctx, guidePerformance)
			if err != nil {
				return err
			}
			var typ string
			var p performance
			var duration *float64
			if _, err := pgx.ForEachRow(rows, []any{&typ, &duration, &p.total, &p.success}, func() error {
				if duration != nil {
					p.duration = *duration
				}
				seen[typ] = p
				return nil
			}); err != nil {
				return err
			}
		}
		for _, typ := range []string{"http", "shell"} {
			if p := seen[typ]; p.duration <= 0 || p.duration > 5 || p.success > 1 {
				t.Errorf("performance of %s: %+v", typ, p)
			}
		}
		var typ string
		var cpu, memory *float64
		used := map[string]bool{}
		rows, err := conn.Query(ctx, guideResources)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&typ, &cpu, &memory}, func() error {
			used[typ] = true
			if typ == "shell" && (cpu == nil || *cpu <= 0 || *cpu > 400 || memory == nil || *memory <= 0 || *memory > 256) {
				t.Errorf("resources of shell: cpu %v, memory %v", cpu, memory)
			}
			return nil
		})
		if !used["shell"] || !used["http"] {
			t.Errorf("resource usage of: %v", used)
		}
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
}
