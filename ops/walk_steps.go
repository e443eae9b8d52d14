package ops

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations"
)

func ok(format string, args ...any) Evidence {
	return Evidence{OK: true, Text: fmt.Sprintf(format, args...)}
}
func lacking(format string, args ...any) Evidence {
	return Evidence{Text: fmt.Sprintf(format, args...)}
}
func wrong(format string, args ...any) Evidence {
	return Evidence{Bad: true, Text: fmt.Sprintf(format, args...)}
}
func note(format string, args ...any) Evidence {
	return Evidence{OK: true, Note: true, Text: fmt.Sprintf(format, args...)}
}

func (e Evidence) at(t *time.Time) Evidence      { e.At = t; return e }
func (e Evidence) advise(advice string) Evidence { e.Advice = advice; return e }
func (e Evidence) with(lines ...string) Evidence { e.Lines = lines; return e }
func iff(yes bool, good, bad Evidence) Evidence {
	if yes {
		return good
	}
	return bad
}

// checks are the steps in the guide's order; a service and a type make steps of
// their own.
func (f *walkFacts) checks() []check {
	all := infrastructure()
	all = append(all, f.serviceChecks()...)
	for _, t := range rolledBack() {
		all = append(all, typeChecks(t)...)
	}
	return append(all, advanced()...)
}

// infrastructure is phase 1.
func infrastructure() []check {
	return []check{
		{phase: 1, WalkStep: WalkStep{ID: "console", Title: "Console version",
			Why: "The console and the agents of one version know the same schema.", Command: "specql-tui --version"},
			look: func(f *walkFacts) []Evidence { return []Evidence{ok("this console is %s", f.version)} }},
		{phase: 1, WalkStep: WalkStep{ID: "permissions", Title: "Permissions",
			Why: "A migration that lacks a right must say so before its first step, not in the middle.", Command: "specql-tui check-permissions"},
			look: permissionEvidence},
		{phase: 1, needs: []string{"permissions"}, WalkStep: WalkStep{ID: "schema", Title: "Schema migration", Guide: []string{"Schema migration completed", "Schema migration successful"},
			Why:    "It adds the columns, indexes and views that agents and consoles need; no row of the application changes.",
			Will:   "the application goes on working; no statement waits for a lock that it would notice; it can be left and come back to",
			Action: ActMigrate, Command: "specql-tui migrate-schema"}, look: schemaEvidence},
		{phase: 1, needs: []string{"schema"}, WalkStep: WalkStep{ID: "schema-valid", Title: "Schema valid",
			Why: "What was recorded as applied is believed only as far as it is there.", Action: ActMigrate, Command: "specql-tui validate-schema"},
			look: validEvidence},
		{phase: 1, needs: []string{"schema"}, WalkStep: WalkStep{ID: "agents", Title: "Agents alive",
			Why: "Agents run the jobs; all of them should be of this version and follow one registry.", Command: "specql-agent --registry registry/service_registry.yaml"},
			look: agentEvidence},
		{phase: 1, needs: []string{"agents"}, WalkStep: WalkStep{ID: "registry-valid", Title: "Registry valid", Guide: []string{"Service registry validates successfully"},
			Why: "A file with a fault is never applied: the last good one goes on.", Command: "specql-tui validate-config registry/service_registry.yaml --verbose"},
			look: registryEvidence},
		{phase: 1, needs: []string{"registry-valid"}, WalkStep: WalkStep{ID: "migration-check", Title: "Migration check",
			Why: "Deprecated and risky patterns are easier to mend now than later.", Command: "specql-tui migration-check registry/service_registry.yaml --fix"},
			look: patternEvidence},
		{phase: 1, needs: []string{"agents"}, WalkStep: WalkStep{ID: "jobs-process", Title: "Existing jobs process", Guide: []string{"Existing jobs still process correctly"},
			Why: "HTTP jobs must do as well as in the hour before the migration.", Command: "specql-tui queue-status"},
			look: processEvidence},
		{phase: 1, needs: []string{"schema"}, WalkStep: WalkStep{ID: "no-application-change", Title: "No application change", Guide: []string{"No application code changes required"},
			Why: "The application's INSERT from before the migration must go on working, unchanged."}, look: insertEvidence},
		{phase: 1, needs: []string{"schema-valid", "registry-valid", "migration-check", "jobs-process", "no-application-change"},
			WalkStep: WalkStep{ID: "infrastructure", Title: "Phase 1 complete", Guide: []string{"Infrastructure preparation completed"}, Why: "Every step above is done or waived."},
			look:     func(f *walkFacts) []Evidence { return []Evidence{ok("every step of this phase is done or waived")} }},
	}
}

func permissionEvidence(f *walkFacts) []Evidence {
	what := "migrate"
	if f.migrated {
		what = "operate"
	}
	if len(f.lacks) == 0 {
		return []Evidence{ok("%s may %s the jobs schema", f.role, what)}
	}
	var all []Evidence
	for _, l := range f.lacks {
		advice := ""
		if privilege, on, found := strings.Cut(l, " on "); found {
			advice = fmt.Sprintf("GRANT %s ON %s TO %s;", privilege, on, f.role)
		}
		all = append(all, wrong("%s lacks %s, which is needed to %s", f.role, l, what).advise(advice))
	}
	return all
}

func schemaEvidence(f *walkFacts) []Evidence {
	missing := f.schema.Count(migrations.Missing)
	e := iff(f.migrated, ok("migrated; %d objects are looked at one by one below", len(f.schema.Findings)).at(f.since),
		lacking("%d of %d objects are missing", missing, len(f.schema.Findings)))
	all := []Evidence{e}
	switch f.run.State {
	case migrations.AtWork:
		p := f.run.Progress
		all = append(all, note("%s is migrating: step %d of %d, %s", f.run.Actor, p.Position, p.Of, p.Step))
	case migrations.Interrupted:
		all = append(all, iff(e.OK, note("the last run was interrupted"), wrong("the run of %s was interrupted at %s: run it again, it goes on from there", f.run.Actor, f.run.Progress.Step)))
	case migrations.Failed:
		all = append(all, iff(e.OK, note("the last run failed: %s", f.run.Error), wrong("the run of %s failed: %s", f.run.Actor, f.run.Error)))
	}
	return all
}

func validEvidence(f *walkFacts) []Evidence {
	faults := f.schema.Faults()
	if len(faults) == 0 {
		return []Evidence{ok("every column, check, index, view, function and trigger is as it should be (%d)", len(f.schema.Findings))}
	}
	var all []Evidence
	for _, x := range faults {
		all = append(all, wrong("%s %s is %s", x.Kind, x.Name, x.State).advise("specql-tui migrate-schema"))
	}
	return all
}

func agentEvidence(f *walkFacts) []Evidence {
	if len(f.agents) == 0 {
		return []Evidence{lacking("no agent is alive").advise("start specql-agent with this database and the registry")}
	}
	all := []Evidence{ok("%s alive", plural(len(f.agents), "agent"))}
	hashes := map[string]bool{}
	for _, a := range f.agents {
		hashes[a.RegistryHash] = true
		if a.Version != f.version {
			all = append(all, wrong("%s on %s is version %s, this console is %s", a.Name, a.Host, a.Version, f.version))
		}
	}
	if len(hashes) > 1 {
		all = append(all, wrong("the agents run %d different registries", len(hashes)).advise("specql-tui agents reload --all --wait"))
	}
	return all
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func registryEvidence(f *walkFacts) []Evidence {
	var all []Evidence
	if len(f.versions) == 0 {
		return []Evidence{lacking("no agent has applied a registry yet")}
	}
	v := f.versions[0]
	all = append(all, ok("version %s with %s is applied, %s", v.Short(), plural(v.Services, "service"), v.File).at(&v.AppliedAt))
	for _, a := range f.agents {
		if a.RegistryError != "" {
			all = append(all, wrong("%s goes on with %s: its file is not good: %s", a.Name, a.RegistryHash[:min(12, len(a.RegistryHash))], a.RegistryError))
		}
	}
	return all
}

func patternEvidence(f *walkFacts) []Evidence {
	var all []Evidence
	for _, d := range f.faults {
		e := lacking("%s:%d:%d: %s", d.File, d.Line, d.Column, d.Message)
		e.Advice = d.Suggestion
		all = append(all, e)
	}
	if all == nil {
		all = []Evidence{ok("nothing to warn of in the applied registry")}
	}
	for _, p := range f.patterns {
		e := note("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message).with("- "+p.Before, "+ "+p.After)
		e.OK = false
		all = append(all, e)
	}
	return all
}

// tolerated is how much worse than before jobs may do, since no two hours are
// alike.
const (
	tolerateSuccess = 0.02
	tolerateP95     = 1.25
	leastSlow       = 50 * time.Millisecond // slower by less than this is no difference
)

func processEvidence(f *walkFacts) []Evidence {
	n, c := f.ever[jobs.HTTP], f.day.types[jobs.HTTP]
	if n.completed == 0 {
		return []Evidence{iff(n.failed == 0, lacking("no HTTP job has ended since the migration"),
			wrong("%s ended since the migration, none of them well", plural(int(n.failed), "HTTP job")))}
	}
	all := []Evidence{ok("%s completed since the migration", plural(int(n.completed), "HTTP job"))}
	return append(all, f.againstBefore(totals{c.completed, f.dead[jobs.HTTP].day}, c.all.Quantile(0.95))...)
}

// againstBefore compares with how jobs did before the migration.
func (f *walkFacts) againstBefore(n totals, p95 time.Duration) []Evidence {
	if n.all() == 0 {
		return []Evidence{note("none ended in the last 24 hours")}
	}
	success := float64(n.completed) / float64(n.all())
	b := f.before
	if b == nil || b.Jobs == 0 {
		return []Evidence{note("success %.1f %%, p95 %s; no job ended before the migration to compare with", 100*success, short(p95))}
	}
	was := float64(b.Completed) / float64(b.Jobs)
	text := fmt.Sprintf("success %.1f %%, in the %s before the migration %.1f %%", 100*success, b.Window, 100*was)
	all := []Evidence{iff(success >= was-tolerateSuccess, ok("%s", text), wrong("%s", text))}
	before := time.Duration(b.P95 * float64(time.Second))
	text = fmt.Sprintf("p95 %s, before the migration %s", short(p95), short(before))
	slow := float64(p95) > tolerateP95*float64(before) && p95-before > leastSlow
	return append(all, iff(!slow, ok("%s", text), wrong("%s", text)))
}

func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func insertEvidence(f *walkFacts) []Evidence {
	if f.newInsert == nil {
		return []Evidence{ok("the application's INSERT from before makes a pending http job (tried and rolled back)")}
	}
	if n := f.ever[jobs.HTTP]; isDenied(f.newInsert) && n.all() > 0 {
		return []Evidence{ok("the application's jobs have come and run since the migration (%s itself may not insert)", f.role)}
	}
	return []Evidence{wrong("the application's INSERT from before the migration fails: %v", f.newInsert)}
}

func isDenied(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}
