package serverless

import (
	"cmp"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Prices are what AWS Lambda costs, in USD.
type Prices struct {
	AsOf       string  // the day they were read, 2026-11-23
	PerRequest float64 // one invocation
	X86        float64 // a GB-second on x86_64
	ARM        float64 // a GB-second on arm64
}

func (p Prices) isZero() bool { return p == Prices{} }

// DefaultPrices are those of us-east-1 in the first tier, without free ones
// (aws.amazon.com/lambda/pricing). Other regions cost up to a fifth more: a
// service's prices can be given in its runner_config.
var DefaultPrices = Prices{AsOf: "2026-11-23", PerRequest: 0.20 / 1e6, X86: 0.0000166667, ARM: 0.0000133334}

// Architectures, as AWS calls them.
const (
	archX86 = "x86_64"
	archARM = "arm64"
)

// price is what one function's invocations cost.
type price struct{ perRequest, perGBSecond float64 }

// price of a service's function. Where its architecture is not known, the dearer
// one counts.
func (r *Runner) price(s *registry.Service, arch string) price {
	p := price{r.opts.Prices.PerRequest, max(r.opts.Prices.X86, r.opts.Prices.ARM)}
	switch arch {
	case archX86:
		p.perGBSecond = r.opts.Prices.X86
	case archARM:
		p.perGBSecond = r.opts.Prices.ARM
	}
	p.perGBSecond = cmp.Or(s.RunnerConfig.PricePerGBSecond, p.perGBSecond)
	if million := s.RunnerConfig.PricePerMillionRequests; million > 0 {
		p.perRequest = million / 1e6
	}
	return p
}

// of is the cost of one invocation.
func (p price) of(memoryMB, billedMS int64) float64 {
	return p.perRequest + p.perGBSecond*float64(memoryMB)/1024*float64(billedMS)/1000
}

// Bounds of AWS Lambda that count where a function's own are not known.
const (
	maxMemoryMB = 10240
	maxTimeout  = 900 * time.Second
	maxInit     = 10 * time.Second // is billed beside the timeout
)

// eventTries is how often AWS runs a function for one event that fails.
const eventTries = 3

// MostCost implements runners.Priced: what one attempt costs when the function
// uses its whole timeout, by the function's own memory and timeout. Until they are
// known the registry's count, and they are asked for in the background.
func (r *Runner) MostCost(s *registry.Service) float64 {
	if s.ExecutionType != jobs.Serverless {
		return 0
	}
	most := 0.0
	for i := range s.Operations {
		most = max(most, r.mostOf(s, &s.Operations[i]))
	}
	return most
}

// mostOf is MostCost of one operation.
func (r *Runner) mostOf(s *registry.Service, op *registry.Operation) float64 {
	cost := r.most(s, qualifierOf(s, op))
	if kindOf(s, op) == event {
		cost *= eventTries
	}
	return cost
}

// most is what one run of a function may cost. Memory that AWS has reported counts
// over less that was found. Where AWS does not show the configuration, only its
// own bounds are certain.
func (r *Runner) most(s *registry.Service, qualifier string) float64 {
	known := r.facts.known(s, qualifier)
	if !known.found {
		r.lookLater(s, qualifier)
	}
	memory, timeout := known.memoryMB, known.timeout
	switch {
	case known.found:
		memory = max(memory, known.reportedMB)
	case known.why != "":
		memory, timeout = cmp.Or(known.reportedMB, maxMemoryMB), maxTimeout
	default: // nobody has asked yet; whoever starts an attempt asks before
		memory = cmp.Or(known.reportedMB, s.RunnerConfig.MemoryMB, s.SecurityPolicy.ResourceLimits.MemoryMB, maxMemoryMB)
		timeout = maxTimeout
		if given := cmp.Or(s.RunnerConfig.Timeout, s.SecurityPolicy.ResourceLimits.TimeoutSeconds); given > 0 {
			timeout = time.Duration(given) * time.Second
		}
	}
	return r.price(s, known.arch).of(int64(memory), (timeout + maxInit).Milliseconds())
}
