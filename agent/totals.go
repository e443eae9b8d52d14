package agent

import (
	"maps"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// UnknownOperation is what totals call every operation that rows ask for and
// the registry does not have: rows are untrusted and may invent any number.
const UnknownOperation = "(unknown)"

// Total is what the agent did of one operation since it started. The numbers
// only grow, until a reload takes the service out of the registry.
type Total struct {
	jobs.Metric // its Minute is zero

	Cancelled   int64            // stopped by an operator
	HandedBack  int64            // unfinished, because the agent stopped or was drained
	LeaseLost   int64            // stopped because the agent's lease ran out
	DeadLetters int64            // of Failed: no attempt was left
	Rules       map[string]int64 // of Violations: by the policy's rule or the limit that was broken
}

// totals are the Totals of the present registry's operations. The minute's
// figures are added when an exchange takes them along, so that counting a job
// is paid for once.
type totals map[metricKey]*Total

// of finds the total to count under; nil when the registry has no such service.
func (t totals) of(config *registry.Config, typ jobs.ExecutionType, service, operation string) *Total {
	s, ok := config.Service(service)
	if !ok || s.ExecutionType != typ {
		return nil
	}
	if _, ok := s.Operation(operation); !ok {
		operation = UnknownOperation
	}
	k := metricKey{typ, s.Name, operation}
	v := t[k]
	if v == nil {
		v = &Total{Metric: jobs.Metric{Type: typ, Service: s.Name, Operation: operation}, Rules: map[string]int64{}}
		t[k] = v
	}
	return v
}

func (t totals) add(config *registry.Config, m metrics) {
	for k, v := range m {
		if total := t.of(config, k.typ, k.service, k.operation); total != nil {
			total.Merge(v)
		}
	}
}

// forget drops what the registry no longer has.
func (t totals) forget(config *registry.Config) {
	maps.DeleteFunc(t, func(k metricKey, _ *Total) bool {
		s, ok := config.Service(k.service)
		return !ok || s.Name != k.service || s.ExecutionType != k.typ
	})
}

// tallied tells whether there are figures that the table does not have yet.
func (l *ledger) tallied() bool { return len(l.metrics)+len(l.unwritten) > 0 }

// drainTally hands the figures out for the table.
func (l *ledger) drainTally() []jobs.Metric {
	l.totals.add(l.config, l.metrics)
	l.metrics.merge(l.unwritten)
	l.unwritten = nil
	return l.metrics.drain()
}

// allTotals copies the totals, those included that no exchange took along yet.
func (l *ledger) allTotals() []Total {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := totals{}
	fresh.add(l.config, l.metrics)
	all := make([]Total, 0, len(l.totals)+len(fresh))
	for k, v := range l.totals {
		total := *v
		total.Rules = maps.Clone(v.Rules)
		if f := fresh[k]; f != nil {
			total.Merge(&f.Metric)
			delete(fresh, k)
		}
		all = append(all, total)
	}
	for _, v := range fresh {
		all = append(all, *v)
	}
	return all
}

// countFailure counts of a failed attempt what the minute's figures do not tell.
func (l *ledger) countFailure(at *attempt, rule string, dead bool) {
	total := l.totals.of(l.config, at.lane.typ, at.job.Service, at.job.Operation)
	if total == nil {
		return
	}
	if rule != "" {
		total.Rules[rule]++
	}
	if dead {
		total.DeadLetters++
	}
}

// countStop counts an attempt that was stopped before its own end.
func (l *ledger) countStop(at *attempt, end ending) {
	total := l.totals.of(l.config, at.lane.typ, at.job.Service, at.job.Operation)
	if total == nil {
		return
	}
	switch end {
	case cancelled:
		total.Cancelled++
	case handedBack:
		total.HandedBack++
	default:
		total.LeaseLost++
	}
}
