// Package runnertest is the conformance suite that every runner passes: it
// says once what the agent relies on, whatever runs the job. A runner's own
// tests say the rest.
//
// The suite drives a real runner against real work that the runner's harness
// sets up. It waits for events, never for time. What differs by nature between
// types, such as what can be measured, the harness declares and the suite holds
// it to that.
package runnertest

import (
	"testing"

	"github.com/specql/specql-ops/runners"
)

// Behaviour is what the work behind a call does. A harness makes a real
// service, script, image or function of each.
type Behaviour int

// The behaviours that a harness offers.
const (
	// Succeed answers with SuccessOutput.
	Succeed Behaviour = iota
	// PlainText answers with PlainTextOutput and succeeds.
	PlainText
	// Fail fails as a service does that may do better next time (exit status
	// 3, HTTP 500) and says FailureText as its reason (stderr, body).
	Fail
	// HugeOutput answers with at least HugeOutputBytes of text.
	HugeOutput
	// Crash begins and breaks off without an answer, as a program does that
	// panics: a signal, a broken connection, a lost function.
	Crash
	// Hang starts and then neither answers nor ends by itself.
	Hang
	// Refused is a call that the service's security policy does not permit.
	Refused
	// Reveal answers with all that the work can see: its request's headers,
	// its environment, its payload's context. Some of it says which job it is,
	// and some of it should not be repeated. It succeeds.
	Reveal
)

// String names the behaviour in a test's output.
func (b Behaviour) String() string {
	switch b {
	case Succeed:
		return "Succeed"
	case PlainText:
		return "PlainText"
	case Fail:
		return "Fail"
	case HugeOutput:
		return "HugeOutput"
	case Crash:
		return "Crash"
	case Hang:
		return "Hang"
	case Refused:
		return "Refused"
	case Reveal:
		return "Reveal"
	}
	return "unknown behaviour"
}

// What the work answers.
const (
	SuccessOutput   = `{"status": "done", "items": 3}`
	PlainTextOutput = "all 3 items done"
	FailureText     = "the ledger is locked"

	// HugeOutputBytes is the least that HugeOutput writes.
	HugeOutputBytes = 32 << 20
	// MaxOutputBytes is the most that any runner may put in Result.Output.
	MaxOutputBytes = 16 << 20
)

// The suite plants a secret before it calls New: the variable SecretEnv of
// this process holds Secret. A harness whose runner takes credentials from
// the environment names SecretEnv in its services' configuration; one whose
// runner takes none does nothing, and the suite then shows that the agent's
// environment stays with the agent.
const (
	SecretEnv = "SPECQL_RUNNERTEST_SECRET"
	Secret    = "planted-7f3a91c2-never-to-be-seen"
)

// Harness is what a runner's test hands to Suite.
type Harness struct {
	// New makes the runner under test and leaves its end to t.Cleanup. Each
	// of the suite's tests has its own runner.
	New func(t *testing.T) runners.Runner

	// Call makes one call of the behaviour, with a job id of its own. The
	// suite sets Timeout, Log where it is nil, and some of the row's fields.
	// What the call needs, such as a server or a script, may belong to t and end with it.
	Call func(t *testing.T, b Behaviour) runners.Call

	// AwaitHang returns once the work of the latest Hang call is running,
	// and fails the test when it does not come to that. It is called from
	// the test's own goroutine.
	AwaitHang func(t *testing.T)

	// Hung tells whether the work of the latest Hang call has begun, without
	// waiting for it.
	Hung func(t *testing.T) bool

	// Measures are the fields of resource_usage that this runner fills on
	// this host for every attempt that the work itself ended:
	// cpu_usage_percent, memory_mb, peak_memory_mb, billed_ms, cost_usd. Where
	// none is listed, the work is done elsewhere and none may ever be there.
	Measures []string

	// Crowd is how many calls run at once; 50 when 0.
	Crowd int
}
