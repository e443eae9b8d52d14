package ops

import (
	"github.com/specql/specql-ops/jobs"
)

// advanced is phase 4 as far as there is anything to walk: fallbacks, the
// rehearsed rollback and the guide's success metrics.
func advanced() []check {
	sign := func(id, title, why string, guide ...string) check {
		return check{phase: 4, needs: []string{"schema"}, WalkStep: WalkStep{ID: id, Title: title, Why: why, Guide: guide, Sign: true}}
	}
	derived := func(id, title, why, evidence string, needs []string, guide ...string) check {
		return check{phase: 4, needs: needs, WalkStep: WalkStep{ID: id, Title: title, Why: why, Guide: guide},
			look: func(*walkFacts) []Evidence { return []Evidence{ok("%s", evidence)} }}
	}
	tested := []string{}
	for _, t := range rolledBack() {
		tested = append(tested, "hundred:"+string(t))
	}
	return []check{
		derived("types-tested", "Execution types tested", "Every type in use has run its first hundred jobs well.", "every type in use has run its first hundred jobs",
			tested, "New execution types tested"),
		{phase: 4, needs: []string{"registry-valid"}, WalkStep: WalkStep{ID: "fallback", Title: "Fallback exercised", Action: ActFallback,
			Why: "A fallback that was never used is a hope.", Will: "a service with a base_url runs by http until it is taken back",
			Command: "specql-tui services --fallback NAME"},
			look: fallbackEvidence, unused: func(f *walkFacts) string {
				for _, l := range f.lanes {
					if l.CanFall {
						return ""
					}
				}
				return "no service of another type has a base_url to fall back to"
			}},
		{phase: 4, needs: []string{"schema"}, WalkStep: WalkStep{ID: "rollback", Title: "Rollback rehearsed", Action: ActRehearse,
			Guide: []string{"Rollback procedures documented and tested", "Rollback procedures ready"},
			Why:   "A way back that was never walked is no way back.", Will: "the other types are switched off, what waits is held; undo takes it back",
			Command: "specql-tui rollback --to http-only && specql-tui rollback --undo"}, look: rehearsedEvidence},
		derived("no-breaking-change", "Zero breaking changes", "The schema is whole, the application's INSERT works, and its jobs do as well as before.",
			"schema valid, the old INSERT works, existing jobs process", []string{"schema-valid", "no-application-change", "jobs-process"}, "Zero breaking changes to existing functionality"),
		{phase: 4, needs: []string{"jobs-process"}, WalkStep: WalkStep{ID: "performance", Title: "Performance", Guide: []string{"Performance meets or exceeds baseline"},
			Why: "HTTP jobs of the last hour against the time before the migration.", Command: "specql-tui queue-status"}, look: performanceEvidence},
		sign("tests", "All tests passing", "The application's own tests are run by its team.", "All tests passing"),
		sign("monitoring", "Monitoring and alerting", "Somebody must be woken when it matters.", "Monitoring and alerting configured"),
		sign("team", "Team trained", "Who is on call must have used the console.", "Support team trained on new execution types", "Team trained and documentation updated"),
		sign("incident-plans", "Incident response plans", "The plans must name emergency-stop and rollback.", "Incident response plans updated"),
		sign("value", "Types deliver value", "What was the reason to migrate?", "New execution types delivering value"),
		sign("velocity", "Development velocity", "Measured by the team.", "Development velocity improved"),
		sign("costs", "Operational costs", "Measured by the team.", "Operational costs optimized"),
		sign("reliability", "System reliability", "Measured by the team.", "System reliability maintained"),
		sign("metrics", "Success metrics tracked", "Somebody looks at them and says when it is done.", "Success metrics defined and tracked"),
	}
}

func fallbackEvidence(f *walkFacts) []Evidence {
	var all []Evidence
	for _, l := range f.lanes {
		if l.Fallback {
			all = append(all, note("%s runs by http now, in place of %s: take it back with services --no-fallback %s", l.Service, l.Type, l.Service).at(l.ChangedAt))
		}
	}
	if f.fellBack == nil {
		return append(all, lacking("no service was sent to its http fallback and taken back yet"))
	}
	all = append(all, ok("a service was sent to its fallback and taken back").at(f.fellBack))
	if f.fallJobs > 0 {
		all = append(all, note("%s ran by the fallback in the last 24 hours", plural(int(f.fallJobs), "job")))
	}
	return all
}

func rehearsedEvidence(f *walkFacts) []Evidence {
	for _, r := range f.rollbacks {
		if r.Unfinished() {
			return []Evidence{wrong("the rollback of %s was begun and is not at its end: run it again", r.Actor).at(&r.BeganAt)}
		}
	}
	for i := range f.rollbacks {
		r := &f.rollbacks[i]
		if r.State == "undone" {
			return []Evidence{ok("%s rolled back and undid it", r.Actor).at(r.EndedAt)}
		}
	}
	if len(f.rollbacks) > 0 {
		return []Evidence{lacking("rolled back to http-only by %s, not undone yet", f.rollbacks[0].Actor).at(&f.rollbacks[0].BeganAt)}
	}
	return []Evidence{lacking("no rollback was made and undone yet")}
}

func performanceEvidence(f *walkFacts) []Evidence {
	c := f.hour.types[jobs.HTTP]
	n := totals{c.completed, f.dead[jobs.HTTP].hour}
	if n.all() == 0 {
		return []Evidence{note("no HTTP job ended in the last hour; the last 24 hours are compared in phase 1")}
	}
	return f.againstBefore(n, c.all.Quantile(0.95))
}
