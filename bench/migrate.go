package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/appschema"
	"github.com/specql/specql-ops/migrations"
)

// variants are the tables that an application may have before.
var variants = map[string]string{"newer": appschema.HTTPOnly, "early": appschema.HTTPOnlyEarly}

// usualFor is how long the application is watched before anything changes.
const usualFor = 10 * time.Second

// felt is what a statement may wait beyond its usual.
const felt = 100 * time.Millisecond

// tooLong ends a migration that does not come to an end.
const tooLong = 20 * time.Minute

// migrate measures what an application's statements notice of the migration,
// beside the bare builds of its indexes and beside the obvious way: each on a
// copy of the same table, under the same arrivals.
func migrate(ctx context.Context, l *lab) error {
	for name := range strings.SplitSeq(l.sizes.variants, ",") {
		schema, ok := variants[name]
		if !ok {
			return fmt.Errorf("-variants: %q is neither newer nor early", name)
		}
		if err := l.migrateFrom(ctx, name, schema); err != nil {
			return fmt.Errorf("migrate from the %s table: %w", name, err)
		}
	}
	return nil
}

func (l *lab) migrateFrom(ctx context.Context, name, schema string) error {
	before, err := l.template(ctx, name, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.PgConn().Exec(ctx, schema).ReadAll(); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, oldJobsSQL, l.sizes.migrateRows)
		return err
	})
	if err != nil {
		return err
	}
	found := map[string]figures{}
	ways := []struct {
		name string
		run  func(context.Context, *database, figures) error
	}{
		{"ours", l.ours}, {"bare builds", bareBuilds}, {"the obvious way", obviousWay},
	}
	for _, way := range ways {
		found[way.name], err = l.onCopy(ctx, before, func(db *database) (figures, error) {
			return underLoad(ctx, db, func(ctx context.Context, f figures) error { return way.run(ctx, db, f) })
		})
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		l.note("%s table, %s: %s", name, way.name, found[way.name])
	}
	if err := l.drop(ctx, before.name); err != nil {
		return err
	}
	delete(l.templates, name)
	ours, bare, obvious := found["ours"], found["bare builds"], found["the obvious way"]
	l.table.heading(fmt.Sprintf("Migration of %s jobs, the %s table, under %d inserts and %d claim-and-complete cycles a second: ours, beside the obvious way",
		thousands(l.sizes.migrateRows), name, int(arrivalsASecond), int(arrivalsASecond)))
	l.table.ratio("longest wait of a statement", ours["longest"], obvious["longest"], milliseconds, none)
	l.table.figure("longest wait before the migration", ours["usual longest"], milliseconds, none)
	l.table.figure("longest wait beyond that", max(0, ours["longest"]-ours["usual longest"]), milliseconds, atMost(felt.Seconds()))
	l.table.figure("the same while old rows are filled", max(0, ours["fill longest"]-ours["usual longest"]), milliseconds, atMost(felt.Seconds()))
	l.table.ratio("waits over 100 ms", ours["over"], obvious["over"], counted, none)
	l.table.figure("waits over 100 ms before, in 10 s", ours["usual over"], counted, none)
	l.table.figure("waits over 100 ms while old rows are filled", ours["fill over"], counted, none)
	l.table.figure("longest wait while --down goes back, beyond that", max(0, ours["down longest"]-ours["usual longest"]), milliseconds, atMost(felt.Seconds()))
	l.table.figure("waits over 100 ms while --down goes back", ours["down over"], counted, none)
	l.table.figure("time of --down", ours["down"], seconds, none)
	l.table.ratio("total time, without the back-fill", ours["total"], obvious["total"], seconds, none)
	l.table.ratio("the same, against the bare index builds", ours["total"], bare["builds"], seconds, atMost(1.5))
	l.table.figure("time of the back-fill, paced", ours["fill"], seconds, none)
	l.table.figure("rows that it filled", ours["filled"], counted, none)
	return nil
}

func seconds(v float64) string { return fmt.Sprintf("%.1f s", v) }
func counted(v float64) string { return thousands(int(v)) }

// oldJobsSQL is what an application has left over a month: three in a hundred
// failed for good, one in a hundred cancelled.
const oldJobsSQL = `
INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data, output_data, error_message, status, attempts,
       tenant_id, correlation_id, entity_type, entity_pk, created_at, started_at, completed_at, updated_at)
SELECT 'past-' || n, 'service_' || n % 10, 'run', jsonb_build_object('order', n, 'amount', n % 10000, 'currency', 'EUR'),
       CASE WHEN ok THEN jsonb_build_object('id', 'ch_' || n, 'status', 'paid') END, CASE WHEN NOT ok THEN 'HTTP 503' END,
       CASE WHEN ok THEN 'completed' WHEN n % 4 = 0 THEN 'cancelled' ELSE 'failed' END, CASE WHEN ok THEN 1 ELSE 3 END,
       md5((n % 100)::text)::uuid, 'req-' || n / 4, 'order', n::text,
       at, at + interval '5 ms', CASE WHEN ok THEN at + interval '205 ms' END, at + interval '205 ms'
  FROM (SELECT n, n % 25 <> 0 AS ok, now() - interval '30 days' * ($1::bigint - n) / $1 - interval '1 minute' AS at
          FROM generate_series(1::bigint, $1) n) past`

// ours is migrate-schema, and then the way back. The back-fill, which comes last
// and keeps nobody from working, is timed by itself.
func (l *lab) ours(ctx context.Context, db *database, f figures) error {
	conn, err := pgx.Connect(ctx, db.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	began := time.Now()
	var filling time.Time
	bounded, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	_, err = migrations.Apply(bounded, conn, migrations.Options{Progress: func(p migrations.Progress) {
		if p.State == migrations.Done {
			l.note("  %6.2f s  %s", p.Elapsed.Seconds(), p.Step)
		}
		if strings.HasPrefix(p.Step, "fill duration_seconds of finished jobs") && p.State == migrations.Running {
			if filling.IsZero() {
				filling = time.Now()
				waitsOf(ctx).phase("fill ")
			}
			if p.Total > 0 {
				l.note("  back-fill: %s of about %s rows, %s, %s left", thousands(int(p.Done)), thousands(int(p.Total)), perSecond(p.Rate), p.Left.Round(time.Second))
			}
			if l.sizes.fillFor > 0 && time.Since(filling) > l.sizes.fillFor {
				stop(errEnough)
			}
		}
	}})
	if err != nil && !errors.Is(context.Cause(bounded), errEnough) {
		return err
	}
	f["total"] = filling.Sub(began).Seconds()
	f["fill"] = time.Since(filling).Seconds()
	var filled float64
	err = db.conn.QueryRow(ctx, "SELECT coalesce(sum(rows_filled), 0)::float8 FROM jobs.tb_schema_fill").Scan(&filled)
	f["filled"] = filled
	if err != nil {
		return err
	}
	if conn.IsClosed() { // the back-fill was ended
		if conn, err = pgx.Connect(ctx, db.url); err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
	}
	waitsOf(ctx).phase("down ")
	began = time.Now()
	_, err = migrations.Down(ctx, conn, migrations.Options{})
	f["down"] = time.Since(began).Seconds()
	return err
}

var errEnough = errors.New("the back-fill was watched for long enough")

// bareBuilds builds the same indexes and does nothing else.
func bareBuilds(ctx context.Context, db *database, f figures) error {
	conn, err := pgx.Connect(ctx, db.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// What the indexes are on.
	_, err = conn.Exec(ctx, `ALTER TABLE jobs.tb_job_run ADD COLUMN IF NOT EXISTS idempotency_key text, ADD COLUMN execution_type text NOT NULL DEFAULT 'http',
		ADD COLUMN agent_id uuid, ADD COLUMN retry_at timestamptz, ADD COLUMN requeued_at timestamptz`)
	if err != nil {
		return err
	}
	began := time.Now()
	for _, m := range migrations.List() {
		for _, s := range m.Steps {
			if s.Work == migrations.TwoScans {
				if _, err := conn.Exec(ctx, s.SQL); err != nil {
					return fmt.Errorf("%s: %w", s.Name, err)
				}
			}
		}
	}
	f["builds"] = time.Since(began).Seconds()
	return nil
}

// obviousWay is what the guide asks for, as one would write it down.
func obviousWay(ctx context.Context, db *database, f figures) error {
	began := time.Now()
	for _, sql := range []string{
		`ALTER TABLE jobs.tb_job_run
			ADD COLUMN execution_type text NOT NULL DEFAULT 'http' CHECK (execution_type IN ('http', 'shell', 'docker', 'serverless')),
			ADD COLUMN runner_config jsonb, ADD COLUMN resource_usage jsonb, ADD COLUMN security_context jsonb,
			ADD COLUMN duration_seconds double precision GENERATED ALWAYS AS (extract(epoch FROM completed_at - started_at)::double precision) STORED`,
		`CREATE INDEX ON jobs.tb_job_run (execution_type, status)`,
		`CREATE INDEX ON jobs.tb_job_run USING gin (resource_usage)`,
	} {
		if _, err := db.conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	f["total"] = time.Since(began).Seconds()
	return nil
}
