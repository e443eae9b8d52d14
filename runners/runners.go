// Package runners says what every runner is: it gets one attempt of a job, the
// service's configuration and a context, and returns a result. What runners
// share stands here: input and output forms, usage and errors.
//
// A runner knows neither the queue nor the console. It enforces the
// registry's policy before it starts anything, and it leaves nothing behind
// when its context ends.
package runners

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// Runner runs jobs of one execution type. Run may be called by any number of
// goroutines at once. It returns when the attempt is over or, soon after ctx
// ended, when everything that the attempt started is gone.
//
// A Result is meaningful beside an error too: usage and what security was
// applied are recorded for failed attempts as well.
type Runner interface {
	Type() jobs.ExecutionType
	Run(ctx context.Context, call Call) (Result, error)
}

// Call is one attempt. Nothing in it may be changed by a runner.
type Call struct {
	Job       *jobs.Job
	Service   *registry.Service
	Operation *registry.Operation
	Timeout   time.Duration // the attempt's; ctx carries it as its deadline
	Log       *Log          // what the attempt says while it runs; nil: nobody listens

	// ReservedUSD is what was set aside of the service's max_cost_per_hour for the
	// attempt; 0: it has none. A Priced runner does not start what may cost more.
	ReservedUSD float64

	// Again is asked before each request beyond the attempt's first, such as a
	// retry within it: rate limits count requests, whatever they are for. A
	// positive time says that there is no room before it has passed, an error
	// that it cannot be known; then the request is not made. nil: none is
	// counted.
	Again func(context.Context) (time.Duration, error)
}

// Result is what an attempt gave.
type Result struct {
	Output   json.RawMessage // a JSON object for output_data; nil: none
	Usage    Usage
	Security map[string]any // what held for the attempt, for security_context; no secrets
}

// Usage is the column resource_usage. A field that means nothing for a type
// is nil and left out.
type Usage struct {
	CPUUsagePercent *float64 // CPU time / wall × 100
	MemoryMB        *float64 // MiB, at the end or on average
	PeakMemoryMB    *float64 // MiB
	DurationSeconds float64  // wall time; the agent fills it
	BilledMS        *float64 // what a function's run is billed for
	InitMS          *float64 // of it, what a cold start took
	CostUSD         *float64 // what the attempt cost; nil: nobody knows, or it has no price
}

// JSON is the column's value: numbers, and nothing where a field means nothing.
func (u Usage) JSON() json.RawMessage {
	b := append(make([]byte, 0, 48), '{')
	add := func(name string, v float64) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), name...), '"', ':')
		b = strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	for _, f := range []struct {
		name  string
		value *float64
	}{{"cpu_usage_percent", u.CPUUsagePercent}, {"memory_mb", u.MemoryMB}, {"peak_memory_mb", u.PeakMemoryMB},
		{"billed_ms", u.BilledMS}, {"init_ms", u.InitMS}, {"cost_usd", u.CostUSD}} {
		if f.value != nil && !math.IsNaN(*f.value) && !math.IsInf(*f.value, 0) {
			add(f.name, *f.value)
		}
	}
	add("duration_seconds", u.DurationSeconds)
	return append(b, '}')
}
