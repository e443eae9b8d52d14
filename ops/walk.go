package ops

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

// StepState is how a step of the migration stands. It comes from evidence that
// is looked at anew each time, and can go back.
type StepState string

// The states of a step.
const (
	StepDone    StepState = "done"
	StepNext    StepState = "next"    // it can be done now
	StepBlocked StepState = "blocked" // another step comes first
	StepFailed  StepState = "failed"  // the evidence says that something is wrong
	StepWaived  StepState = "waived"  // a person decided to go without, or nothing here needs it
)

// Walk is the guide's migration of one database at one moment.
type Walk struct {
	At     time.Time   `json:"at"`
	Phases []WalkPhase `json:"phases"`
}

// WalkPhase is one of the guide's four phases.
type WalkPhase struct {
	Number int        `json:"number"`
	Name   string     `json:"name"`
	Steps  []WalkStep `json:"steps"`
}

// Settled counts the steps that are done or waived.
func (p WalkPhase) Settled() (n int) {
	for _, s := range p.Steps {
		if s.Settled() {
			n++
		}
	}
	return n
}

// WalkStep is one step, with what is known of it.
type WalkStep struct {
	ID        string             `json:"id"`
	Title     string             `json:"title"`
	State     StepState          `json:"state"`
	Guide     []string           `json:"guide,omitempty"` // items of the guide's checklists that it answers, word for word
	Why       string             `json:"why"`
	Evidence  []Evidence         `json:"evidence"`
	Will      string             `json:"will,omitempty"`    // what its action does
	Command   string             `json:"command,omitempty"` // that does the same
	Action    StepAction         `json:"action,omitempty"`  // empty: nothing to do here
	Type      jobs.ExecutionType `json:"execution_type,omitempty"`
	BlockedBy []string           `json:"blocked_by,omitempty"` // steps that come first
	Sign      bool               `json:"sign,omitempty"`       // no program can check it: a person signs
	Signed    *SignOff           `json:"signed,omitempty"`     // who signed or waived it

	// What its action may be done to, and how it advances.
	Run      *WalkRun `json:"run,omitempty"`      // the schema migration at work
	Rollout  *Rollout `json:"rollout,omitempty"`  // under way
	Canaries []Canary `json:"canaries,omitempty"` // of a roll-out
	Services []string `json:"services,omitempty"` // of a fallback
	Back     bool     `json:"back,omitempty"`     // the action takes back what was done
}

// Settled tells whether the step keeps nothing from coming after it.
func (s WalkStep) Settled() bool { return s.State == StepDone || s.State == StepWaived }

// Evidence is one finding of a step.
type Evidence struct {
	OK     bool       `json:"ok"`
	Bad    bool       `json:"bad,omitempty"` // it is wrong, rather than not there yet
	Text   string     `json:"text"`
	At     *time.Time `json:"at,omitempty"`    // when what it tells happened; nil: it is as of now
	Lines  []string   `json:"lines,omitempty"` // source lines, a diff, one a line
	Note   bool       `json:"note,omitempty"`  // it decides nothing
	Advice string     `json:"advice,omitempty"`
}

// StepAction is what an operator can do for a step from here.
type StepAction string

// The actions of steps.
const (
	ActMigrate  StepAction = "migrate"  // run the schema migration
	ActRollout  StepAction = "rollout"  // a guarded roll-out of a type
	ActFallback StepAction = "fallback" // send a service to its http fallback and take it back
	ActRehearse StepAction = "rehearse" // roll back to http-only and undo it
	ActSign     StepAction = "sign"     // sign a step off
)

// SignOff is a person's word for a step.
type SignOff struct {
	Name   string    `json:"name"`
	Note   string    `json:"note"`
	At     time.Time `json:"at"`
	Waived bool      `json:"waived,omitempty"`
}

// Find returns a step by its id.
func (w Walk) Find(id string) (WalkStep, bool) {
	for _, p := range w.Phases {
		for _, s := range p.Steps {
			if s.ID == id {
				return s, true
			}
		}
	}
	return WalkStep{}, false
}

var phaseNames = []string{"Infrastructure preparation", "Service registry enhancement", "New execution types", "Advanced features and success"}

// GetWalk looks at everything that the guide's migration is judged by. It works
// on any database, also one without a jobs schema, changes nothing but the
// figures of the time before, which it measures once and keeps, and costs the
// same with any number of jobs, but for that one time.
func GetWalk(ctx context.Context, db *pgxpool.Pool, version string) (Walk, error) {
	f, err := readFacts(ctx, db, version)
	if err != nil {
		return Walk{}, Explain(err)
	}
	return f.walk(), nil
}

// check is a step's own way to look at the facts: its evidence, of which all
// that is no note must be OK.
type check struct {
	WalkStep
	phase  int
	needs  []string
	look   func(f *walkFacts) []Evidence
	unused func(f *walkFacts) string // why nothing here needs the step; empty: it is needed
}

func (f *walkFacts) walk() Walk {
	w := Walk{At: f.now}
	for i, name := range phaseNames {
		w.Phases = append(w.Phases, WalkPhase{Number: i + 1, Name: name})
	}
	f.states = map[string]StepState{}
	for _, c := range f.checks() {
		step := f.judge(c)
		f.states[step.ID] = step.State
		p := &w.Phases[c.phase-1]
		p.Steps = append(p.Steps, step)
	}
	return w
}

// judge gives a step its state.
func (f *walkFacts) judge(c check) WalkStep {
	step := c.WalkStep
	for _, need := range c.needs {
		if s := f.states[need]; s != StepDone && s != StepWaived {
			step.BlockedBy = append(step.BlockedBy, need)
		}
	}
	if sign, ok := f.signed[step.ID]; ok {
		step.Signed = &sign
	}
	done := step.Signed != nil && !step.Signed.Waived
	if !step.Sign {
		done = true
	}
	bad := false
	if c.look != nil && len(step.BlockedBy) == 0 {
		step.Evidence = c.look(f)
	}
	for _, e := range step.Evidence {
		if !e.Note {
			done, bad = done && e.OK, bad || e.Bad
		}
	}
	why := ""
	if c.unused != nil && len(step.BlockedBy) == 0 {
		why = c.unused(f)
	}
	switch {
	case step.Signed != nil && step.Signed.Waived:
		step.State = StepWaived
	case len(step.BlockedBy) > 0:
		step.State = StepBlocked
	case why != "":
		step.State = StepWaived
		step.Evidence = append([]Evidence{{OK: true, Text: why}}, step.Evidence...)
	case bad:
		step.State = StepFailed
	case done:
		step.State = StepDone
	default:
		step.State = StepNext
	}
	f.choices(&step)
	if step.Sign && step.Signed == nil {
		step.Action, step.Will = ActSign, "your name, your note and the time are kept in the database, for everybody"
		step.Command = "specql-tui migrate sign " + step.ID + " --note \"…\""
	}
	return step
}

// UnknownStepError says that there is no step of the name.
type UnknownStepError struct {
	ID    string
	Known []string
}

func (e *UnknownStepError) Error() string {
	return fmt.Sprintf("there is no step %q: there are %s", e.ID, strings.Join(e.Known, ", "))
}

const signSQL = `
INSERT INTO jobs.tb_migration_step AS s (step, state, name, note) VALUES ($1, $2, $3, $4)
ON CONFLICT (step) DO UPDATE SET state = excluded.state, name = excluded.name, note = excluded.note, at = now(), value = NULL`

// SignStep puts a person's word to a step: that it is done, where no program
// can check it, or, waived, that one goes without. Steps that a program checks
// cannot be signed done. It writes the audit log.
func SignStep(ctx context.Context, db *pgxpool.Pool, w Walk, id string, waive bool, name, note string, by jobs.By) error {
	step, ok := w.Find(id)
	switch {
	case !ok:
		e := &UnknownStepError{ID: id}
		for _, p := range w.Phases {
			for _, s := range p.Steps {
				e.Known = append(e.Known, s.ID)
			}
		}
		return e
	case strings.TrimSpace(name) == "" || strings.TrimSpace(note) == "":
		return fmt.Errorf("step %s: a name and a note are wanted, for those who read it later", id)
	case !waive && !step.Sign:
		return fmt.Errorf("step %s is checked by program and cannot be signed: do it, or waive it", id)
	}
	state := "signed"
	if waive {
		state = "waived"
	}
	by.Reason = note
	return Explain(pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, signSQL, id, state, name, note); err != nil {
			return err
		}
		return jobs.Audit(ctx, tx, by, "migration-step-"+state, id, map[string]string{"state": string(step.State)}, map[string]string{"state": state, "name": name})
	}))
}

// UnsignStep takes a person's word back; the step is judged by its evidence
// again. It tells whether there was any.
func UnsignStep(ctx context.Context, db *pgxpool.Pool, id string, by jobs.By) (changed bool, err error) {
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM jobs.tb_migration_step WHERE step = $1 AND state <> 'measured'`, id)
		if changed = tag.RowsAffected() > 0; err != nil || !changed {
			return err
		}
		return jobs.Audit(ctx, tx, by, "migration-step-unsigned", id, nil, nil)
	})
	return changed, Explain(err)
}

// Signer is who signs when nobody else is named.
func Signer() string {
	name, _, _ := strings.Cut(Self("").Actor, "@")
	if name == "" {
		name = os.Getenv("USER")
	}
	return name
}
