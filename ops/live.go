package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// The bounds of a live window, and how many services a screen is given.
const (
	MinWindow   = time.Minute
	MaxWindow   = 24 * time.Hour
	MaxServices = 200
)

// GetLive reads the page of live figures over the last window (MinWindow to
// MaxWindow, in whole minutes, the present one included). It reads the
// minute's figures that agents wrote, the switches, the agents and the
// waiting lanes; its cost does not grow with the jobs table.
func GetLive(ctx context.Context, db jobs.Beginner, window time.Duration) (Live, error) {
	live, err := getLive(ctx, db, window)
	return live, Explain(err)
}

func getLive(ctx context.Context, db jobs.Beginner, window time.Duration) (Live, error) {
	if window < MinWindow || window > MaxWindow {
		return Live{}, fmt.Errorf("a window of %s is out of range: give %s to %s", window, MinWindow, MaxWindow)
	}
	tx, err := db.Begin(ctx) // one moment, and one question of many
	if err != nil {
		return Live{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var h holders
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&h.now); err != nil {
		return Live{}, err
	}
	f, q := newFigures(h.now, window), queue{}
	b := &pgx.Batch{}
	h.ask(b)
	f.ask(b)
	q.ask(b)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return Live{}, err
	}
	live := Live{At: h.now, Services: f.topServices(), Held: h.held(q.lanes)}
	for _, t := range jobs.ExecutionTypes() {
		card := f.card(t)
		card.Switch, card.Running = h.switches[t], q.running[t]
		for _, l := range q.lanes {
			if l.Type == t {
				card.Waiting += l.Waiting
				card.WaitingCapped = card.WaitingCapped || l.Capped
				card.Oldest = max(card.Oldest, l.Oldest)
			}
		}
		live.Types = append(live.Types, card)
	}
	return live, nil
}

// figures adds up the minutes of a window.
type figures struct {
	now      time.Time
	first    time.Time // the window's first minute
	minutes  int
	types    map[jobs.ExecutionType]*typeFigures
	services map[serviceKey]*serviceFigures
}

type typeFigures struct {
	completed, failed, violations int64
	cpuSum, memorySum, peak       float64
	cpuN, memoryN                 int64
	all                           jobs.Histogram
	done, bad                     []float64
	byMinute                      []jobs.Histogram
	total                         int64
}

type serviceKey struct {
	service, operation string
	t                  jobs.ExecutionType
}

type serviceFigures struct {
	completed, failed int64
	all               jobs.Histogram
}

func newFigures(now time.Time, window time.Duration) *figures {
	n := int(window / time.Minute)
	f := &figures{now: now, first: now.Truncate(time.Minute).Add(-time.Duration(n-1) * time.Minute), minutes: n,
		types: map[jobs.ExecutionType]*typeFigures{}, services: map[serviceKey]*serviceFigures{}}
	for _, t := range jobs.ExecutionTypes() {
		f.types[t] = &typeFigures{done: make([]float64, n), bad: make([]float64, n), byMinute: make([]jobs.Histogram, n)}
	}
	return f
}

const figuresSQL = `
SELECT minute, execution_type, service_name, operation, completed, failed, violations,
       cpu_percent_sum, cpu_samples, memory_mb_sum, memory_samples, memory_mb_peak, duration_hist
  FROM jobs.tb_job_metric WHERE minute >= $1`

const totalSQL = `
SELECT execution_type, sum(completed + failed)::bigint
  FROM jobs.tb_job_metric WHERE minute >= $1 GROUP BY execution_type`

// totalSince starts anew once an hour only, a while after the hour began, so
// that the difference of two readings is nearly always what happened between.
func totalSince(now time.Time) time.Time { return now.Add(-2 * time.Minute).Truncate(time.Hour) }

// ask adds the questions to a batch.
func (f *figures) ask(b *pgx.Batch) {
	b.Queue(figuresSQL, f.first).Query(func(rows pgx.Rows) error {
		var m jobs.Metric
		var hist []int64
		_, err := pgx.ForEachRow(rows, []any{&m.Minute, &m.Type, &m.Service, &m.Operation, &m.Completed, &m.Failed,
			&m.Violations, &m.CPUPercentSum, &m.CPUSamples, &m.MemoryMBSum, &m.MemorySamples, &m.MemoryMBPeak, &hist},
			func() error { f.add(&m, hist); return nil })
		return err
	})
	b.Queue(totalSQL, totalSince(f.now)).Query(func(rows pgx.Rows) error {
		var t jobs.ExecutionType
		var n int64
		_, err := pgx.ForEachRow(rows, []any{&t, &n}, func() error {
			if c := f.types[t]; c != nil {
				c.total = n
			}
			return nil
		})
		return err
	})
}

func (f *figures) add(m *jobs.Metric, hist []int64) {
	c := f.types[m.Type]
	if c == nil {
		return
	}
	// An agent's clock may run ahead of the database's.
	at := min(max(0, int(m.Minute.Sub(f.first)/time.Minute)), f.minutes-1)
	c.completed += m.Completed
	c.failed += m.Failed
	c.violations += m.Violations
	c.cpuSum += m.CPUPercentSum
	c.cpuN += m.CPUSamples
	c.memorySum += m.MemoryMBSum
	c.memoryN += m.MemorySamples
	c.peak = max(c.peak, m.MemoryMBPeak)
	c.done[at] += float64(m.Completed + m.Failed)
	c.bad[at] += float64(m.Failed)
	c.all.Merge(hist)
	c.byMinute[at].Merge(hist)

	key := serviceKey{m.Service, m.Operation, m.Type}
	s := f.services[key]
	if s == nil {
		s = &serviceFigures{}
		f.services[key] = s
	}
	s.completed += m.Completed
	s.failed += m.Failed
	s.all.Merge(hist)
}

func (f *figures) card(t jobs.ExecutionType) TypeLive {
	c := f.types[t]
	card := TypeLive{Type: t, Window: time.Duration(f.minutes) * time.Minute,
		Completed: c.completed, Failed: c.failed, Violations: c.violations,
		P50: c.all.Quantile(0.50), P95: c.all.Quantile(0.95), P99: c.all.Quantile(0.99),
		DoneSeries: c.done, FailedSeries: c.bad, P95Series: make([]float64, f.minutes),
		Total: c.total, TotalAt: f.now}
	for i := range c.byMinute {
		card.P95Series[i] = float64(c.byMinute[i].Quantile(0.95)) / float64(time.Millisecond)
	}
	if c.cpuN > 0 {
		card.CPUPercent = new(c.cpuSum / float64(c.cpuN))
	}
	if c.memoryN > 0 {
		card.MemoryMB, card.PeakMemoryMB = new(c.memorySum/float64(c.memoryN)), new(c.peak)
	}
	return card
}

// topServices lists the busiest operations first, failures breaking ties.
func (f *figures) topServices() []ServiceLive {
	list := make([]ServiceLive, 0, len(f.services))
	for k, s := range f.services {
		list = append(list, ServiceLive{Service: k.service, Operation: k.operation, Type: k.t, Completed: s.completed,
			Failed: s.failed, P50: s.all.Quantile(0.50), P95: s.all.Quantile(0.95)})
	}
	slices.SortFunc(list, func(a, b ServiceLive) int {
		return cmp.Or(cmp.Compare(b.Completed+b.Failed, a.Completed+a.Failed), cmp.Compare(b.Failed, a.Failed),
			cmp.Compare(a.Service, b.Service), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Type, b.Type))
	})
	return list[:min(len(list), MaxServices)]
}
