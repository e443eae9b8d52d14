package ops

import (
	"context"
	"strings"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// VersionRow is one line of the registry's history.
type VersionRow struct {
	ID          int64
	Hash        string
	Environment string
	File        string
	Services    int
	AppliedAt   time.Time
	Agent, Host string // that applied it first
}

// Version is a version with its text, which holds no secrets.
type Version struct {
	VersionRow
	Document string
}

// MaxHistory is the most versions that ListVersions gives at once.
const MaxHistory = 1000

// All environments, where environment is null.
const historyOfSQL = `
SELECT id, hash, environment, file, services, applied_at, agent_name, host FROM jobs.tb_registry_version
 WHERE $1::text IS NULL OR environment = $1 ORDER BY id DESC LIMIT $2`

// ListVersions lists what agents applied, newest first; of one environment,
// or of all where it is nil.
func ListVersions(ctx context.Context, db jobs.Querier, environment *string, limit int) ([]VersionRow, error) {
	rows, err := db.Query(ctx, historyOfSQL, environment, limit)
	if err != nil {
		return nil, Explain(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[VersionRow])
	return list, Explain(err)
}

// The words for a version that stand for another one as time goes on.
const (
	Latest   = "latest"   // the newest version
	Previous = "previous" // the one before it, of the same environment
)

const candidatesSQL = `
SELECT DISTINCT ON (hash) id, hash, environment, file, services, applied_at, agent_name, host FROM jobs.tb_registry_version
 WHERE ($1::text IS NULL OR environment = $1) AND starts_with(hash, $2) ORDER BY hash, id DESC LIMIT 20`

const previousSQL = `
SELECT id, hash, environment, file, services, applied_at, agent_name, host FROM jobs.tb_registry_version
 WHERE environment = $1 AND id < $2 ORDER BY id DESC LIMIT 1`

// GetVersion finds a version by latest, previous or the beginning of its hash,
// in one environment, or in all where it is nil. Of several times that the
// same version was applied it is the last one. A *NameError names the
// candidates when there is none or more than one.
func GetVersion(ctx context.Context, db jobs.Querier, environment *string, name string) (Version, error) {
	row, err := findVersion(ctx, db, environment, name)
	if err != nil {
		return Version{}, Explain(err)
	}
	v := Version{VersionRow: row}
	err = db.QueryRow(ctx, `SELECT document FROM jobs.tb_registry_version WHERE id = $1`, row.ID).Scan(&v.Document)
	return v, Explain(err)
}

func findVersion(ctx context.Context, db jobs.Querier, environment *string, name string) (VersionRow, error) {
	word := strings.ToLower(strings.TrimSpace(name))
	var sql string
	var args []any
	switch word {
	case Latest, Previous:
		newest, err := ListVersions(ctx, db, environment, 1)
		if err != nil || len(newest) == 0 {
			return VersionRow{}, noVersion(ctx, db, environment, name, err)
		}
		if word == Latest {
			return newest[0], nil
		}
		sql, args = previousSQL, []any{newest[0].Environment, newest[0].ID}
	case "":
		return VersionRow{}, noVersion(ctx, db, environment, name, nil)
	default:
		sql, args = candidatesSQL, []any{environment, word}
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return VersionRow{}, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[VersionRow])
	switch {
	case err != nil:
		return VersionRow{}, err
	case len(found) == 0:
		return VersionRow{}, noVersion(ctx, db, environment, name, nil)
	case len(found) > 1:
		return VersionRow{}, &NameError{What: "registry version", Name: name, Many: true, Known: hashes(found)}
	}
	return found[0], nil
}

// noVersion names the versions that there are.
func noVersion(ctx context.Context, db jobs.Querier, environment *string, name string, err error) error {
	if err != nil {
		return err
	}
	list, err := ListVersions(ctx, db, environment, 10)
	if err != nil {
		return err
	}
	return &NameError{What: "registry version", Name: name, Known: hashes(list)}
}

func hashes(list []VersionRow) []string {
	var out []string
	seen := map[string]bool{}
	for _, v := range list {
		if !seen[v.Hash] {
			seen[v.Hash] = true
			out = append(out, v.Short())
		}
	}
	return out
}

// Short is as much of the hash as people need.
func (v VersionRow) Short() string { return v.Hash[:min(12, len(v.Hash))] }

// VersionDiff is what differs between two versions.
type VersionDiff struct {
	From, To VersionRow
	Text     string            // a unified diff of the texts; empty: they are the same
	Changes  *registry.Changes // by service and field; nil: a text cannot be read
}

// DiffVersions compares two versions. Secrets are masked in both, so a secret
// that changed does not show.
func DiffVersions(from, to Version) VersionDiff {
	d := VersionDiff{From: from.VersionRow, To: to.VersionRow}
	name := func(v Version) string { return v.File + " " + v.Short() }
	d.Text = udiff.Unified(name(from), name(to), from.Document, to.Document)
	a := registry.Sketch(from.File, []byte(from.Document), from.Environment)
	b := registry.Sketch(to.File, []byte(to.Document), to.Environment)
	if a != nil && b != nil {
		d.Changes = new(registry.Diff(a, b))
	}
	return d
}
