package tui

import (
	"context"
	"strings"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/tui/migrate"
)

// walkSource answers with fixed steps in every state and remembers what was
// done to them.
func (f *fake) walkSource() migrate.Source {
	return migrate.Source{
		Clock:  func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
		Signer: "anna",
		Walk: func(context.Context, bool) (ops.Walk, error) {
			return answer(f, func() ops.Walk { return f.walk })
		},
		Plan: func(_ context.Context, s ops.WalkStep) ([]string, error) {
			return answer(f, func() []string {
				return map[ops.StepAction][]string{
					ops.ActMigrate:  {"7 migrations with 84 steps run on orders.", "9 steps may take long on a big table; the application goes on working meanwhile.", "It runs by itself: this console may be left and come back to."},
					ops.ActRehearse: {"Switched off for every agent: shell, docker, serverless.", "Held, not changed: 12408 waiting jobs of 3 services.", "Waited for: 7 running jobs, at most 10s."},
				}[s.Action]
			})
		},
		Do: func(_ context.Context, s ops.WalkStep, values []string) (string, error) {
			return answer(f, func() string {
				f.switched = append(f.switched, "do "+s.ID+" "+strings.Join(values, "|"))
				return "It is done."
			})
		},
		Sign: func(_ context.Context, _ ops.Walk, id string, waive bool, name, note string) error {
			_, err := answer(f, func() bool {
				f.switched = append(f.switched, map[bool]string{true: "waive ", false: "sign "}[waive]+id+" "+name+"|"+note)
				return true
			})
			return err
		},
		Unsign: func(_ context.Context, id string) error {
			_, err := answer(f, func() bool { f.switched = append(f.switched, "unsign "+id); return true })
			return err
		},
	}
}

func newWalk() ops.Walk {
	at := func(d time.Duration) *time.Time { return ptr(start.Add(-d)) }
	yes := func(text string) ops.Evidence { return ops.Evidence{OK: true, Text: text} }
	step := func(id, title string, state ops.StepState, why string, evidence ...ops.Evidence) ops.WalkStep {
		return ops.WalkStep{ID: id, Title: title, State: state, Why: why, Evidence: evidence}
	}
	schema := step("schema", "Schema migration", ops.StepNext, "It adds the columns, indexes and views that agents and consoles need; no row of the application changes.",
		ops.Evidence{Text: "131 of 175 objects are missing"})
	schema.Guide, schema.Action, schema.Command = []string{"Schema migration completed", "Schema migration successful"}, ops.ActMigrate, "specql-tui migrate-schema"
	schema.Will = "the application goes on working; no statement waits for a lock that it would notice; it can be left and come back to"
	process := step("jobs-process", "Existing jobs process", ops.StepFailed, "HTTP jobs must do as well as in the hour before the migration.",
		yes("184203 HTTP jobs completed since the migration"),
		ops.Evidence{Bad: true, Text: "success 96.1 %, in the hour before the migration 99.2 %"}, yes("p95 182 ms, before the migration 179 ms"))
	process.Command = "specql-tui queue-status"
	service := step("service:stripe_api", "stripe_api", ops.StepNext, "What the registry says explicitly need not be guessed at three in the morning.",
		yes("execution_type http is explicit"), yes("base_url is given"), ops.Evidence{Text: "no timeout: 5m0s is assumed", Advice: "  runner_config: { timeout: 30 }"},
		ops.Evidence{Bad: true, Text: "STRIPE_SECRET_KEY is not set for agent-2 on ops-b.internal"},
		ops.Evidence{OK: true, Note: true, Text: "registry/service_registry.yaml:12", Lines: []string{"- name: stripe_api"}})
	rollout := step("enabled:shell", "Enable shell", ops.StepDone, "One row switches a type for every agent within a second, on and off.",
		ops.Evidence{OK: true, Text: "shell is enabled by anna", At: at(7 * time.Minute)},
		ops.Evidence{OK: true, Note: true, Text: "roll-out by anna is at stage hundred: data_processor alone", At: at(2 * time.Minute)})
	rollout.Action, rollout.Type, rollout.Command = ops.ActRollout, jobs.Shell, "specql-tui migrate rollout shell --service NAME --operation NAME"
	rollout.Canaries = []ops.Canary{{Service: "data_processor", Operation: "process_data", Input: `{"records":1}`}, {Service: "reports", Operation: "daily_summary", Input: `{"date":"canary"}`}}
	rollback := step("rollback", "Rollback rehearsed", ops.StepNext, "A way back that was never walked is no way back.", ops.Evidence{Text: "no rollback was made and undone yet"})
	rollback.Action, rollback.Will, rollback.Command = ops.ActRehearse, "the other types are switched off, what waits is held; undo takes it back", "specql-tui rollback --to http-only && specql-tui rollback --undo"
	team := step("team", "Team trained", ops.StepNext, "Who is on call must have used the console.")
	team.Sign, team.Action, team.Guide = true, ops.ActSign, []string{"Support team trained on new execution types", "Team trained and documentation updated"}
	team.Will = "your name, your note and the time are kept in the database, for everybody"
	plans := step("incident-plans", "Incident response plans", ops.StepDone, "The plans must name emergency-stop and rollback.")
	plans.Sign, plans.Signed = true, &ops.SignOff{Name: "Ben", Note: "runbook 12, reviewed with the night shift", At: start.Add(-50 * time.Hour)}
	blocked := step("hundred:shell", "First hundred shell jobs", ops.StepBlocked, "Success, p95 and use of the limits tell whether it is safe to go on.")
	blocked.BlockedBy = []string{"canary:shell"}
	return ops.Walk{At: start, Phases: []ops.WalkPhase{
		{Number: 1, Name: "Infrastructure preparation", Steps: []ops.WalkStep{
			step("console", "Console version", ops.StepDone, "The console and the agents of one version know the same schema.", yes("this console is 1.0.0")),
			step("permissions", "Permissions", ops.StepDone, "A migration that lacks a right must say so before its first step, not in the middle.", yes("anna may migrate the jobs schema")),
			schema, step("schema-valid", "Schema valid", ops.StepBlocked, "What was recorded as applied is believed only as far as it is there."),
			step("agents", "Agents alive", ops.StepDone, "Agents run the jobs.", yes("3 agents alive")), process}},
		{Number: 2, Name: "Service registry enhancement", Steps: []ops.WalkStep{service,
			step("service:ml_model", "ml_model", ops.StepDone, "", yes("execution_type docker is explicit"))}},
		{Number: 3, Name: "New execution types", Steps: []ops.WalkStep{rollout, blocked,
			step("ready:docker", "Hosts ready for docker", ops.StepWaived, "", yes("no service of the registry is docker: the guide calls the type optional"))}},
		{Number: 4, Name: "Advanced features and success", Steps: []ops.WalkStep{rollback, team, plans}}}}
}
