package migrations

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// Role is what a login to the database is for. Each is a role without a login
// of its own, which people and programs are made members of.
type Role string

// The roles, in the order of what they may.
const (
	AgentRole    Role = "agent"
	OperatorRole Role = "operator"
	ViewerRole   Role = "viewer"
)

// Roles are all of them.
var Roles = []Role{AgentRole, OperatorRole, ViewerRole}

// Name is the role's name in the database.
func (r Role) Name() string { return "specql_" + string(r) }

// statsRole lets an operator see whom a migration waits for, and how far
// another session's index build is.
const statsRole = "pg_read_all_stats"

// right is what a role may do with one table. Columns bound the UPDATE; empty:
// all of them.
type right struct {
	table   string
	verbs   string // separated by blanks
	columns string // of UPDATE
}

// rights are what the roles may beyond reading, which operators and viewers
// may in every table and view. A new table's rights have to be said here.
var rights = map[Role][]right{
	AgentRole: {
		// It claims, finishes, takes over, and deletes what is aged; it can
		// neither enqueue nor change what an application asked for.
		{"tb_job_run", "SELECT UPDATE DELETE", "status agent_id execution_type attempts max_attempts started_at completed_at retry_at " +
			"requeued_at updated_at output_data error_message resource_usage security_context duration_seconds"},
		{"tb_job_attempt", "SELECT INSERT", ""},
		{"tb_job_log", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_job_metric", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_agent", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_execution_type", "SELECT", ""},
		{"tb_lane", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_lane_spent", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_lane_cost", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_lane_reserved", "SELECT INSERT UPDATE DELETE", ""},
		{"tb_registry_version", "SELECT INSERT", ""},
		{"tb_upkeep", "SELECT INSERT UPDATE", ""},
		{"tb_audit", "INSERT", ""},
		{"tb_schema_version", "SELECT", ""},
	},
	OperatorRole: {
		// It cancels, retries and enqueues; what ran and what came of it, it
		// cannot change, and the audit log only grows.
		{"tb_job_run", "INSERT UPDATE", "status max_attempts started_at completed_at retry_at requeued_at updated_at"},
		{"tb_execution_type", "UPDATE", "enabled reason changed_by changed_at stopped_at stopped_by stop_reason"},
		{"tb_lane", "UPDATE", "enabled runs_as switch_reason switched_by switched_at updated_at"},
		{"tb_agent", "UPDATE", "wanted reload_asked_at"},
		{"tb_rollback", "INSERT UPDATE", ""},
		{"tb_rollback_job", "INSERT DELETE", ""},
		{"tb_rollout", "INSERT UPDATE", ""},
		{"tb_migration_step", "INSERT UPDATE DELETE", ""},
		{"tb_audit", "INSERT", ""},
	},
	ViewerRole: {},
}

// PrivilegeItem is one thing that a role needs.
type PrivilegeItem struct {
	Object    string   `json:"object"`    // "jobs.tb_agent", "schema jobs"
	Privilege string   `json:"privilege"` // "SELECT", "UPDATE"
	Columns   []string `json:"columns,omitempty"`
}

// Grant is the statement that gives it.
func (p PrivilegeItem) Grant(to string) string {
	if p.Privilege == "MEMBER" {
		return fmt.Sprintf("GRANT %s TO %s;", p.Object, quote(to))
	}
	columns := ""
	if len(p.Columns) > 0 {
		columns = " (" + strings.Join(p.Columns, ", ") + ")"
	}
	on := p.Object
	if on == "schema jobs" {
		on = "SCHEMA jobs"
	}
	return fmt.Sprintf("GRANT %s%s ON %s TO %s;", p.Privilege, columns, on, quote(to))
}

// Needs are what a role needs, in a fixed order.
func (r Role) Needs() []PrivilegeItem {
	all := []PrivilegeItem{{Object: "schema jobs", Privilege: "USAGE"}}
	if r != AgentRole {
		for _, w := range expected() {
			if w.Kind == "table" || w.Kind == "view" {
				all = append(all, PrivilegeItem{Object: w.Name, Privilege: "SELECT"})
			}
		}
	}
	for _, one := range rights[r] {
		for verb := range strings.FieldsSeq(one.verbs) {
			item := PrivilegeItem{Object: "jobs." + one.table, Privilege: verb}
			if verb == "UPDATE" {
				item.Columns = strings.Fields(one.columns)
			}
			all = append(all, item)
		}
	}
	if r == AgentRole { // why jobs are held
		for _, w := range expected() {
			if w.Kind == "view" && !w.Application && w.Migration > 1 {
				all = append(all, PrivilegeItem{Object: w.Name, Privilege: "SELECT"})
			}
		}
	}
	if r == OperatorRole {
		all = append(all, PrivilegeItem{Object: statsRole, Privilege: "MEMBER"})
	}
	return all
}

// RolesSQL is what CreateRoles runs: it makes the roles where they are missing
// and gives each exactly what it needs, taking what else it had in schema jobs.
func RolesSQL() string {
	var b strings.Builder
	b.WriteString("-- The roles of agents, operators and viewers. They have no login: make one a member of\n" +
		"-- them, such as CREATE ROLE worker LOGIN PASSWORD '...' IN ROLE specql_agent;\n\n")
	for _, s := range roleSteps() {
		b.WriteString(s + "\n")
	}
	return b.String()
}

func roleSteps() []string {
	var all []string
	for _, r := range Roles {
		name := r.Name()
		all = append(all, fmt.Sprintf(`DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '%[1]s') THEN
        CREATE ROLE %[1]s NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database's, at the same time
END $$;`, name),
			fmt.Sprintf("REVOKE ALL ON ALL TABLES IN SCHEMA jobs FROM %s;", name),
			fmt.Sprintf("REVOKE ALL ON SCHEMA jobs FROM %s;", name))
		for _, p := range r.Needs() {
			if p.Privilege == "MEMBER" { // of all databases, and may be there already
				all = append(all, fmt.Sprintf(`DO $$ BEGIN
    IF NOT pg_has_role('%[1]s', '%[2]s', 'MEMBER') THEN
        %[3]s
    END IF;
END $$;`, name, p.Object, p.Grant(name)))
				continue
			}
			all = append(all, p.Grant(name))
		}
	}
	return all
}

// CreateRoles makes the three roles and gives each exactly what it needs, in
// one transaction. The database must be migrated. It answers *PrivilegeError
// where the present role may not make roles.
func CreateRoles(ctx context.Context, conn *pgx.Conn) error {
	var role string
	var may, there bool
	err := conn.QueryRow(ctx, `SELECT current_user::text, r.rolcreaterole OR r.rolsuper,
			(SELECT count(*) FROM pg_roles WHERE rolname = ANY ($1)) = $2
		FROM pg_roles r WHERE r.rolname = current_user`,
		[]string{AgentRole.Name(), OperatorRole.Name(), ViewerRole.Name()}, len(Roles)).Scan(&role, &may, &there)
	if err != nil {
		return fmt.Errorf("ask whether the role may make roles: %w", err)
	}
	if !may && !there {
		return &PrivilegeError{Role: role, Missing: []Privilege{{Lacks: "CREATEROLE", Grant: "ALTER ROLE " + quote(role) + " CREATEROLE;"}}}
	}
	report, err := Validate(ctx, conn)
	if err != nil {
		return err
	}
	if missing := report.Count(Missing); missing > 0 {
		return fmt.Errorf("%d objects of the jobs schema are missing, on which the roles have rights: run specql-tui migrate-schema first", missing)
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range roleSteps() {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("create the roles (%s): %w", sql, err)
			}
		}
		return nil
	})
}

// RoleReport is what CheckRoles finds of one role, or of the connection as it.
type RoleReport struct {
	Role    Role        `json:"role"`
	Subject string      `json:"subject"` // whose privileges these are
	Exists  bool        `json:"exists"`
	Items   []CheckItem `json:"items"`
}

// OK tells whether nothing is missing.
func (r RoleReport) OK() bool { return r.Exists && len(r.Lacking()) == 0 }

// Lacking are the items that are missing.
func (r RoleReport) Lacking() []CheckItem {
	return slices.DeleteFunc(slices.Clone(r.Items), func(i CheckItem) bool { return i.OK })
}

// CheckItem is one privilege.
type CheckItem struct {
	PrivilegeItem
	OK    bool   `json:"ok"`
	Grant string `json:"grant,omitempty"` // where it is missing
}

// Ability is something that no GRANT on an object gives.
type Ability struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Hint string `json:"hint,omitempty"` // where it is not
}

// Permissions are what CheckPermissions finds.
type Permissions struct {
	User       string       `json:"user"`
	Roles      []RoleReport `json:"roles"`      // specql_agent and so on
	Connection []RoleReport `json:"connection"` // the present user as each of them
	Abilities  []Ability    `json:"abilities"`  // of the present user
}

// Serves are the roles that the present connection can serve as.
func (p Permissions) Serves() []Role {
	var all []Role
	for _, r := range p.Connection {
		if r.OK() {
			all = append(all, r.Role)
		}
	}
	return all
}

// CheckPermissions looks at each privilege of the three roles and of the
// present connection. It changes nothing.
func CheckPermissions(ctx context.Context, conn *pgx.Conn) (Permissions, error) {
	var p Permissions
	if err := conn.QueryRow(ctx, "SELECT current_user::text").Scan(&p.User); err != nil {
		return p, fmt.Errorf("ask for the present role: %w", err)
	}
	for _, r := range Roles {
		named, err := checkRole(ctx, conn, r, r.Name())
		if err != nil {
			return p, err
		}
		mine, err := checkRole(ctx, conn, r, p.User)
		if err != nil {
			return p, err
		}
		p.Roles, p.Connection = append(p.Roles, named), append(p.Connection, mine)
	}
	var err error
	p.Abilities, err = abilities(ctx, conn, p.User)
	return p, err
}

// checkSQL finds objects in the catalog: names would not resolve for a role
// without USAGE. A privilege on columns is there when all of them have it.
const checkSQL = `
SELECT CASE
       WHEN i.object = 'schema jobs' THEN coalesce((SELECT has_schema_privilege(who.oid, n.oid, i.privilege) FROM pg_namespace n WHERE n.nspname = 'jobs'), false)
       WHEN i.privilege = 'MEMBER' THEN coalesce((SELECT pg_has_role(who.oid, g.oid, 'USAGE') FROM pg_roles g WHERE g.rolname = i.object), false)
       WHEN t.oid IS NULL THEN false
       WHEN i.columns = '' THEN has_table_privilege(who.oid, t.oid, i.privilege)
       ELSE (SELECT bool_and(coalesce(has_column_privilege(who.oid, t.oid, a.attnum, i.privilege), false))
               FROM unnest(string_to_array(i.columns, ' ')) c LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = c AND NOT a.attisdropped)
       END
  FROM pg_roles who, unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS i(object, privilege, columns, n)
  LEFT JOIN LATERAL (SELECT c.oid FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
                      WHERE s.nspname = 'jobs' AND 'jobs.' || c.relname = i.object) t ON true
 WHERE who.rolname = $1 ORDER BY i.n`

func checkRole(ctx context.Context, conn *pgx.Conn, r Role, subject string) (RoleReport, error) {
	report := RoleReport{Role: r, Subject: subject}
	var objects, privileges, columns []string
	for _, n := range r.Needs() {
		objects, privileges, columns = append(objects, n.Object), append(privileges, n.Privilege), append(columns, strings.Join(n.Columns, " "))
	}
	rows, err := conn.Query(ctx, checkSQL, subject, objects, privileges, columns)
	if err != nil {
		return report, fmt.Errorf("ask for the privileges of %s: %w", subject, err)
	}
	oks, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err != nil {
		return report, fmt.Errorf("ask for the privileges of %s: %w", subject, err)
	}
	report.Exists = len(oks) > 0
	for i, n := range r.Needs() {
		item := CheckItem{PrivilegeItem: n, OK: report.Exists && oks[i]}
		if !item.OK {
			item.Grant = n.Grant(subject)
		}
		report.Items = append(report.Items, item)
	}
	return report, nil
}

func abilities(ctx context.Context, conn *pgx.Conn, user string) ([]Ability, error) {
	var owns, stats, standby bool
	var owner string
	err := conn.QueryRow(ctx, `SELECT coalesce((SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'jobs' AND c.relname = 'tb_job_run'), false),
		coalesce((SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = 'jobs' AND c.relname = 'tb_job_run'), ''),
		pg_has_role('pg_read_all_stats', 'USAGE'), pg_is_in_recovery()`).Scan(&owns, &owner, &stats, &standby)
	if err != nil {
		return nil, fmt.Errorf("ask for the present role's abilities: %w", err)
	}
	pooled := jobs.CheckOwnSession(ctx, conn)
	all := []Ability{
		{Name: "CREATE INDEX CONCURRENTLY on jobs.tb_job_run (migrate-schema)", OK: owns},
		{Name: "a session of its own (LISTEN, advisory locks)", OK: pooled == nil},
		{Name: "LISTEN", OK: !standby && pooled == nil},
		{Name: "see pg_stat_progress_create_index and whom others wait for", OK: stats},
	}
	if !owns && owner != "" {
		all[0].Hint = fmt.Sprintf("GRANT %s TO %s;", quote(owner), quote(user))
	} else if !owns {
		all[0].Hint = "there is no jobs.tb_job_run: who runs migrate-schema will own it"
	}
	if pooled != nil {
		all[1].Hint, all[2].Hint = pooled.Error(), "connect past the pooler"
	} else if standby {
		all[2].Hint = "this is a standby: connect to the primary server"
	}
	if !stats {
		all[3].Hint = fmt.Sprintf("GRANT %s TO %s;", statsRole, quote(user))
	}
	return all, nil
}
