package lambdadev

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// maxInit is how long an environment may take until it asks for its first
// invocation; one that takes longer is begun anew in the function's own time:
// https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
const maxInit = 10 * time.Second

// invocation is one call on its way through an environment.
type invocation struct {
	id            string
	payload       []byte
	arn           string
	traceID       string
	clientContext string
	deadline      time.Time
	emit          func([]byte) error // takes a streamed answer; nil: answers are buffered

	answered chan struct{} // closed once answer is set
	answer   answer
	finished chan struct{} // closed when the runtime asks for the next one
}

// answer is what the runtime said of an invocation.
type answer struct {
	payload  []byte
	failed   bool
	tooLarge bool
}

func newInvocation(payload []byte) *invocation {
	return &invocation{id: newID(), payload: payload, answered: make(chan struct{}), finished: make(chan struct{})}
}

// run carries an invocation out, in a warm environment or in a new one.
func (s *Server) run(v *version, in *invocation) outcome {
	e, started, err := v.take(s)
	if err != nil {
		return outcome{id: in.id, functionError: "Unhandled", payload: failure("Runtime.InvalidEntrypoint", fmt.Sprintf("RequestId: %s Error: %v", in.id, err))}
	}
	report := report{id: in.id, memory: e.conf.MemorySize}
	timeout := time.Duration(e.conf.Timeout) * time.Second
	if started {
		came, limit := e.await(maxInit), maxInit
		if !came && e.slow {
			// The service begins such an init anew, in the function's own time.
			if e, err = v.start(s); err != nil {
				return outcome{id: in.id, functionError: "Unhandled", payload: failure("Runtime.InvalidEntrypoint", fmt.Sprintf("RequestId: %s Error: %v", in.id, err))}
			}
			came, limit = e.await(timeout), timeout
			timeout = max(0, timeout-time.Since(e.begun))
		}
		if !came {
			return s.failInit(e, in, limit, report)
		}
		report.init = e.initTook
	}
	e.logs.add(fmt.Sprintf("START RequestId: %s Version: %s\n", in.id, e.conf.Version))
	begun := time.Now()
	in.deadline = begun.Add(timeout)
	end := e.carryOut(in, timeout)
	report.took = time.Since(begun)
	out := outcome{id: in.id}
	var said answer
	if isAnswered(in) {
		said = in.answer
		out.payload = said.payload
	}
	switch {
	case end == endedTimeout:
		report.took = timeout
		out.payload, report.status = timedOut(e, in.id, timeout), "timeout"
		out.functionError = "Unhandled"
	case end == endedMemory || end == endedExit && !isAnswered(in):
		out.payload = exited(e, in.id)
		out.functionError, report.status, report.errorType = "Unhandled", "error", "Runtime.ExitError"
	case said.tooLarge:
		out.payload = failure("Function.ResponseSizeTooLarge", fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", maxAnswer))
		out.functionError, report.status, report.errorType = "Unhandled", "error", "Function.ResponseSizeTooLarge"
	case said.failed:
		out.functionError = "Unhandled"
	}
	return s.close(e, v, end == endedWell, out, report)
}

func isAnswered(in *invocation) bool {
	select {
	case <-in.answered:
		return true
	default:
		return false
	}
}

// close writes the report, and keeps the environment warm or ends it.
func (s *Server) close(e *environment, v *version, keep bool, out outcome, r report) outcome {
	r.used = e.memoryUsed()
	e.logs.add(fmt.Sprintf("END RequestId: %s\n%s\n", out.id, r))
	out.log = e.logs.take()
	s.log(out.log)
	if keep {
		v.putBack(e, s.opt.KeepWarm)
	} else {
		e.kill()
	}
	return out
}

// failInit words the end of an environment that never asked for an invocation.
func (s *Server) failInit(e *environment, in *invocation, limit time.Duration, r report) outcome {
	e.logs.settle() // what it said before it ended
	out := outcome{id: in.id, functionError: "Unhandled", payload: e.initError()}
	e.logs.add(fmt.Sprintf("START RequestId: %s Version: %s\n", in.id, e.conf.Version))
	r.status, r.init = "error", min(e.initTook, limit)
	switch {
	case out.payload != nil:
		r.errorType = outcome{payload: out.payload}.errorType()
	case e.slow:
		out.payload, r.status = timedOut(e, in.id, limit), "timeout"
	default:
		out.payload, r.errorType = exited(e, in.id), "Runtime.ExitError"
	}
	return s.close(e, nil, false, out, r)
}

// timedOut and exited are worded as the service words them, in log and payload.
func timedOut(e *environment, id string, after time.Duration) []byte {
	words := fmt.Sprintf("Task timed out after %.2f seconds", after.Seconds())
	e.logs.add(fmt.Sprintf("%s %s %s\n\n", time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), id, words))
	return failure("Sandbox.Timedout", fmt.Sprintf("RequestId: %s Error: %s", id, words))
}

func exited(e *environment, id string) []byte {
	words := fmt.Sprintf("RequestId: %s Error: Runtime exited %s", id, e.how())
	e.logs.add(words + "\nRuntime.ExitError\n")
	return failure("Runtime.ExitError", words)
}

// report is the REPORT line of an invocation.
type report struct {
	id                string
	took, init        time.Duration
	memory, used      int // MB
	status, errorType string
}

// billed is the time that is paid for: the init's too, in whole milliseconds.
func (r report) billed() int64 {
	return int64(math.Ceil(float64(r.took+r.init) / float64(time.Millisecond)))
}

func (r report) String() string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	var b strings.Builder
	fmt.Fprintf(&b, "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB\tMax Memory Used: %d MB\t",
		r.id, ms(r.took), r.billed(), r.memory, r.used)
	if r.init > 0 {
		fmt.Fprintf(&b, "Init Duration: %.2f ms\t", ms(r.init))
	}
	if r.status != "" {
		fmt.Fprintf(&b, "Status: %s\t", r.status)
	}
	if r.errorType != "" {
		fmt.Fprintf(&b, "Error Type: %s\t", r.errorType)
	}
	return b.String()
}
