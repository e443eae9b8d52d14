package telemetry

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/jobs"
)

// Source is the agent that is shown.
type Source interface {
	Stats() agent.Stats
	Health() agent.Health
}

// figures makes metrics of an agent's Stats at each scrape. Labels are bounded
// by the registry: services and operations that only rows name have none.
type figures struct{ source Source }

// NewFigures is the collector of what the agent knows without asking the
// database.
func NewFigures(source Source) prometheus.Collector { return figures{source} }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("specql_"+name, help, labels, nil)
}

var (
	jobsTotal = describe("jobs_total", "Attempts that ended, by how: completed, failed, cancelled, handed_back or lease_lost.",
		"execution_type", "service", "operation", "outcome")
	deadLetters = describe("dead_letters_total", "Jobs that failed for good: no attempt was left, or none would have helped.",
		"execution_type", "service")
	violations = describe("violations_total", "Attempts that broke a rule of the security policy or a resource limit.",
		"execution_type", "service", "rule")
	jobDuration = describe("job_duration_seconds", "How long attempts ran.", "execution_type", "service")
	jobWait     = describe("job_wait_seconds", "How long jobs waited before they were claimed.", "execution_type", "service")
	jobCPU      = describe("job_cpu_ratio", "CPU time of attempts by their wall time; 1 is one core.", "execution_type", "service")
	jobMemory   = describe("job_memory_bytes", "Peak memory of attempts.", "execution_type", "service")
	jobPeak     = describe("job_memory_peak_bytes", "The most memory that any attempt has used since the agent started.", "execution_type", "service")

	slots      = describe("slots", "Jobs that the agent may run at once.")
	running    = describe("running", "Jobs that run.")
	unrecorded = describe("unrecorded_results", "Results that are not in the database yet.")

	agentInfo  = describe("agent_info", "Always 1; the agent by its name and version.", "name", "version")
	agentState = describe("agent_state", "1 for the agent's state: running, paused, draining or drained.", "state")
	agentReady = describe("agent_ready", "1 when the agent takes jobs: what /readyz says.")

	registryInfo     = describe("registry_info", "Always 1; the registry that claims follow.", "hash", "environment")
	reloadSuccess    = describe("registry_reload_success", "1 when the registry on disk is the one in use, 0 when it was rejected.")
	reloadTimestamp  = describe("registry_reload_timestamp_seconds", "When the registry in use was applied.")
	registryReloads  = describe("registry_reloads_total", "Changed registry files, by whether they were applied or rejected.", "outcome")
	leasesLost       = describe("leases_lost_total", "How often the agent's lease ran out: its jobs were given to others.")
	takenOver        = describe("jobs_taken_over_total", "Jobs that this agent took over from agents whose lease ran out.")
	lateResults      = describe("late_results_total", "Results that did not count: their job was cancelled or taken over.")
	schemaMisfits    = describe("schema_misfits_total", "Inputs and outputs that did not fit their operation's schema.", "document")
	databaseUp       = describe("database_connected", "1 when all connections for it stand: queue, heartbeats, wake-ups.", "for")
	reconnects       = describe("database_reconnects_total", "Database connections that were lost.")
	exchangeDuration = describe("exchange_seconds", "Round trips with the queue: results recorded and jobs claimed.")
	exchangeResults  = describe("exchange_results", "Results that one round trip recorded.")
	exchangeClaims   = describe("exchange_claims", "Jobs that one round trip claimed.")
)

var figuresDescs = []*prometheus.Desc{jobsTotal, deadLetters, violations, jobDuration, jobWait, jobCPU, jobMemory, jobPeak,
	slots, running, unrecorded, agentInfo, agentState, agentReady, registryInfo, reloadSuccess, reloadTimestamp,
	registryReloads, leasesLost, takenOver, lateResults, schemaMisfits, databaseUp, reconnects, exchangeDuration, exchangeResults, exchangeClaims}

// The buckets are some of jobs.Histogram's, so that their counts are exact:
// its first bound times powers of two.
var (
	jobBounds      = bounds(4, 6, 8, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24) // 1.6 ms to 28 min
	exchangeBounds = bounds(2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16)          // 0.4 ms to 6.6 s
)

func bounds(doublings ...int) []time.Duration {
	b := make([]time.Duration, len(doublings))
	for i, n := range doublings {
		b[i] = 100 * time.Microsecond << n
	}
	return b
}

func (f figures) Describe(out chan<- *prometheus.Desc) {
	for _, d := range figuresDescs {
		out <- d
	}
}

func (f figures) Collect(out chan<- prometheus.Metric) {
	s := f.source.Stats()
	w := writer{out}
	w.jobs(&s)
	w.gauge(slots, float64(s.Slots))
	w.gauge(running, float64(s.Running))
	w.gauge(unrecorded, float64(s.Unrecorded))

	w.gauge(agentInfo, 1, s.Name, s.Version)
	for _, state := range []string{jobs.AgentRunning, jobs.AgentPaused, jobs.AgentDraining, jobs.AgentDrained} {
		w.gauge(agentState, oneIf(state == s.State), state)
	}
	w.gauge(agentReady, oneIf(len(f.source.Health().NotReady) == 0))

	w.gauge(registryInfo, 1, s.Registry.Hash, s.Registry.Env)
	w.gauge(reloadSuccess, oneIf(s.Rejected == ""))
	w.gauge(reloadTimestamp, float64(s.AppliedAt.UnixMilli())/1000)
	w.counter(registryReloads, float64(s.Reloads.Applied), "applied")
	w.counter(registryReloads, float64(s.Reloads.Rejected), "rejected")

	w.counter(leasesLost, float64(s.LeasesLost))
	w.counter(takenOver, float64(s.TakenOver))
	w.counter(lateResults, float64(s.LateResults))
	w.counter(schemaMisfits, float64(s.UnfitInputs), "input")
	w.counter(schemaMisfits, float64(s.UnfitOutputs), "output")
	for what, stands := range s.Connected {
		w.gauge(databaseUp, oneIf(stands), what)
	}
	w.counter(reconnects, float64(s.Reconnects))
	w.durations(exchangeDuration, &s.Exchanges.Took, s.Exchanges.Seconds, exchangeBounds)
	w.sizes(exchangeResults, &s.Exchanges.Results)
	w.sizes(exchangeClaims, &s.Exchanges.Claims)
}

// writer turns figures into the metrics of one scrape.
type writer struct{ out chan<- prometheus.Metric }

func (w writer) counter(d *prometheus.Desc, v float64, labels ...string) {
	w.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (w writer) gauge(d *prometheus.Desc, v float64, labels ...string) {
	w.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (w writer) durations(d *prometheus.Desc, h *jobs.Histogram, sum float64, bounds []time.Duration, labels ...string) {
	buckets := make(map[float64]uint64, len(bounds))
	for _, b := range bounds {
		// Not b.Seconds(), which is 1.6383999999999999 where 1.6384 is meant.
		buckets[float64(b)/float64(time.Second)] = uint64(h.UpTo(b))
	}
	w.out <- prometheus.MustNewConstHistogram(d, uint64(h.Count()), sum, buckets, labels...)
}

func (w writer) sizes(d *prometheus.Desc, s *agent.Sizes) {
	var n uint64
	buckets := make(map[float64]uint64, len(agent.SizeBounds))
	for i, b := range agent.SizeBounds {
		n += uint64(s.Counts[i])
		buckets[float64(b)] = n
	}
	n += uint64(s.Counts[len(agent.SizeBounds)])
	w.out <- prometheus.MustNewConstHistogram(d, n, float64(s.Sum), buckets)
}

// jobs writes what happened to the services' jobs. Each operation's counts are
// there from the start, so that the first failure is seen as an increase.
func (w writer) jobs(s *agent.Stats) {
	totals := slices.Clone(s.Totals)
	have := map[[2]string]bool{}
	for i := range totals {
		have[[2]string{totals[i].Service, totals[i].Operation}] = true
	}
	for _, service := range s.Services() {
		for i := range service.Operations {
			if name := service.Operations[i].Name; !have[[2]string{service.Name, name}] {
				totals = append(totals, agent.Total{Metric: jobs.Metric{Type: service.ExecutionType, Service: service.Name, Operation: name}})
			}
		}
	}
	slices.SortFunc(totals, func(a, b agent.Total) int { return cmp.Compare(a.Service, b.Service) })
	for len(totals) > 0 {
		n := 1
		for n < len(totals) && totals[n].Service == totals[0].Service {
			n++
		}
		w.service(totals[:n])
		totals = totals[n:]
	}
}

// service writes the metrics of one service's operations.
func (w writer) service(operations []agent.Total) {
	const mebibyte = 1 << 20
	t, name := string(operations[0].Type), operations[0].Service
	var all jobs.Metric
	var dead int64
	rules := map[string]int64{}
	for i := range operations {
		o := &operations[i]
		w.operation(t, o)
		all.Merge(&o.Metric)
		dead += o.DeadLetters
		for rule, n := range o.Rules {
			rules[rule] += n
		}
	}
	w.counter(deadLetters, float64(dead), t, name)
	for rule, n := range rules {
		w.counter(violations, float64(n), t, name, rule)
	}
	if all.Completed+all.Failed == 0 {
		return
	}
	w.durations(jobDuration, &all.Duration, all.Busy.Seconds(), jobBounds, t, name)
	w.durations(jobWait, &all.Wait, all.Waited.Seconds(), jobBounds, t, name)
	if all.CPUSamples > 0 {
		w.out <- prometheus.MustNewConstSummary(jobCPU, uint64(all.CPUSamples), all.CPUPercentSum/100, nil, t, name)
	}
	if all.MemorySamples > 0 {
		w.out <- prometheus.MustNewConstSummary(jobMemory, uint64(all.MemorySamples), all.MemoryMBSum*mebibyte, nil, t, name)
		w.gauge(jobPeak, all.MemoryMBPeak*mebibyte, t, name)
	}
}

func (w writer) operation(t string, o *agent.Total) {
	w.counter(jobsTotal, float64(o.Completed), t, o.Service, o.Operation, "completed")
	w.counter(jobsTotal, float64(o.Failed), t, o.Service, o.Operation, "failed")
	for outcome, n := range map[string]int64{"cancelled": o.Cancelled, "handed_back": o.HandedBack, "lease_lost": o.LeaseLost} {
		if n > 0 {
			w.counter(jobsTotal, float64(n), t, o.Service, o.Operation, outcome)
		}
	}
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
