package migrations

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/internal/devdb/devdbtest"
)

var update = flag.Bool("update", false, "write expected.json")

func TestExpectedCatalogIsThatOfAFreshDatabase(t *testing.T) {
	application := map[key]bool{}
	for _, o := range objects(t, devdbtest.New(t, template("application", appschema.HTTPOnly))) {
		application[o.key()] = true
	}
	url := devdbtest.New(t, devdbtest.Template{})
	conn := connect(t, url)
	since := map[key]int{}
	for _, m := range List() {
		for _, step := range m.Steps {
			if _, err := conn.PgConn().Exec(t.Context(), step.SQL).ReadAll(); err != nil {
				t.Fatalf("%s, %s: %v", m, step.Name, err)
			}
		}
		for _, o := range objects(t, url) {
			if since[o.key()] == 0 {
				since[o.key()] = m.Version
			}
		}
	}
	var all []expectation
	for _, o := range objects(t, url) {
		all = append(all, expectation{object: o, Migration: since[o.key()], Application: application[o.key()]})
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("expected.json", text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(text.Bytes(), expectedJSON) {
		for _, w := range all {
			if !slices.Contains(expected(), w) {
				t.Errorf("expected.json lacks or differs in %s %s: %s", w.Kind, w.Name, w.Definition)
			}
		}
		t.Error("expected.json is out of date: run go generate ./migrations")
	}
}

func TestValidateTellsMissingDifferentAndInvalid(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	for _, sql := range []string{
		"DROP VIEW jobs.v_runner_failure_patterns",
		"DROP INDEX jobs.idx_tb_job_run_lane",
		"ALTER TABLE jobs.tb_job_run ALTER execution_type SET DEFAULT 'shell'",
		"ALTER TABLE jobs.tb_job_run DISABLE TRIGGER tr_tb_job_run_cancel",
		"ALTER TABLE jobs.tb_job_run DROP CONSTRAINT tb_job_run_execution_type_check",
		"ALTER TABLE jobs.tb_job_run ADD CONSTRAINT tb_job_run_execution_type_check CHECK (execution_type IN ('http', 'shell', 'docker', 'serverless')) NOT VALID",
		"CREATE OR REPLACE FUNCTION jobs.wake_agents() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
		"ALTER TABLE jobs.tb_audit DROP COLUMN reason",
		"ALTER TABLE jobs.tb_job_run RENAME CONSTRAINT tb_job_run_status_check TO status_is_known", // the application's affair
		"CREATE OR REPLACE FUNCTION jobs.fail_job(job_id uuid, error_text text) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'",
	} {
		run1(t, conn, sql)
	}
	report, err := Validate(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]State{
		"jobs.v_runner_failure_patterns":                  Missing,
		"jobs.idx_tb_job_run_lane":                        Missing,
		"jobs.tb_job_run.execution_type":                  Different,
		"jobs.tb_job_run.tr_tb_job_run_cancel":            Invalid,
		"jobs.tb_job_run.tb_job_run_execution_type_check": Invalid,
		"jobs.wake_agents()":                              Different,
		"jobs.tb_audit.reason":                            Missing,
	}
	for _, f := range report.Faults() {
		if want[f.Name] != f.State {
			t.Errorf("%s %s is %s, want %q (want %q, have %q)", f.Kind, f.Name, f.State, want[f.Name], f.Want, f.Have)
		}
		delete(want, f.Name)
	}
	for name, state := range want {
		t.Errorf("%s was not found %s", name, state)
	}
	if report.OK() || report.Count(OK)+report.Count(Extra)+len(report.Faults()) != len(report.Findings) {
		t.Error("the report's sums do not add up")
	}
}

func TestValidateOfAnEmptyDatabaseFindsAllMissing(t *testing.T) {
	report, err := Validate(t.Context(), connect(t, devdbtest.New(t, devdbtest.Template{})))
	if err != nil {
		t.Fatal(err)
	}
	if n := report.Count(Missing); n == 0 || n != len(report.Findings) {
		t.Errorf("%d of %d missing", n, len(report.Findings))
	}
}

func TestValidateTellsWhatIsExtraAndWhichRowsBreakTheContract(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	run1(t, conn, "CREATE TABLE jobs.tb_of_mine (a integer)")
	report, err := Validate(t.Context(), conn)
	if err != nil || !report.OK() {
		t.Fatalf("extra objects are a fault: %+v, %v", report.Faults(), err)
	}
	extra := map[string]bool{}
	for _, f := range report.Findings {
		if f.State == Extra {
			extra[f.Name] = true
		}
	}
	if len(extra) != 2 || !extra["jobs.tb_of_mine"] || !extra["jobs.tb_of_mine.a"] {
		t.Errorf("extra: %v", extra)
	}
	for _, sql := range []string{
		"ALTER TABLE jobs.tb_job_run DROP CONSTRAINT tb_job_run_execution_type_check",
		"INSERT INTO jobs.tb_job_run (identifier, service_name, operation, execution_type) VALUES ('magic', 'a', 'b', 'magic')",
		"UPDATE jobs.tb_job_run SET duration_seconds = NULL WHERE identifier = 'old-5'",
		"UPDATE jobs.tb_job_run SET duration_seconds = -1 WHERE identifier = 'old-10'",
		"INSERT INTO jobs.tb_job_run (identifier, service_name, operation) VALUES ('nameless', '', 'b')",
		`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, resource_usage) VALUES ('text', 'a', 'b', '{"memory_mb": "12"}')`,
		`INSERT INTO jobs.tb_job_run (identifier, service_name, operation, runner_config) VALUES ('list', 'a', 'b', '[]')`,
		"INSERT INTO jobs.tb_job_run (identifier, service_name, operation, status) VALUES ('ghost', 'a', 'b', 'running')",
	} {
		run1(t, conn, sql)
	}
	if report, err = Validate(t.Context(), conn); err != nil || report.OK() {
		t.Fatalf("%+v, %v", report, err)
	}
	var examples []string
	for _, r := range report.Rows {
		if r.Rows != 1 {
			t.Errorf("%d rows: %s", r.Rows, r.Rule)
		}
		examples = append(examples, r.Example)
	}
	if got, want := strings.Join(examples, " "), "magic old-5 old-10 nameless text list ghost"; got != want {
		t.Errorf("broken: %s, want %s", got, want)
	}
}
