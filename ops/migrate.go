package ops

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
)

// MigrationOptions say how far a migration goes, and which way.
type MigrationOptions struct {
	Down  bool
	To    int              // version; 0: the newest, or with Down the application's own schema
	Typed migrations.Typed // with Down: what becomes of jobs that are not http
}

// PlanMigration says what RunMigration would do and changes nothing. With Down
// it counts what would be lost, which reads the whole jobs table.
func PlanMigration(ctx context.Context, db *pgxpool.Pool, opts MigrationOptions) (plan migrations.Plan, err error) {
	err = ownSession(ctx, db, func(conn *pgx.Conn) error {
		if opts.Down {
			plan, err = migrations.MakeDownPlan(ctx, conn, opts.To)
			return err
		}
		plan, err = migrations.MakePlan(ctx, conn)
		for i, m := range plan.Migrations {
			if opts.To > 0 && m.Version > opts.To {
				plan.Migrations[i].Run = false
			}
		}
		return err
	})
	return plan, err
}

// RunMigration migrates while the application goes on working, until it is
// done or ctx ends; what was done then stays, and the next run goes on from
// there. Where another one is at work it watches that one first. It tells of
// its advance by progress, which may be nil. See StartMigration for a run that
// outlives its caller.
func RunMigration(ctx context.Context, db *pgxpool.Pool, by jobs.By, opts MigrationOptions, progress func(migrations.Progress)) (result migrations.Result, err error) {
	err = ownSession(ctx, db, func(conn *pgx.Conn) error {
		o := migrations.Options{To: opts.To, Typed: opts.Typed, Actor: by.Actor, Progress: progress}
		if opts.Down {
			result, err = migrations.Down(ctx, conn, o)
		} else {
			result, err = migrations.Apply(ctx, conn, o)
		}
		return err
	})
	return result, err
}

// ValidateSchema compares the jobs schema with what all migrations make.
func ValidateSchema(ctx context.Context, db *pgxpool.Pool) (report migrations.Report, err error) {
	err = ownSession(ctx, db, func(conn *pgx.Conn) error {
		report, err = migrations.Validate(ctx, conn)
		return err
	})
	return report, err
}

// MigrationStatus says how the last migration stands, whoever started it and
// wherever. It reads one row, and needs no migrated database.
func MigrationStatus(ctx context.Context, db *pgxpool.Pool) (migrations.Status, error) {
	s, err := migrations.Look(ctx, db)
	return s, Explain(err)
}

// watchMigrationEvery is how often WatchMigration looks: a run tells of its
// advance once a second.
const watchMigrationEvery = 500 * time.Millisecond

// WatchMigration tells at once how the last migration stands and then whenever
// that changes, until ctx ends; with whileAtWork only as long as one is at
// work. Leaving does nothing to the migration; coming back is calling it again.
func WatchMigration(ctx context.Context, db *pgxpool.Pool, whileAtWork bool, tell func(migrations.Status)) error {
	var last migrations.Status
	for first := true; ; first = false {
		s, err := MigrationStatus(ctx, db)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if first || s.State != last.State || !s.BeatAt.Equal(last.BeatAt) || s.PID != last.PID {
			tell(s)
		}
		last = s
		if whileAtWork && s.State != migrations.AtWork {
			return nil
		}
		pause(ctx, watchMigrationEvery)
	}
}

// StartMigration begins a run in a process of its own, program migrate-schema,
// that goes on when the caller ends or its terminal is gone. It returns when
// the process runs; WatchMigration follows it. The program is this one where it
// is empty. The connection goes to it by its environment, where other users
// cannot see it.
func StartMigration(db *pgxpool.Pool, program string, opts MigrationOptions) error {
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program to start it again: %w", err)
		}
	}
	args := []string{"migrate-schema", "--output", "json", "--to", strconv.Itoa(opts.To)}
	if opts.Down {
		args = append(args, "--down")
		if opts.Typed != "" {
			args = append(args, "--typed-jobs", string(opts.Typed))
		}
	}
	cmd := osexec.Command(program, args...)
	cmd.Env = append(os.Environ(), "SPECQL_DATABASE_URL="+db.Config().ConnString())
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s migrate-schema: %w", program, err)
	}
	go cmd.Wait() // so that it leaves no zombie while this program lives
	return nil
}

// ownSession runs f on a session that nobody else has.
func ownSession(ctx context.Context, db *pgxpool.Pool, f func(conn *pgx.Conn) error) error {
	pooled, err := db.Acquire(ctx)
	if err != nil {
		return Explain(err)
	}
	conn := pooled.Hijack()
	defer conn.Close(context.WithoutCancel(ctx))
	err = f(conn)
	if partial := (*migrations.PartialError)(nil); errors.As(err, &partial) {
		return err // its text says how far it came, which matters more
	}
	return Explain(err)
}

// CreateRoles makes the roles of agents, operators and viewers and gives each
// exactly what it needs.
func CreateRoles(ctx context.Context, db *pgxpool.Pool) error {
	return ownSession(ctx, db, func(conn *pgx.Conn) error { return migrations.CreateRoles(ctx, conn) })
}

// CheckPermissions says which privileges the three roles and the present
// connection have and lack.
func CheckPermissions(ctx context.Context, db *pgxpool.Pool) (p migrations.Permissions, err error) {
	err = ownSession(ctx, db, func(conn *pgx.Conn) error {
		p, err = migrations.CheckPermissions(ctx, conn)
		return err
	})
	return p, err
}
