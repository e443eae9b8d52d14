package serverless

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/specql/specql-ops/registry"
)

// How long what is known of a function counts, and how long it may take to ask.
const (
	factsFor   = 5 * time.Minute
	silenceFor = time.Minute // after a question without an answer
	trustFor   = time.Hour   // while there is none
	lookTime   = 3 * time.Second
)

// facts are how a function is configured on AWS.
type facts struct {
	found    bool
	memoryMB int
	timeout  time.Duration
	arch     string
	why      string // they are not known

	reportedMB int // memory by which AWS billed, where it was not found or otherwise; 0: none
}

// warnings say where the function is configured otherwise than the registry has
// it: Invoke cannot set memory or timeout, so the function's own count.
func (f facts) warnings(s *registry.Service) []string {
	rc := &s.RunnerConfig
	var all []string
	if !f.found {
		if f.why != "" && s.SecurityPolicy.CostLimits.MaxCostPerHour > 0 {
			all = append(all, fmt.Sprintf("the configuration of function %s cannot be read, so each attempt sets aside what %s and %d s of AWS Lambda cost: grant the agent lambda:GetFunctionConfiguration",
				rc.FunctionName, f.largest(), int(maxTimeout.Seconds())))
		}
		return all
	}
	if rc.MemoryMB > 0 && rc.MemoryMB != f.memoryMB {
		all = append(all, fmt.Sprintf("function %s has %d MB of memory, the registry says memory_mb: %d", rc.FunctionName, f.memoryMB, rc.MemoryMB))
	}
	if limit := s.SecurityPolicy.ResourceLimits.MemoryMB; limit > 0 && f.memoryMB > limit {
		all = append(all, fmt.Sprintf("function %s has %d MB of memory, resource_limits.memory_mb is %d", rc.FunctionName, f.memoryMB, limit))
	}
	if own := int(f.timeout.Seconds()); rc.Timeout > 0 && rc.Timeout != own {
		all = append(all, fmt.Sprintf("function %s has a timeout of %d s, the registry says timeout: %d", rc.FunctionName, own, rc.Timeout))
	}
	return all
}

// largest is the memory that may be billed where the function does not show it.
func (f facts) largest() string { return fmt.Sprintf("%d MB", cmp.Or(f.reportedMB, maxMemoryMB)) }

type factKey struct {
	access              access
	function, qualifier string
}

// factBook remembers facts for a while. One question a function is under way at a
// time; who comes meanwhile waits for it.
type factBook struct {
	now func() time.Time
	mu  sync.Mutex
	all map[factKey]*entry

	closed bool // nothing more is looked up in the background
}

type entry struct {
	asking sync.Mutex
	facts  facts // these four under the book's lock
	until  time.Time
	seen   time.Time // when they were found
	told   string    // warnings that were logged

	looking bool // in the background
}

func newFactBook(now func() time.Time) *factBook {
	return &factBook{now: now, all: map[factKey]*entry{}}
}

func keyOf(s *registry.Service, qualifier string) factKey {
	return factKey{accessOf(s), s.RunnerConfig.FunctionName, qualifier}
}

func (b *factBook) entry(key factKey) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.all[key]
	if e == nil {
		e = &entry{}
		b.all[key] = e
	}
	return e
}

// known is what was last found, however old; it asks nobody.
func (b *factBook) known(s *registry.Service, qualifier string) facts {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.all[keyOf(s, qualifier)]; e != nil {
		return e.facts
	}
	return facts{}
}

// reported takes note of the memory by which AWS billed a run. What was found
// otherwise is not believed any more and looked up anew. A function of several
// versions behind an alias may go on differing: that is asked for once.
func (b *factBook) reported(s *registry.Service, qualifier string, memoryMB int) {
	e := b.entry(keyOf(s, qualifier))
	b.mu.Lock()
	defer b.mu.Unlock()
	switch f := e.facts; {
	case !f.found:
		e.facts.reportedMB = max(f.reportedMB, memoryMB)
	case f.memoryMB != memoryMB && f.reportedMB != memoryMB:
		e.facts, e.until = facts{reportedMB: memoryMB}, time.Time{}
	}
}

func (b *factBook) fresh(e *entry) (facts, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return e.facts, b.now().Before(e.until)
}

// look finds how the service's function is configured.
func (r *Runner) look(ctx context.Context, s *registry.Service, qualifier string) facts {
	e := r.facts.entry(keyOf(s, qualifier))
	if f, ok := r.facts.fresh(e); ok {
		return f
	}
	e.asking.Lock()
	defer e.asking.Unlock()
	if f, ok := r.facts.fresh(e); ok {
		return f
	}
	f := r.ask(ctx, s, qualifier)
	if ctx.Err() != nil && !f.found {
		return r.facts.known(s, qualifier)
	}
	r.facts.mu.Lock()
	defer r.facts.mu.Unlock()
	e.take(f, r.facts.now())
	r.tell(e, s, f)
	return e.facts
}

// take keeps what a question found. What was found before outlasts questions
// without an answer for a while.
func (e *entry) take(f facts, now time.Time) {
	if f.found || !e.facts.found || now.Sub(e.seen) > trustFor {
		if !f.found || !e.facts.found {
			f.reportedMB = e.facts.reportedMB
		}
		e.facts = f
	}
	e.until = now.Add(silenceFor)
	if f.found {
		e.until, e.seen = now.Add(factsFor), now
	}
}

// tell logs what is to be known of a function's configuration, once.
func (r *Runner) tell(e *entry, s *registry.Service, f facts) {
	told := "nothing was found"
	if f.found {
		told = fmt.Sprint(f.warnings(s))
	}
	if told == e.told {
		return
	}
	e.told = told
	if !f.found {
		r.opts.Log.Warn("a function's configuration cannot be read: its memory and timeout are not compared, and a budget sets aside what the largest function costs; grant lambda:GetFunctionConfiguration",
			"service", s.Name, "function", s.RunnerConfig.FunctionName, "reason", f.why)
		return
	}
	for _, w := range f.warnings(s) {
		r.opts.Log.Warn(w, "service", s.Name)
	}
}

// lookLater looks in the background, once at a time for each function.
func (r *Runner) lookLater(s *registry.Service, qualifier string) {
	e := r.facts.entry(keyOf(s, qualifier))
	r.facts.mu.Lock()
	begin := !e.looking && !r.facts.closed && !r.facts.now().Before(e.until)
	if begin {
		e.looking = true
		r.looking.Add(1)
	}
	r.facts.mu.Unlock()
	if !begin {
		return
	}
	go func() {
		defer r.looking.Done()
		r.look(r.ctx, s, qualifier)
		r.facts.mu.Lock()
		e.looking = false
		r.facts.mu.Unlock()
	}()
}

func (r *Runner) ask(ctx context.Context, s *registry.Service, qualifier string) facts {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	client, err := r.clients.get(ctx, s)
	if err != nil {
		return facts{why: err.Error()}
	}
	input := &lambda.GetFunctionConfigurationInput{FunctionName: &s.RunnerConfig.FunctionName}
	if qualifier != "" {
		input.Qualifier = &qualifier
	}
	out, err := client.lambda.GetFunctionConfiguration(ctx, input)
	if err != nil {
		return facts{why: shorten(err.Error(), maxLine)}
	}
	f := facts{found: true, memoryMB: int(aws.ToInt32(out.MemorySize)), timeout: time.Duration(aws.ToInt32(out.Timeout)) * time.Second, arch: archX86}
	if len(out.Architectures) > 0 {
		f.arch = string(out.Architectures[0])
	}
	return f
}
