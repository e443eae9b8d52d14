package migrations

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

// TestMain lets the test program be the process that is killed.
func TestMain(m *testing.M) {
	if url := os.Getenv("MIGRATIONS_TEST_APPLY"); url != "" {
		os.Exit(applyAndTell(url))
	}
	os.Exit(m.Run())
}

// applyAndTell migrates and prints every report.
func applyAndTell(url string) int {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := json.NewEncoder(os.Stdout)
	if _, err := Apply(ctx, conn, Options{Progress: func(p Progress) { out.Encode(p) }}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killedAt runs a migration in a process of its own and kills it (-9) as soon
// as it is at work on the step; done tells that there was nothing to kill.
func killedAt(t *testing.T, url string, step string) (done bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MIGRATIONS_TEST_APPLY="+url)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var p Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		if p.State == Running && p.Migration+": "+p.Step+fmt.Sprint(p.Index) == step {
			cmd.Process.Kill()
		}
	}
	return cmd.Wait() == nil
}

func TestKilledAtEveryStepItIsFinishedByTheNextRun(t *testing.T) {
	for _, start := range []struct{ name, schema string }{
		{"early http only", appschema.HTTPOnlyEarly}, // the longer way of the two
	} {
		t.Run(start.name, func(t *testing.T) {
			url := devdbtest.New(t, template(start.name, start.schema))
			before := asItWas(t, url)
			var versions []int
			for _, m := range List() {
				versions = append(versions, m.Version)
			}
			kills, ends := 0, Interrupted
			for _, s := range sequence(versions, false) {
				// What the killed one did not finish, the next one does on its way
				// to its own end.
				if ends = Finished; !killedAt(t, url, s.m.String()+": "+s.step.Name+fmt.Sprint(s.index)) {
					kills++
					ends = Interrupted
				}
			}
			conn := connect(t, url)
			// The server notices within a second. The last step may have been quicker
			// than the kill.
			for s := (Status{State: AtWork}); s.State != ends; {
				var err error
				if s, err = Look(t.Context(), conn); err != nil || s.State != AtWork && s.State != ends {
					t.Fatalf("status %+v, %v", s, err)
				}
			}
			apply(t, url, Options{})
			migrated(t, url)
			if n := value[int](t, conn, "SELECT count(*)::int FROM jobs.tb_job_run WHERE duration_seconds IS NOT NULL"); n != 30 {
				t.Errorf("%d of 30 old rows have their duration", n)
			}
			if kills < len(versions)*5 {
				t.Errorf("only %d runs were killed", kills)
			}
			if _, err := Down(t.Context(), conn, Options{}); err != nil {
				t.Fatal(err)
			}
			same(t, "after Down", asItWas(t, url), before)
		})
	}
}
