package parts

import (
	"context"
	"time"
)

// Ask is what a dialog is made of: what will happen, read first; what the
// operator must say; and the doing.
type Ask struct {
	Title string

	// Choices come first where there is something to choose from; each leads
	// to an Ask of its own, and the rest of this one is not used.
	Choices []Choice

	// Shows is for a dialog that only shows lines to scroll; nothing else of it
	// is used.
	Shows func(ctx context.Context) ([]string, error)

	Fields []Input // what is to be filled in, before the reason

	// Plan says what will happen. Nothing is changed. It may be called again
	// for the same dialog and must heed its context.
	Plan func(ctx context.Context) (Plan, error)

	// Do does it. It tells how far it has come by the way where that is known,
	// and stops where it stands when its context ends.
	Do func(ctx context.Context, said Said, progress func(done int64)) Outcome

	// Lasts says that Do takes as long as it takes, may be stopped and shows its
	// progress; otherwise it has a deadline.
	Lasts bool
}

// Choice is one line to choose, by its letter or the cursor.
type Choice struct {
	Key, Text string
	Ask       Ask
}

// Input is one field to be filled in.
type Input struct {
	Name, Label string
	Value       string
	Hint        string                    // what goes into it
	Check       func(value string) string // what is wrong with it; nil: nothing can be
}

// Plan is what will happen.
type Plan struct {
	Effects []string // sentences
	Warning string   // what is dangerous about it
	Name    string   // must be typed; empty: nothing
	Reason  bool     // a reason must be given; else it may
	Plain   bool     // no reason is asked for at all
	Action  string   // the button; empty: the dialog's title
	Nothing string   // why there is nothing to do; the dialog then ends with it
	Total   int64    // of what progress counts; 0: not known
	Leave   string   // the other button; empty: Cancel
}

// Said is what the operator filled in.
type Said struct {
	Reason string
	Fields map[string]string
}

// Outcome is what came of it.
type Outcome struct {
	Lines []string // the first one begins with a symbol: ●, ○, ▲ or ✕
	Bad   bool
	Undo  *Undo // nil: it can't be taken back
}

// Undo takes an action back.
type Undo struct {
	Title string // "Switch shell on again"
	Plan  func(ctx context.Context) (Plan, error)
	Do    func(ctx context.Context, said Said, progress func(done int64)) Outcome
}

// Failed is the outcome of an error.
func Failed(what string, err error) Outcome {
	return Outcome{Bad: true, Lines: []string{"✕ " + what, Clean(err.Error())}}
}

// DoDeadline bounds what one press of a button does in the database, unless
// it lasts.
const DoDeadline = 3 * ReadDeadline

type askStage int

const (
	askChoosing askStage = iota
	askPlanning
	askAsking
	askWorking
	askFinished
	askShowing
)

// Dialog is an Ask on the screen. The focus starts on the way out, and for a
// moment after anything new appears it takes no key.
type Dialog struct {
	Serial int
	ask    Ask
	opened time.Time
	stage  askStage
	choice int

	plan   Plan
	name   Field
	fields []Field
	reason Field
	at     int
	hint   string

	shown  []string
	top    int
	height int

	done    int64
	outcome Outcome
	stop    context.CancelFunc
	told    chan int64
}

// Planned, Progressed and Done are a dialog's answers.
type (
	// Planned is a plan that was read.
	Planned struct {
		Serial int
		Plan   Plan
		Shown  []string // what a dialog that only shows was given
		Err    error
	}
	// Progressed is how far an action has come.
	Progressed struct {
		Serial int
		Done   int64
	}
	// Done is an action that ended.
	Done struct {
		Serial  int
		Outcome Outcome
	}
)
