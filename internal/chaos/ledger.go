//go:build linux

package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// call is one request to the ledger: one attempt that was started.
type call struct {
	job     string // its id
	attempt int
	number  int // in the job's input
	service string
	agent   string // the process
	key     string // Idempotency-Key
	began   time.Time
	status  int // what was answered; 0 while it is open and when the caller went away
}

// reply is what the ledger does with a call.
type reply struct {
	status int             // 200 when 0
	after  time.Duration   // it takes so long
	hold   <-chan struct{} // and until this is closed; nil: no longer
}

// ledger is the service that all jobs call. It remembers every call, and
// answers with the job's number and the attempt, so that a recorded result
// tells whose it is.
type ledger struct {
	server *http.Server
	url    string // on this host

	mu       sync.Mutex
	plan     func(call) reply
	calls    []*call
	open     map[string]int // by agent
	held     map[string]int // of these, the ones that wait to be let go
	answered map[int]bool   // numbers that a call succeeded for
}

// startLedger serves until the test ends.
func startLedger(t testing.TB) *ledger {
	t.Helper()
	l := &ledger{plan: steady, open: map[string]int{}, held: map[string]int{}, answered: map[int]bool{}}
	l.server = &http.Server{Handler: l, ReadHeaderTimeout: time.Minute}
	l.url = "http://" + l.listen(t, "127.0.0.1")
	t.Cleanup(func() { l.server.Close() })
	return l
}

// follow makes plan what the ledger does with calls from now on.
func (l *ledger) follow(plan func(call) reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan = plan
}

// hold keeps such calls from now on without an answer, until they are let go.
// What was planned before holds for the others, and for all afterwards.
func (l *ledger) hold(such func(call) bool) (letGo func()) {
	hold := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.plan
	l.plan = func(c call) reply {
		select {
		case <-hold:
		default:
			if such(c) {
				return reply{hold: hold}
			}
		}
		return before(c)
	}
	return sync.OnceFunc(func() { close(hold) })
}

// steady is the plan to begin with: it answers within milliseconds, and fails the first attempt of every
// fiftieth job, so that retries are part of every scenario.
func steady(c call) reply {
	r := reply{after: time.Duration(rand.IntN(8)) * time.Millisecond}
	if failsFirst(c.number) && c.attempt == 1 {
		r.status = http.StatusServiceUnavailable
	}
	return r
}

func failsFirst(number int) bool { return number%50 == 0 }

// listen serves one more address of this host, and returns it with its port.
func (l *ledger) listen(t testing.TB, host string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	go l.server.Serve(listener)
	return listener.Addr().String()
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var input struct {
		N int `json:"n"`
	}
	attempt, err := strconv.Atoi(r.Header.Get("X-Specql-Attempt"))
	if err == nil {
		err = json.NewDecoder(r.Body).Decode(&input)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c := &call{job: r.Header.Get("X-Specql-Job-Id"), attempt: attempt, number: input.N, service: r.URL.Path[1:],
		agent: r.Header.Get("X-Agent"), key: r.Header.Get("Idempotency-Key"), began: time.Now()}
	plan := l.enter(c)
	status := l.carryOut(c.agent, plan(*c), r)
	l.leave(c, status)
	if status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"n": %d, "attempt": %d}`, c.number, c.attempt)
}

// carryOut does what was planned; 0 says that the caller went away meanwhile.
func (l *ledger) carryOut(agent string, p reply, r *http.Request) int {
	select {
	case <-time.After(p.after):
	case <-r.Context().Done():
		return 0
	}
	if p.hold != nil {
		l.keep(agent, 1)
		defer l.keep(agent, -1)
		select {
		case <-p.hold:
		case <-r.Context().Done():
			return 0
		}
	}
	if p.status != 0 {
		return p.status
	}
	return http.StatusOK
}

func (l *ledger) enter(c *call) (plan func(call) reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, c)
	l.open[c.agent]++
	return l.plan
}

func (l *ledger) leave(c *call, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c.agent]--
	c.status = status
	if status == http.StatusOK {
		l.answered[c.number] = true
	}
}

// done is how many jobs were answered well.
func (l *ledger) done() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.answered)
}

func (l *ledger) keep(agent string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[agent] += n
}

// heldOf is how many calls of the agent have no answer until they are let go:
// the others may be answered in the next moment.
func (l *ledger) heldOf(agent string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[agent]
}

// openOf is how many calls of the agent wait for their answer.
func (l *ledger) openOf(agent string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[agent]
}

// callsOf is how many calls the agent has made.
func (l *ledger) callsOf(agent string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if c.agent == agent {
			n++
		}
	}
	return n
}

// all is every call up to now, by job.
func (l *ledger) all() map[string][]call {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := map[string][]call{}
	for _, c := range l.calls {
		calls[c.job] = append(calls[c.job], *c)
	}
	return calls
}
