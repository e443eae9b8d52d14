package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/migrations"
)

// lab is what every benchmark works with: the server, how much to measure, and
// the table that the figures go to.
type lab struct {
	server    *devdb.Server
	admin     *pgx.Conn // on a database of its own: its work counts for none that is measured
	began     time.Time
	sizes     sizes
	table     *table
	templates map[string]template
	serial    int // databases copied so far
}

func newLab(ctx context.Context, sizes sizes) (*lab, error) {
	server, err := devdb.Start(ctx, devdb.Options{Durable: true})
	if err != nil {
		return nil, err
	}
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		server.Stop()
		return nil, err
	}
	return &lab{server: server, admin: admin, began: time.Now(), sizes: sizes, table: &table{}, templates: map[string]template{}}, nil
}

func (l *lab) close() {
	l.admin.Close(context.Background())
	l.server.Stop()
}

// note tells whoever waits what is being done, and since when.
func (l *lab) note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5s  %s\n", time.Since(l.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// template is a database that measurements start from, each with a copy of
// its own: all sides find the same rows in the same places.
type template struct{ name string }

// filler fills a migrated database, or one that River's migrations were
// applied to. It runs in no transaction.
type filler func(ctx context.Context, conn *pgx.Conn) error

// jobsTemplate makes the template of that name, with the jobs schema, at its
// first use.
func (l *lab) jobsTemplate(ctx context.Context, name string, fill ...filler) (template, error) {
	return l.template(ctx, name, func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := migrations.Apply(ctx, conn, migrations.Options{}); err != nil {
			return err
		}
		for _, f := range fill {
			if err := f(ctx, conn); err != nil {
				return err
			}
		}
		return nil
	})
}

// template makes the template of that name at its first use. It ends as a
// database at rest: vacuumed, analyzed, on disk.
func (l *lab) template(ctx context.Context, name string, fill filler) (template, error) {
	if t, ok := l.templates[name]; ok {
		return t, nil
	}
	l.note("making the rows of %q", name)
	if err := l.server.CreateDatabase(ctx, name); err != nil {
		return template{}, err
	}
	conn, err := pgx.Connect(ctx, l.server.URL(name))
	if err != nil {
		return template{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := fill(ctx, conn); err != nil {
		return template{}, fmt.Errorf("make the rows of %q: %w", name, err)
	}
	for _, settle := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := conn.Exec(ctx, settle); err != nil {
			return template{}, err
		}
	}
	l.templates[name] = template{name}
	return template{name}, nil
}

func (l *lab) drop(ctx context.Context, name string) error {
	_, err := l.admin.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return err
}

// database is one measurement's copy of a template.
type database struct {
	name string
	url  string
	conn *pgx.Conn // of whoever looks from outside
}

// onCopy measures on a fresh database made from a template, at rest as the
// template is. It is dropped in the end.
func (l *lab) onCopy(ctx context.Context, t template, measure func(db *database) (figures, error)) (found figures, err error) {
	l.serial++
	db := &database{name: fmt.Sprintf("run_%d", l.serial)}
	create := "CREATE DATABASE " + db.name + " TEMPLATE " + pgx.Identifier{t.name}.Sanitize()
	if l.admin.PgConn().ParameterStatus("server_version") >= "15" { // older ones know no other way
		create += " STRATEGY FILE_COPY"
	}
	for _, sql := range []string{create, "CHECKPOINT"} {
		if _, err := l.admin.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("copy %q: %w", t.name, err)
		}
	}
	defer func() { err = errors.Join(err, l.drop(context.WithoutCancel(ctx), db.name)) }()
	syscall.Sync() // what is still to be written is nobody's work
	db.url = l.server.URL(db.name)
	if db.conn, err = pgx.Connect(ctx, db.url); err != nil {
		return nil, err
	}
	defer db.conn.Close(context.WithoutCancel(ctx))
	return measure(db)
}

// allCompleted makes sure that the query counts no job.
func (d *database) allCompleted(ctx context.Context, left string) error {
	var open int
	if err := d.conn.QueryRow(ctx, left).Scan(&open); err != nil {
		return err
	}
	if open != 0 {
		return fmt.Errorf("%d jobs were not completed", open)
	}
	return nil
}
