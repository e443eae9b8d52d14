package migrations

import "time"

// StepState is what a Progress tells.
type StepState string

// The states of a Progress.
const (
	Running  StepState = "running"
	Waiting  StepState = "waiting"  // for whom Progress.Waiting names
	Retrying StepState = "retrying" // after a pause; the step had to give way
	Watching StepState = "watching" // another session migrates; the rest is what that one tells
	Done     StepState = "done"
	Idle     StepState = "nothing to do"
)

// Progress is one report of a migration's advance. A step begins with
// Running and ends with Done; a long one reports each second in between.
type Progress struct {
	Migration string        `json:"migration,omitempty"` // "001_multi_execution"; empty before the first
	Step      string        `json:"step,omitempty"`
	Index     int           `json:"index,omitempty"`    // of the step in its migration, from 1
	Count     int           `json:"count,omitempty"`    // of its migration's steps
	Position  int           `json:"position,omitempty"` // among the steps of the whole run, from 1
	Of        int           `json:"of,omitempty"`       // steps of the whole run
	State     StepState     `json:"state"`
	Elapsed   time.Duration `json:"elapsed_ns"`        // since the step began
	Waiting   string        `json:"waiting,omitempty"` // who blocks: process, user, for how long, what it runs

	// Advance is how far a long step is.
	Advance

	long bool // the step may take long
}

// Advance is how far a step is that goes through the jobs table. The zero
// value says that nothing is known.
type Advance struct {
	Phase string        `json:"phase,omitempty"` // of an index build, in PostgreSQL's words
	Done  int64         `json:"done,omitempty"`
	Total int64         `json:"total,omitempty"` // of the back-fill: an estimate
	Unit  string        `json:"unit,omitempty"`  // "blocks" or "rows"
	Rate  float64       `json:"rate,omitempty"`  // of Unit, a second
	Left  time.Duration `json:"left_ns,omitempty"`
}

// Fraction is from 0 to 1.
func (a Advance) Fraction() float64 {
	if a.Total <= 0 {
		return 0
	}
	return min(1, float64(a.Done)/float64(a.Total))
}

// since reckons rate and time left of what went on since first was seen.
func (a Advance) since(first Advance, elapsed time.Duration) Advance {
	if done := a.Done - first.Done; done > 0 && elapsed > 0 {
		a.Rate = float64(done) / elapsed.Seconds()
		a.Left = time.Duration(float64(max(0, a.Total-a.Done)) / a.Rate * float64(time.Second))
	}
	return a
}
