package ops

import (
	"fmt"
	"slices"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// typeChecks are phase 3 for one type. A type that no service has is waived by
// itself: the guide calls it optional.
func typeChecks(t jobs.ExecutionType) []check {
	unused := func(f *walkFacts) string {
		if len(f.servicesOf(t)) == 0 {
			return fmt.Sprintf("no service of the registry is %s: the guide calls the type optional", t)
		}
		return ""
	}
	id := func(name string) string { return name + ":" + string(t) }
	return []check{
		{phase: 3, needs: []string{"registry-valid"}, unused: unused, WalkStep: WalkStep{ID: id("ready"), Title: "Hosts ready for " + string(t), Type: t,
			Why: "At least one agent's host must be able to run every service of the type.", Command: "specql-agent doctor"},
			look: func(f *walkFacts) []Evidence { return f.readiness(t) }},
		{phase: 3, needs: []string{id("ready")}, unused: unused, WalkStep: WalkStep{ID: id("enabled"), Title: "Enable " + string(t), Type: t,
			Why:  "One row switches a type for every agent within a second, on and off.",
			Will: "a canary job of one service, then that service alone for the first jobs, then all; when too many fail the type is switched off again", Action: ActRollout,
			Command: "specql-tui migrate rollout " + string(t) + " --service NAME --operation NAME"},
			look: func(f *walkFacts) []Evidence { return f.enabledEvidence(t) }},
		{phase: 3, needs: []string{id("enabled")}, unused: unused, WalkStep: WalkStep{ID: id("canary"), Title: "A " + string(t) + " job completed", Type: t,
			Why: "One job that ran to its end proves the way from row to result.", Action: ActRollout,
			Command: "specql-tui migrate rollout " + string(t) + " --service NAME --operation NAME"},
			look: func(f *walkFacts) []Evidence { return f.canaryEvidence(t) }},
		{phase: 3, needs: []string{id("canary")}, unused: unused, WalkStep: WalkStep{ID: id("hundred"), Title: "First hundred " + string(t) + " jobs", Type: t,
			Why: "Success, p95 and use of the limits tell whether it is safe to go on.", Command: "specql-tui queue-status"},
			look: func(f *walkFacts) []Evidence { return f.hundredEvidence(t) }},
	}
}

func (f *walkFacts) servicesOf(t jobs.ExecutionType) (all []*registry.Service) {
	if f.config == nil {
		return nil
	}
	for _, s := range f.config.Services {
		if s.ExecutionType == t {
			all = append(all, s)
		}
	}
	return all
}

func (f *walkFacts) readiness(t jobs.ExecutionType) []Evidence {
	var all []Evidence
	able := 0
	for _, a := range f.agents {
		if !slices.Contains(a.Types, t) {
			all = append(all, note("%s on %s does not run %s", a.Name, a.Host, t))
			continue
		}
		able++
		text := fmt.Sprintf("%s on %s runs %s", a.Name, a.Host, t)
		if t == jobs.Shell && a.Isolation != "" {
			text += ", isolation " + a.Isolation
		}
		all = append(all, ok("%s", text))
		for _, c := range f.hosts[a.ID].Abilities[t] {
			e := note("%s: %s", c.Name, c.Found).advise(c.Advice)
			e.OK = c.OK
			all = append(all, e)
		}
	}
	if able == 0 {
		return append(all, lacking("no live agent runs %s", t).advise("specql-agent --types http,"+string(t)))
	}
	for _, s := range f.servicesOf(t) {
		reason, somewhere := "", false
		for _, a := range f.agents {
			why, cannot := f.hosts[a.ID].Cannot[s.Name]
			somewhere = somewhere || slices.Contains(a.Types, t) && !cannot
			if cannot {
				reason = why
			}
		}
		if !somewhere {
			all = append(all, wrong("no host can run %s: %s", s.Name, reason))
		}
	}
	return all
}

func (f *walkFacts) enabledEvidence(t jobs.ExecutionType) []Evidence {
	s := f.switches[t]
	var all []Evidence
	switch {
	case s.Enabled:
		e := ok("%s is enabled", t)
		if s.ChangedBy != "" {
			e = ok("%s is enabled by %s", t, s.ChangedBy).at(&s.ChangedAt)
		}
		all = append(all, e)
	default:
		e := lacking("%s is switched off: %s (%s)", t, orNone(s.Reason), orNone(s.ChangedBy))
		if r := f.rolloutOf(t); r != nil && r.State == "stopped" {
			e = wrong("the roll-out stopped: %s", r.Outcome).at(r.EndedAt).advise("specql-tui rollback --to http-only, or mend it and roll out again")
		}
		all = append(all, e)
	}
	if r := f.rolloutOf(t); r != nil && r.State == "running" {
		all = append(all, note("roll-out by %s is at stage %s: %s alone", r.Actor, r.Stage, r.Service).at(&r.StageAt))
	}
	for _, l := range f.lanes {
		if l.Type == t && !l.Enabled {
			all = append(all, note("%s is switched off: %s", l.Service, l.Reason))
		}
	}
	return all
}

func (f *walkFacts) rolloutOf(t jobs.ExecutionType) *Rollout {
	for i := range f.rollouts {
		if f.rollouts[i].Type == t {
			return &f.rollouts[i]
		}
	}
	return nil
}

func (f *walkFacts) canaryEvidence(t jobs.ExecutionType) []Evidence {
	n := f.ever[t]
	var all []Evidence
	all = append(all, iff(n.completed > 0, ok("%s completed", plural(int(n.completed), string(t)+" job")), lacking("no %s job has completed yet", t)))
	if r := f.rolloutOf(t); r != nil {
		e := note("the last roll-out %s at stage %s", r.State, r.Stage)
		if r.Outcome != "" {
			e = note("the last roll-out %s at stage %s: %s", r.State, r.Stage, r.Outcome)
		}
		all = append(all, e.at(&r.StageAt))
	}
	return all
}

const (
	enoughJobs    = 100
	enoughSuccess = 0.95
)

func (f *walkFacts) hundredEvidence(t jobs.ExecutionType) []Evidence {
	n := f.ever[t]
	c := f.day.types[t]
	all := []Evidence{iff(n.all() >= enoughJobs, ok("%d jobs have ended", n.all()), lacking("%d of %d jobs have ended", n.all(), enoughJobs))}
	recent := totals{c.completed, f.dead[t].day}
	if recent.all() > 0 {
		success := float64(recent.completed) / float64(recent.all())
		text := fmt.Sprintf("success of jobs %.1f %% in the last 24 hours, p95 %s", 100*success, short(c.all.Quantile(0.95)))
		all = append(all, iff(success >= enoughSuccess, ok("%s", text), wrong("%s, below %.0f %%", text, 100*enoughSuccess)))
	}
	for _, s := range f.servicesOf(t) {
		limit := s.SecurityPolicy.ResourceLimits.MemoryMB
		if limit == 0 || c.memoryN == 0 {
			continue
		}
		text := fmt.Sprintf("peak memory of %s jobs %.0f MB, %s may use %d MB", t, c.peak, s.Name, limit)
		e := note("%s", text)
		if c.peak > 0.9*float64(limit) {
			e.OK, e.Advice = false, "raise the memory_mb of "+s.Name+" in the registry, or have it need less"
		}
		all = append(all, e)
	}
	if c.violations > 0 {
		all = append(all, note("%d policy or limit violations in the last 24 hours", c.violations).advise("page Services shows each with the line that would permit it"))
	}
	return all
}
