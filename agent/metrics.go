package agent

import (
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
)

type metricKey struct {
	typ       jobs.ExecutionType
	service   string
	operation string
}

// metrics gathers counts until an exchange takes them along. The database's
// clock says which minute they belong to, whatever this host's does.
type metrics map[metricKey]*jobs.Metric

func (m metrics) at(typ jobs.ExecutionType, service, operation string) *jobs.Metric {
	k := metricKey{typ, service, operation}
	v := m[k]
	if v == nil {
		v = &jobs.Metric{Type: typ, Service: service, Operation: operation}
		m[k] = v
	}
	return v
}

// count adds one finished attempt.
func count(m *jobs.Metric, ok, violation bool, wait, took time.Duration, u runners.Usage) {
	if ok {
		m.Completed++
	} else {
		m.Failed++
	}
	if violation {
		m.Violations++
	}
	wait = max(0, wait)
	m.Busy += took
	m.Waited += wait
	m.Duration.Add(took)
	m.Wait.Add(wait)
	if u.CPUUsagePercent != nil {
		m.CPUPercentSum += *u.CPUUsagePercent
		m.CPUSamples++
	}
	memory := u.PeakMemoryMB
	if memory == nil {
		memory = u.MemoryMB
	}
	if memory != nil {
		m.MemoryMBSum += *memory
		m.MemorySamples++
		m.MemoryMBPeak = max(m.MemoryMBPeak, *memory)
	}
}

// drain empties the counts into the form that the table takes.
func (m metrics) drain() []jobs.Metric {
	out := make([]jobs.Metric, 0, len(m))
	for k, v := range m {
		out = append(out, *v)
		delete(m, k)
	}
	return out
}

// merge adds what others counted.
func (m metrics) merge(others []jobs.Metric) {
	for i := range others {
		o := &others[i]
		m.at(o.Type, o.Service, o.Operation).Merge(o)
	}
}
