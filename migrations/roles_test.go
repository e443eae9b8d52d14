package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// as opens the database as a fresh login that is a member of the role.
func as(t *testing.T, url string, role string) *pgx.Conn {
	t.Helper()
	admin := connect(t, url)
	config := admin.Config()
	login := "login_" + config.Database[len(config.Database)-12:] + "_" + role[len(role)-4:]
	run1(t, admin, "CREATE ROLE "+login+" LOGIN IN ROLE "+role)
	t.Cleanup(func() { dropRole(t, url, login) })
	config.User = login
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// dropRole takes a login's privileges in this database with it.
func dropRole(t *testing.T, url, login string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), "DROP OWNED BY "+login+"; DROP ROLE "+login, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Error(err)
	}
}

func withRoles(t *testing.T) string {
	t.Helper()
	url := httpOnly(t)
	apply(t, url, Options{})
	for range 2 { // again at any time
		if err := CreateRoles(t.Context(), connect(t, url)); err != nil {
			t.Fatal(err)
		}
	}
	return url
}

func TestEveryTableSaysWhatAnAgentMayDoWithIt(t *testing.T) {
	notForAgents := []string{"jobs.tb_migration_run", "jobs.tb_schema_added", "jobs.tb_schema_fill",
		"jobs.tb_migration_step", "jobs.tb_rollback", "jobs.tb_rollback_job", "jobs.tb_rollout"}
	var known []string
	for _, r := range rights[AgentRole] {
		known = append(known, "jobs."+r.table)
	}
	for _, w := range expected() {
		if w.Kind == "table" && !slices.Contains(known, w.Name) && !slices.Contains(notForAgents, w.Name) {
			t.Errorf("rights in roles.go do not say what an agent may do with %s (a table that it may not touch is named in this test)", w.Name)
		}
	}
}

func TestEachLoginCanServeAsItsRoleAndNoOther(t *testing.T) {
	url := withRoles(t)
	for _, r := range Roles {
		p, err := CheckPermissions(t.Context(), as(t, url, r.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, named := range p.Roles {
			for _, i := range named.Lacking() {
				t.Errorf("%s lacks %s on %s", named.Subject, i.Privilege, i.Object)
			}
		}
		want := []Role{r}
		if r == OperatorRole {
			want = []Role{OperatorRole, ViewerRole}
		}
		if !slices.Equal(p.Serves(), want) {
			t.Errorf("a login of %s serves as %v, want %v", r.Name(), p.Serves(), want)
		}
	}
}

func TestEachMissingPrivilegeIsNamedWithAGrantThatMendsIt(t *testing.T) {
	url := withRoles(t)
	admin := connect(t, url)
	login := "bare_" + admin.Config().Database[len(admin.Config().Database)-12:]
	run1(t, admin, "CREATE ROLE "+login+" LOGIN")
	t.Cleanup(func() { dropRole(t, url, login) })
	config := admin.Config()
	config.User = login
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, r := range Roles {
		p, err := CheckPermissions(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		report := p.Connection[slices.Index(Roles, r)]
		if report.OK() {
			if r != ViewerRole { // an operator is one
				t.Errorf("a login without privileges serves as %s", r)
			}
			continue
		}
		for _, i := range report.Lacking() {
			run1(t, admin, i.Grant)
		}
		if p, err = CheckPermissions(t.Context(), conn); err != nil || !slices.Contains(p.Serves(), r) {
			t.Errorf("with the grants it serves as %v, %v", p.Serves(), err)
		}
	}
}

func TestAnythingMoreIsRefusedByTheDatabase(t *testing.T) {
	url := withRoles(t)
	run1(t, connect(t, url), `INSERT INTO jobs.tb_audit (actor, origin, action, target) VALUES ('a', 'b', 'c', 'd')`)
	for role, refused := range map[Role][]string{
		AgentRole: {
			"INSERT INTO jobs.tb_job_run (identifier, service_name, operation) VALUES ('x', 'y', 'z')",
			"UPDATE jobs.tb_job_run SET input_data = '{}'", "UPDATE jobs.tb_job_run SET service_name = 'x'",
			"UPDATE jobs.tb_execution_type SET enabled = true", "SELECT * FROM jobs.tb_audit", "DELETE FROM jobs.tb_audit",
			"UPDATE jobs.tb_registry_version SET document = ''", "TRUNCATE jobs.tb_job_run", "DROP TABLE jobs.tb_upkeep",
			"CREATE TABLE jobs.mine (a int)", "ALTER TABLE jobs.tb_job_run ADD COLUMN x int", "SELECT pg_read_file('/etc/passwd')",
		},
		OperatorRole: {
			"DELETE FROM jobs.tb_job_run", "UPDATE jobs.tb_job_run SET output_data = '{}'", "UPDATE jobs.tb_job_run SET runner_config = '{}'",
			"UPDATE jobs.tb_job_run SET attempts = 0", "UPDATE jobs.tb_audit SET actor = 'me'", "DELETE FROM jobs.tb_audit",
			"UPDATE jobs.tb_agent SET lease_expires_at = now()", "DELETE FROM jobs.tb_agent", "UPDATE jobs.tb_lane SET rate_limit_per_minute = 0",
			"INSERT INTO jobs.tb_job_metric (minute) VALUES (now())", "DROP VIEW jobs.v_lane", "CREATE VIEW jobs.mine AS SELECT 1",
		},
		ViewerRole: {
			"INSERT INTO jobs.tb_job_run (identifier, service_name, operation) VALUES ('x', 'y', 'z')",
			"UPDATE jobs.tb_job_run SET status = 'cancelled'", "UPDATE jobs.tb_execution_type SET enabled = false",
			"SELECT id FROM jobs.tb_job_run LIMIT 1 FOR UPDATE", "DELETE FROM jobs.tb_job_run", "UPDATE jobs.tb_agent SET wanted = 'paused'",
			"INSERT INTO jobs.tb_audit (actor, origin, action, target) VALUES ('a', 'b', 'c', 'd')", "TRUNCATE jobs.tb_audit",
		},
	} {
		conn := as(t, url, role.Name())
		for _, sql := range refused {
			_, err := conn.Exec(t.Context(), sql)
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "42501" {
				t.Errorf("%s may do %s: %v", role, sql, err)
			}
		}
	}
}

func TestWhatARoleHadBeyondIsTakenFromIt(t *testing.T) {
	url := withRoles(t)
	conn := connect(t, url)
	run1(t, conn, "GRANT DELETE ON jobs.tb_audit TO specql_viewer; GRANT UPDATE (id) ON jobs.tb_job_run TO specql_viewer; GRANT CREATE ON SCHEMA jobs TO specql_viewer")
	if err := CreateRoles(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	left := value[string](t, conn, `SELECT concat_ws(', ',
		CASE WHEN has_table_privilege('specql_viewer', 'jobs.tb_audit', 'DELETE') THEN 'DELETE' END,
		CASE WHEN has_column_privilege('specql_viewer', 'jobs.tb_job_run', 'id', 'UPDATE') THEN 'UPDATE' END,
		CASE WHEN has_schema_privilege('specql_viewer', 'jobs', 'CREATE') THEN 'CREATE' END)`)
	if left != "" {
		t.Errorf("it still has %s", left)
	}
}

func TestCreateRolesNeedsAMigratedDatabaseAndTheRightToMakeRoles(t *testing.T) {
	url := httpOnly(t)
	if err := CreateRoles(t.Context(), connect(t, url)); err == nil || !strings.Contains(err.Error(), "migrate-schema first") {
		t.Errorf("without a migration: %v", err)
	}
}

func TestRolesSQLIsWhatPsqlTakes(t *testing.T) {
	url := httpOnly(t)
	apply(t, url, Options{})
	conn := connect(t, url)
	if _, err := conn.PgConn().Exec(t.Context(), RolesSQL()).ReadAll(); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, conn, fmt.Sprintf("SELECT count(*)::int FROM pg_roles WHERE rolname IN ('%s', '%s', '%s')",
		AgentRole.Name(), OperatorRole.Name(), ViewerRole.Name())); n != 3 {
		t.Errorf("%d roles", n)
	}
}
