//go:build unix

// Package migrationstest gives tests a database that has all migrations.
package migrationstest

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/migrations"
)

// Migrated is a database with the jobs schema, migrated and empty. All test
// packages of a run share it; another text of a migration makes another one.
var Migrated = devdbtest.Template{Name: "migrated", Content: text(), Build: build}

func text() string {
	var all strings.Builder
	for _, m := range migrations.List() {
		for _, step := range m.Steps {
			all.WriteString(step.SQL)
		}
	}
	return all.String()
}

func build(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = migrations.Apply(ctx, conn, migrations.Options{})
	return err
}
