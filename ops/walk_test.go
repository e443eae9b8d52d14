//go:build unix

package ops

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// guideItems are the items of the guide's checklists and success metrics.
var guideItems = []string{
	"Schema migration completed", "Service registry validates successfully", "Existing jobs still process correctly", "No application code changes required",
	"All services migrated or have migration plan", "Zero breaking changes to existing functionality", "All tests passing", "Performance meets or exceeds baseline",
	"Monitoring and alerting configured", "Rollback procedures documented and tested", "Support team trained on new execution types", "Incident response plans updated",
	"New execution types delivering value", "Development velocity improved", "Operational costs optimized", "System reliability maintained",
	"Infrastructure preparation completed", "Schema migration successful", "Service registry enhanced", "New execution types tested",
	"Rollback procedures ready", "Team trained and documentation updated", "Success metrics defined and tracked",
}

func walk(t *testing.T, db *pgxpool.Pool) Walk {
	t.Helper()
	w, err := GetWalk(t.Context(), db, "1")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func wantState(t *testing.T, w Walk, id string, want StepState) {
	t.Helper()
	s, ok := w.Find(id)
	if !ok || s.State != want {
		t.Errorf("%s is %q, want %s: %+v", id, s.State, want, s)
	}
}

func httpOnly(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return connect(t, devdbtest.New(t, devdbtest.Template{Name: "walk-http-only", Content: appschema.HTTPOnly, Build: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.PgConn().Exec(ctx, appschema.HTTPOnly).ReadAll()
		return err
	}}))
}

// died adds jobs whose last attempt has failed.
func died(t *testing.T, db *pgxpool.Pool, service string, typ jobs.ExecutionType, n int) {
	t.Helper()
	exec(t, db, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type, status, attempts, max_attempts, started_at, completed_at)
		SELECT gen_random_uuid()::text, $1, 'op', $2, 'failed', 3, 3, now(), now() FROM generate_series(1, $3)`, service, typ, n)
}

func TestEveryItemOfTheGuidesChecklistsIsAStep(t *testing.T) {
	var found []string
	for _, p := range walk(t, httpOnly(t)).Phases {
		for _, s := range p.Steps {
			found = append(found, s.Guide...)
		}
	}
	for _, item := range guideItems {
		if !slices.Contains(found, item) {
			t.Errorf("no step answers %q", item)
		}
	}
}

func TestAnUntouchedDatabaseWaitsForItsSchemaMigrationAndNothingElseCanBeDone(t *testing.T) {
	db := httpOnly(t)
	w := walk(t, db)
	for id, want := range map[string]StepState{"console": StepDone, "permissions": StepDone, "schema": StepNext, "agents": StepBlocked, "services-known": StepBlocked,
		"enabled:shell": StepBlocked, "team": StepBlocked} {
		wantState(t, w, id, want)
	}
	if _, err := RunMigration(t.Context(), db, jobs.By{Actor: "anna"}, MigrationOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	w = walk(t, db)
	for id, want := range map[string]StepState{"schema": StepDone, "schema-valid": StepDone, "no-application-change": StepDone, "agents": StepNext, "team": StepNext,
		"registry-valid": StepBlocked, "jobs-process": StepBlocked} {
		wantState(t, w, id, want)
	}
	exec(t, db, `DROP VIEW jobs.v_execution_performance_by_type`)
	wantState(t, walk(t, db), "schema-valid", StepFailed) // it goes back when the evidence does
}

const walkRegistry = `services:
  - name: pay
    type: t
    category: c
    execution_type: http
    runner_config: { base_url: "https://api.example.com", timeout: 30, auth_type: bearer, auth_config: { token_env_var: PAY_TOKEN } }
    security_policy: { allowed_domains: [api.example.com] }
    operations: [{ name: op, input_schema: { a: integer }, output_schema: { b: string } }]
  - name: script
    type: t
    category: c
    execution_type: shell
    runner_config: { working_directory: /tmp, timeout: 5, base_url: "https://api.example.com/script" }
    security_policy: { allowed_commands: [/bin/true], resource_limits: { memory_mb: 64 } }
    operations: [{ name: op, input_schema: { a: integer }, output_schema: { b: string } }]
  - name: bare
    type: t
    category: c
    operations: [{ name: op }]
`

// running is a migrated database with one agent that has walkRegistry.
func running(t *testing.T) (db *pgxpool.Pool, agent jobs.ID) {
	t.Helper()
	db = open(t)
	agent = addAgent(t, db, "worker", 10, time.Hour, jobs.HTTP, jobs.Shell)
	hash := registry.Sketch("r.yaml", []byte(walkRegistry), "").Hash
	exec(t, db, `UPDATE jobs.tb_agent SET registry_hash = $1, variables = '{"PAY_TOKEN": true}'`, hash)
	conn, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	lanes := []jobs.LaneSettings{{Service: "pay", Type: jobs.HTTP}, {Service: "script", Type: jobs.Shell, Fallback: true}, {Service: "bare", Type: jobs.HTTP}}
	if err := jobs.PublishLanes(t.Context(), conn.Conn(), hash, lanes); err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.KeepVersion(t.Context(), conn, jobs.RegistryVersion{Hash: hash, File: "r.yaml", Document: walkRegistry, Services: 3, Agent: "worker", Host: "host"},
		jobs.By{}, func(string, string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	return db, agent
}

func ended(t *testing.T, db *pgxpool.Pool, service string, typ jobs.ExecutionType, completed, failed int64, each time.Duration) {
	t.Helper()
	m := jobs.Metric{Minute: time.Now().Truncate(time.Minute), Type: typ, Service: service, Operation: "op", Completed: completed, Failed: failed}
	for range completed + failed {
		m.Duration.Add(each)
	}
	addMetric(t, db, m)
}

func TestTheWalkFollowsItsEvidenceForthAndBack(t *testing.T) {
	db, agent := running(t)
	w := walk(t, db)
	for id, want := range map[string]StepState{"agents": StepDone, "registry-valid": StepDone, "jobs-process": StepNext, "service:pay": StepDone, "service:script": StepDone,
		"service:bare": StepNext, "ready:shell": StepDone, "enabled:shell": StepDone, "canary:shell": StepNext, "ready:docker": StepWaived, "hundred:docker": StepBlocked} {
		if id == "hundred:docker" {
			want = StepWaived // nothing here needs it
		}
		wantState(t, w, id, want)
	}
	bare, _ := w.Find("service:bare")
	if text := bare.Evidence[len(bare.Evidence)-1]; text.Text != "r.yaml:16" || !strings.Contains(text.Lines[0], "name: bare") {
		t.Errorf("the source line: %+v", text)
	}
	ended(t, db, "pay", jobs.HTTP, 50, 0, 20*time.Millisecond)
	ended(t, db, "script", jobs.Shell, 99, 40, 20*time.Millisecond) // failed attempts; what counts is how jobs end
	died(t, db, "script", jobs.Shell, 1)
	w = walk(t, db)
	for id, want := range map[string]StepState{"jobs-process": StepDone, "canary:shell": StepDone, "hundred:shell": StepDone, "types-tested": StepDone} {
		wantState(t, w, id, want)
	}
	// And back.
	died(t, db, "script", jobs.Shell, 20)
	exec(t, db, `UPDATE jobs.tb_agent SET variables = '{}', cannot = '{"script": "no landlock here"}' WHERE id = $1`, agent)
	w = walk(t, db)
	for id, want := range map[string]StepState{"service:pay": StepFailed, "ready:shell": StepFailed, "hundred:shell": StepBlocked, "types-tested": StepBlocked} {
		wantState(t, w, id, want)
	}
	exec(t, db, `UPDATE jobs.tb_agent SET cannot = '{}'`)
	wantState(t, walk(t, db), "hundred:shell", StepFailed)
	exec(t, db, `UPDATE jobs.tb_agent SET lease_expires_at = now() - interval '1 second'`)
	w = walk(t, db)
	wantState(t, w, "agents", StepNext)
	wantState(t, w, "service:pay", StepBlocked)
}

func TestJobsThatDoWorseThanBeforeTheMigrationFailTheStep(t *testing.T) {
	db, _ := running(t)
	exec(t, db, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status, started_at, completed_at)
		SELECT 'old-' || i, 'pay', 'op', 'completed', s.at - interval '10 minutes' - interval '20 ms', s.at - interval '10 minutes'
		  FROM generate_series(1, 100) i, (SELECT applied_at AS at FROM jobs.tb_schema_version WHERE version = 1) s`)
	ended(t, db, "pay", jobs.HTTP, 100, 0, 25*time.Millisecond)
	wantState(t, walk(t, db), "jobs-process", StepDone)
	exec(t, db, `DELETE FROM jobs.tb_job_run`) // what was measured once is kept
	ended(t, db, "pay", jobs.HTTP, 0, 10, 25*time.Millisecond)
	wantState(t, walk(t, db), "jobs-process", StepDone) // they are tried again
	died(t, db, "pay", jobs.HTTP, 10)
	w := walk(t, db)
	wantState(t, w, "jobs-process", StepFailed)
	wantState(t, w, "no-breaking-change", StepBlocked)
	if s, _ := w.Find("jobs-process"); !strings.Contains(s.Evidence[1].Text, "in the hour before the migration 100.0 %") {
		t.Errorf("%+v", s.Evidence)
	}
}

func TestPeopleSignWhatNoProgramCanCheckAndWaiveTheRest(t *testing.T) {
	db, _ := running(t)
	by := jobs.By{Actor: "anna", Origin: "test"}
	w := walk(t, db)
	for _, bad := range []struct {
		id, name, note string
		waive          bool
		want           string
	}{{"schema", "anna", "did it", false, "checked by program"}, {"nowhere", "anna", "x", false, "there is no step"}, {"team", "anna", " ", false, "a note"}, {"team", "", "x", true, "a name"}} {
		if err := SignStep(t.Context(), db, w, bad.id, bad.waive, bad.name, bad.note, by); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for id, waive := range map[string]bool{"team": false, "service:bare": true} {
		if err := SignStep(t.Context(), db, w, id, waive, "Anna", "trained on Monday", by); err != nil {
			t.Fatal(err)
		}
	}
	other := connect(t, db.Config().ConnString()) // another console
	w = walk(t, other)
	wantState(t, w, "team", StepDone)
	wantState(t, w, "service:bare", StepWaived)
	if s, _ := w.Find("team"); s.Signed == nil || s.Signed.Note != "trained on Monday" || s.Signed.Name != "Anna" {
		t.Errorf("%+v", s.Signed)
	}
	if changed, err := UnsignStep(t.Context(), db, "team", by); err != nil || !changed {
		t.Error(changed, err)
	}
	wantState(t, walk(t, db), "team", StepNext)
	if got := one[string](t, db, `SELECT string_agg(action, ' ' ORDER BY action) FROM jobs.tb_audit WHERE actor = 'anna'`); got !=
		"migration-step-signed migration-step-unsigned migration-step-waived" {
		t.Error(got)
	}
}

func TestPhaseFourIsDoneByFallbackAndRehearsal(t *testing.T) {
	db, _ := running(t)
	ended(t, db, "pay", jobs.HTTP, 50, 0, 20*time.Millisecond)
	by := jobs.By{Actor: "anna"}
	w := walk(t, db)
	wantState(t, w, "fallback", StepNext)
	wantState(t, w, "rollback", StepNext)
	for _, change := range []jobs.LaneChange{jobs.FallBack, jobs.NoFallback} {
		if _, err := SwitchServices(t.Context(), db, []string{"script"}, change, by); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := RollBack(t.Context(), db, RollbackOptions{By: by}); err != nil {
		t.Fatal(err)
	}
	w = walk(t, db)
	wantState(t, w, "fallback", StepDone)
	wantState(t, w, "rollback", StepNext)
	wantState(t, w, "enabled:shell", StepNext)
	if _, err := UndoRollback(t.Context(), db, by, nil); err != nil {
		t.Fatal(err)
	}
	w = walk(t, db)
	wantState(t, w, "rollback", StepDone)
	wantState(t, w, "enabled:shell", StepDone)
}

func TestVariablesOfTheAgentsAreNoFaultsOfAStoredRegistry(t *testing.T) {
	const document = `services:
  - name: payments
    type: payment
    category: financial
    execution_type: http
    runner_config: { base_url: "${SHOP}", timeout: "${SECONDS}", auth_type: bearer, auth_config: { token_env_var: TOKEN } }
    operations: [{ name: charge, input_schema: { amount: integer }, output_schema: { id: string } }]
  - name: reports
    type: script
    category: automation
    execution_type: shell
    runner_config: { working_directory: "${SCRIPTS}", base_url: "${SHOP}", environment: { KEY: "${file:/run/secrets/key}" } }
    security_policy: { allowed_commands: ["/usr/bin/true"], resource_limits: { cpu_cores: 1, memory_mb: 64, timeout_seconds: "${SECONDS}" } }
    operations: [{ name: summary, command: [%s], input_schema: { day: integer }, output_schema: { rows: integer } }]
`
	if faults := storedFaults("registry.yaml", fmt.Appendf(nil, document, "/usr/bin/true"), ""); len(faults) > 0 {
		t.Errorf("faults of a good registry: %v", faults)
	}
	if faults := storedFaults("registry.yaml", fmt.Appendf(nil, document, "/usr/bin/false"), ""); len(faults) != 1 || faults[0].Code != registry.CodeNotAllowed {
		t.Errorf("faults of a program that is not allowed: %v", faults)
	}
}
