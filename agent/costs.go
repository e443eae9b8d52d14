package agent

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// mostCost is the most that one attempt of a service may cost; 0 where its
// runner knows no prices.
func (a *Agent) mostCost(s *registry.Service) float64 {
	if priced, ok := a.runner(s).(runners.Priced); ok {
		return priced.MostCost(s)
	}
	return 0
}

// price asks anew what an attempt may cost: the runner learns of functions as it
// goes.
func (l *ledger) price(ln *lane) jobs.Gates {
	g := ln.gates
	if g.USD > 0 && l.mostCost != nil {
		g.MostUSD = l.mostCost(ln.registered)
	}
	return g
}

// patience is when a lane is looked at again that its gates closed for so long. A
// budget in USD may open earlier: attempts cost less than was set aside, also those
// of other agents, and the runner learns what one may cost at most.
func (ln *lane) patience(closed time.Duration) time.Duration {
	const most = 2 * time.Second
	if ln.gates.USD > 0 {
		return min(closed, most)
	}
	return closed
}

// reservedBy are what the request's gated lanes set aside for each of their jobs.
func (r *request) reservedBy() map[*lane]float64 {
	var by map[*lane]float64
	for i, look := range r.gated {
		if g := r.exchange.Claim.Gated[i].Gates; g.USD > 0 {
			if by == nil {
				by = map[*lane]float64{}
			}
			by[look.lane] = g.MostUSD
		}
	}
	return by
}

// settleCost lets the next exchange put what an attempt has cost in the place of
// what was set aside for it, however it ended.
func (l *ledger) settleCost(a *attempt, usd *float64) {
	if a.reserved > 0 {
		l.costs = append(l.costs, jobs.Cost{Service: a.lane.service, Job: a.job, Agent: a.agent, USD: usd})
	}
}

// takeCosts moves what is to be settled and to be told into the request.
func (l *ledger) takeCosts(req *request) {
	req.exchange.Costs, l.costs = l.costs, nil
	for ln, b := range l.busy {
		req.exchange.Busy = append(req.exchange.Busy, jobs.Busy{Service: ln.service, Reason: b.Reason, Seconds: b.After.Seconds()})
	}
	clear(l.busy)
	slices.SortFunc(req.exchange.Busy, func(a, b jobs.Busy) int { return cmp.Compare(a.Service, b.Service) })
}

// busyOf is the reason why an attempt was not started, when what would run it has
// no room; nil for any other end.
func busyOf(err error) *runners.BusyError {
	var busy *runners.BusyError
	if errors.As(err, &busy) {
		return busy
	}
	return nil
}

// leave closes the lane of an attempt that was not started, and looks again from
// its job's place on.
func (l *ledger) leave(a *attempt, busy *runners.BusyError, now time.Time) {
	ln := a.lane
	if until := now.Add(max(busy.After, 0)); until.After(ln.away) {
		ln.away = until
	}
	ln.wake(jobs.Place{Micros: a.job.Place.Micros - 1})
	l.busy[ln] = &runners.BusyError{Service: ln.service, Reason: printable(busy.Reason), After: max(busy.After, 0)}
}

// opens is when the lane may be asked again: its gates and what runs its jobs let
// something through.
func (ln *lane) opens() time.Time {
	if ln.away.After(ln.closed) {
		return ln.away
	}
	return ln.closed
}
