package migrations

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// MinServer is the oldest PostgreSQL that the migrations run on: 14 brought block
// ranges of several stretches, scans of a range of blocks, and sessions that end
// with their program.
const MinServer = 14

// VersionError says that the server is older than MinServer.
type VersionError struct {
	Server string // as the server words it
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the server is PostgreSQL %s: multi-execution needs %d or newer; upgrade it and run this again", e.Server, MinServer)
}

// Privilege is one right that the role lacks.
type Privilege struct {
	Lacks string `json:"lacks"` // "CREATE on schema jobs"
	Grant string `json:"grant"` // the statement that gives it
}

// PrivilegeError says what the role may not do. Nothing was changed.
type PrivilegeError struct {
	Role    string
	Missing []Privilege
}

func (e *PrivilegeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "role %s may not migrate this database; it lacks", e.Role)
	for i, p := range e.Missing {
		if i > 0 {
			b.WriteString(";")
		}
		fmt.Fprintf(&b, " %s (as an administrator run: %s)", p.Lacks, p.Grant)
	}
	return b.String()
}

// PartitionedError says that jobs.tb_job_run is partitioned.
type PartitionedError struct{}

func (e *PartitionedError) Error() string {
	return "jobs.tb_job_run is partitioned: indexes cannot be built CONCURRENTLY on a partitioned table, " +
		"so it cannot be migrated while the application works; move the jobs to a plain table of that name first"
}

// ForeignTableError says that jobs.tb_job_run is not an application's jobs
// table. Nothing was changed.
type ForeignTableError struct {
	Kind    string   // "view", "foreign table"; empty for a plain table
	Missing []string // what the columns lack
}

func (e *ForeignTableError) Error() string {
	if e.Kind != "" {
		return fmt.Sprintf("jobs.tb_job_run is a %s, not the table of a SpecQL application: rename it, or choose another database", e.Kind)
	}
	return fmt.Sprintf("jobs.tb_job_run is not the jobs table of a SpecQL application; it lacks %s: "+
		"add what is missing, or choose another database", strings.Join(e.Missing, ", "))
}

// TypedJobsError refuses a way down that would make jobs of other types look
// like http jobs. Options.Typed says what to do with them.
type TypedJobsError struct {
	Jobs []TypedJobs
}

func (e *TypedJobsError) Error() string {
	var all []string
	for _, j := range e.Jobs {
		all = append(all, fmt.Sprintf("%d %s (%s)", j.Jobs, j.Type, j.Status))
	}
	return fmt.Sprintf("there are jobs that an HTTP-only schema cannot tell from http jobs: %s; say what becomes of them: "+
		"--typed-jobs cancel (those that could still run are cancelled, the others stay without their type), "+
		"delete (all of them go) or keep (all stay and look like http jobs, also to the application's worker)", strings.Join(all, ", "))
}

// AgentsError refuses a way down under agents that are at work.
type AgentsError struct {
	Names []string
}

func (e *AgentsError) Error() string {
	return fmt.Sprintf("agents work on this database (%s) and cannot without its new columns: stop them first "+
		"(systemctl stop specql-agent, or end their processes), then run it again", strings.Join(e.Names, ", "))
}

// PartialError says how far a migration came. Running it again goes on from
// there.
type PartialError struct {
	Migration string   // the one that failed
	Applied   []string // those that this run finished before
	Failed    Step
	Index     int // the failed step's place, from 1
	Count     int
	Err       error
}

func (e *PartialError) Error() string {
	where := ""
	var pg *pgconn.PgError
	if errors.As(e.Err, &pg) && pg.Detail != "" {
		where = " (" + pg.Detail + ")"
	}
	return fmt.Sprintf("migration %s stopped at step %d of %d, %q: %v%s; what came before it is done: mend the cause and run it again",
		e.Migration, e.Index, e.Count, e.Failed.Name, e.Err, where)
}

func (e *PartialError) Unwrap() error { return e.Err }

// IncompleteError says that all steps ran and objects are still not as they
// should be.
type IncompleteError struct {
	Findings []Finding
}

func (e *IncompleteError) Error() string {
	var names []string
	for _, f := range e.Findings {
		names = append(names, fmt.Sprintf("%s %s is %s", f.Kind, f.Name, f.State))
	}
	return "all its steps ran, but " + strings.Join(names, ", ")
}

// Codes of PostgreSQL (its manual, appendix A).
const (
	lockNotAvailable     = "55P03"
	deadlockDetected     = "40P01"
	serializationFailure = "40001"
)

// contended tells whether an error went away by itself in time.
func contended(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) &&
		(pg.Code == lockNotAvailable || pg.Code == deadlockDetected || pg.Code == serializationFailure)
}
