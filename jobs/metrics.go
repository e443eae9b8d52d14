package jobs

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Buckets is the number of counts in a Histogram.
const Buckets = 104

// Histogram counts durations in buckets whose bounds grow by a fourth root of
// two from 0.1 ms: quantiles are right within a tenth, up to an hour and a
// half; longer ones fall into the last bucket. Two histograms add up.
type Histogram [Buckets]int64

const (
	firstBound       = 100 * time.Microsecond
	bucketsPerDouble = 4
)

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) { h[bucketOf(d)]++ }

func bucketOf(d time.Duration) int {
	if d <= firstBound {
		return 0
	}
	i := int(math.Ceil(bucketsPerDouble * math.Log2(float64(d)/float64(firstBound))))
	return min(i, Buckets-1)
}

// Merge adds the counts of other, as the table stores them; missing buckets
// count as zero.
func (h *Histogram) Merge(other []int64) {
	for i := range min(len(other), Buckets) {
		h[i] += other[i]
	}
}

// UpTo is the number of durations counted that were at most d. It is exact for
// bounds of the buckets: 0.1 ms times a power of two is one.
func (h *Histogram) UpTo(d time.Duration) int64 {
	var n int64
	for _, c := range h[:bucketOf(d)+1] {
		n += c
	}
	return n
}

// Count is the number of durations counted.
func (h *Histogram) Count() int64 {
	var n int64
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile returns the duration below which the fraction q (0 to 1) lies: the
// middle of its bucket, on the logarithmic scale. Zero when nothing was
// counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := max(1, int64(math.Ceil(q*float64(total))))
	for i, c := range h {
		if rank -= c; rank <= 0 {
			return time.Duration(float64(firstBound) * math.Exp2((float64(i)-0.5)/bucketsPerDouble))
		}
	}
	return 0
}

// Metric is what happened to one operation within one minute. The zero
// counts of a fresh Metric are filled by an agent and added to the table's
// row with the next exchange.
type Metric struct {
	Minute    time.Time // truncated to the minute; zero: the database's present one
	Type      ExecutionType
	Service   string
	Operation string

	Completed, Failed, Violations int64
	Busy                          time.Duration // sum of the attempts' durations
	Waited                        time.Duration // sum of their waits; not in the table
	CPUPercentSum                 float64
	CPUSamples                    int64
	MemoryMBSum                   float64
	MemorySamples                 int64
	MemoryMBPeak                  float64
	Duration, Wait                Histogram
}

// Merge adds the counts of other.
func (m *Metric) Merge(other *Metric) {
	m.Completed += other.Completed
	m.Failed += other.Failed
	m.Violations += other.Violations
	m.Busy += other.Busy
	m.Waited += other.Waited
	m.CPUPercentSum += other.CPUPercentSum
	m.CPUSamples += other.CPUSamples
	m.MemoryMBSum += other.MemoryMBSum
	m.MemorySamples += other.MemorySamples
	m.MemoryMBPeak = max(m.MemoryMBPeak, other.MemoryMBPeak)
	m.Duration.Merge(other.Duration[:])
	m.Wait.Merge(other.Wait[:])
}

const metricSQL = `
INSERT INTO jobs.tb_job_metric AS m (minute, execution_type, service_name, operation, completed, failed, violations,
       busy_seconds, cpu_percent_sum, cpu_samples, memory_mb_sum, memory_samples, memory_mb_peak, duration_hist, wait_hist)
VALUES (coalesce($1, date_trunc('minute', now())), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (minute, execution_type, service_name, operation) DO UPDATE
   SET completed = m.completed + excluded.completed, failed = m.failed + excluded.failed,
       violations = m.violations + excluded.violations, busy_seconds = m.busy_seconds + excluded.busy_seconds,
       cpu_percent_sum = m.cpu_percent_sum + excluded.cpu_percent_sum, cpu_samples = m.cpu_samples + excluded.cpu_samples,
       memory_mb_sum = m.memory_mb_sum + excluded.memory_mb_sum, memory_samples = m.memory_samples + excluded.memory_samples,
       memory_mb_peak = greatest(m.memory_mb_peak, excluded.memory_mb_peak),
       duration_hist = jobs.add_histogram(m.duration_hist, excluded.duration_hist),
       wait_hist = jobs.add_histogram(m.wait_hist, excluded.wait_hist)`

// queueMetrics adds the counts to the batch, in one order for all agents so
// that two of them never wait for each other in a ring.
func queueMetrics(batch *pgx.Batch, metrics []Metric) {
	slices.SortFunc(metrics, func(a, b Metric) int {
		return cmp.Or(a.Minute.Compare(b.Minute), cmp.Compare(a.Type, b.Type),
			cmp.Compare(a.Service, b.Service), cmp.Compare(a.Operation, b.Operation))
	})
	for i := range metrics {
		m := &metrics[i]
		minute := &m.Minute
		if m.Minute.IsZero() {
			minute = nil
		}
		batch.Queue(metricSQL, minute, m.Type, m.Service, m.Operation, m.Completed, m.Failed, m.Violations,
			m.Busy.Seconds(), m.CPUPercentSum, m.CPUSamples, m.MemoryMBSum, m.MemorySamples, m.MemoryMBPeak,
			m.Duration[:], m.Wait[:])
	}
}
