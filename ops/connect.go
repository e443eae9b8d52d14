package ops

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

const (
	connectTimeout = 5 * time.Second // unless the URL gives connect_timeout
	operatorConns  = 4               // an operator's tool must not crowd out agents
)

// DatabaseURL chooses the connection string: the flag, else SPECQL_DATABASE_URL,
// else DATABASE_URL. Empty means libpq's PG* variables, service file and
// .pgpass, which Connect honours as psql does.
func DatabaseURL(flag string, getenv func(string) string) string {
	for _, v := range []string{flag, getenv("SPECQL_DATABASE_URL"), getenv("DATABASE_URL")} {
		if v != "" {
			return v
		}
	}
	return ""
}

// Connect opens a pool and makes sure that the database answers. The program
// is what pg_stat_activity shows. Errors are *DatabaseError. The caller closes
// the pool.
func Connect(ctx context.Context, url, program string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, &DatabaseError{Kind: BadURL}
	}
	cfg.MaxConns = operatorConns
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // every question has its deadline
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = program
	}
	target := describe(cfg.ConnConfig)
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, explainFor(target, err)
	}
	pooled, err := throughPooler(ctx, pool)
	if err != nil {
		pool.Close()
		return nil, explainFor(target, err)
	}
	if !pooled {
		return pool, nil
	}
	// A statement that was prepared in one session of the server is unknown to
	// the next one that a pooler hands out.
	pool.Close()
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, explainFor(target, err)
	}
	return pool, nil
}

func throughPooler(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	return jobs.ThroughPooler(ctx, conn.Conn())
}

// describe names a database for an operator; never with its password.
func describe(c *pgx.ConnConfig) string {
	db := c.Database
	if db == "" {
		db = c.User
	}
	return fmt.Sprintf("database %s on %s as %s", db, address(c), c.User)
}

func address(c *pgx.ConnConfig) string {
	if strings.HasPrefix(c.Host, "/") {
		return fmt.Sprintf("%s (port %d)", c.Host, c.Port)
	}
	return fmt.Sprintf("%s:%d", c.Host, c.Port)
}

const schemaSQL = `
SELECT to_regclass('jobs.tb_job_run') IS NOT NULL,
       count(*) = 8
  FROM unnest(ARRAY['tb_agent', 'tb_execution_type', 'tb_job_attempt', 'tb_job_metric', 'tb_audit',
                    'tb_lane', 'tb_registry_version', 'tb_rollback']) AS t(name)
 WHERE to_regclass('jobs.' || t.name) IS NOT NULL`

// CheckMigrated returns a *DatabaseError of kind NoSchema unless the jobs
// schema is there and has all migrations that operating needs.
func CheckMigrated(ctx context.Context, db jobs.Querier) error {
	table, migrated, err := schemaState(ctx, db)
	switch {
	case err != nil:
		return err
	case !table:
		return &DatabaseError{Kind: NoSchema, Detail: "there is no table jobs.tb_job_run"}
	case !migrated:
		return &DatabaseError{Kind: NoSchema, Detail: "its jobs schema is HTTP-only or of an older version"}
	}
	return nil
}

func schemaState(ctx context.Context, db jobs.Querier) (table, migrated bool, err error) {
	err = db.QueryRow(ctx, schemaSQL).Scan(&table, &migrated)
	return table, migrated, Explain(err)
}

// Self names whoever runs the program, for the audit log: the operating
// system's user (behind sudo, the one who called it) at this host.
func Self(program string) jobs.By {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		} else {
			name = fmt.Sprintf("uid %d", os.Getuid())
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return jobs.By{Actor: name + "@" + host, Origin: program + " on " + host}
}
