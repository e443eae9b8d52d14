package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// The bounds of asking the database for the queue's figures.
const (
	queueEvery    = 10 * time.Second // scrapes between get the last figures
	queueDeadline = 2 * time.Second
	waitingCap    = 10000 // a service's waiting jobs are counted no further
)

var (
	queueWaiting = describe("queue_waiting", "Jobs of all agents that wait, each service's counted up to 10000.", "execution_type")
	queueOldest  = describe("queue_oldest_waiting_seconds", "For how long the oldest waiting job has waited; 0 when none waits.", "execution_type")
	laneClosed   = describe("lane_closed", "1 while no agent may start the service's jobs: type_disabled, circuit_open, rate_limit, budget, cost_budget or busy.",
		"service", "reason")
	laneCost   = describe("lane_cost_usd", "What a service with max_cost_per_hour has spent within the hour, and what is set aside for its jobs that run.", "service")
	laneBudget = describe("lane_cost_limit_usd", "A service's max_cost_per_hour.", "service")
)

var queueDescs = []*prometheus.Desc{queueWaiting, queueOldest, laneClosed, laneCost, laneBudget}

// Queue is the collector of what the database knows of the queue. It asks at
// most every ten seconds, once at a time and not for long. What could not be
// read has no series.
type Queue struct {
	source Source
	config *pgx.ConnConfig
	log    *slog.Logger
	now    func() time.Time

	mu     sync.Mutex // held while the database is asked
	conn   *pgx.Conn
	asked  time.Time
	last   *queueState // nil: the last reading failed
	failed bool
}

// queueState is the queue at one moment.
type queueState struct {
	waiting map[jobs.ExecutionType]int64
	oldest  map[jobs.ExecutionType]time.Duration
	closed  []closedLane
	costs   []laneCosts
}

type laneCosts struct {
	Service      string
	Spent, Limit float64
}

type closedLane struct{ Service, Reason string }

// NewQueue makes the collector; it connects with the first scrape.
func NewQueue(databaseURL string, source Source, log *slog.Logger) (*Queue, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("telemetry: database URL: %w", err)
	}
	config.RuntimeParams["application_name"] = "specql-agent metrics"
	config.RuntimeParams["default_transaction_read_only"] = "on"
	config.RuntimeParams["statement_timeout"] = fmt.Sprint(queueDeadline.Milliseconds())
	return &Queue{source: source, config: config, log: log, now: time.Now}, nil
}

// Close ends the connection.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disconnect()
}

func (q *Queue) disconnect() {
	if q.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		q.conn.Close(ctx)
		q.conn = nil
	}
}

// Describe implements prometheus.Collector.
func (q *Queue) Describe(out chan<- *prometheus.Desc) {
	for _, d := range queueDescs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (q *Queue) Collect(out chan<- prometheus.Metric) {
	state := q.state()
	if state == nil {
		return
	}
	w := writer{out}
	for _, t := range jobs.ExecutionTypes() {
		w.gauge(queueWaiting, float64(state.waiting[t]), string(t))
		w.gauge(queueOldest, state.oldest[t].Seconds(), string(t))
	}
	for _, lane := range state.closed {
		w.gauge(laneClosed, 1, lane.Service, lane.Reason)
	}
	for _, c := range state.costs {
		w.gauge(laneCost, c.Spent, c.Service)
		w.gauge(laneBudget, c.Limit, c.Service)
	}
}

// state is what was last read, or is read now. Scrapes that come meanwhile
// wait for that one reading.
func (q *Queue) state() *queueState {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if !q.asked.IsZero() && now.Sub(q.asked) < queueEvery {
		return q.last
	}
	q.asked = now
	ctx, cancel := context.WithTimeout(context.Background(), queueDeadline)
	defer cancel()
	state, err := q.read(ctx)
	if err != nil {
		q.disconnect()
	}
	if (err != nil) != q.failed { // said once, not with every scrape
		q.failed = err != nil
		if q.failed {
			q.log.Warn("the queue's metrics are left out: the database does not tell", "error", err)
		} else {
			q.log.Info("the queue's metrics are back")
		}
	}
	q.last = state
	return state
}

// waitingSQL finds the services with waiting jobs by a loose scan over
// idx_tb_job_run_lane, one probe a service, and counts each up to a cap.
const waitingSQL = `
WITH RECURSIVE lane (service) AS (
    (SELECT service_name FROM jobs.tb_job_run WHERE status = 'pending' ORDER BY service_name LIMIT 1)
    UNION ALL
    SELECT (SELECT service_name FROM jobs.tb_job_run
             WHERE status = 'pending' AND service_name > lane.service ORDER BY service_name LIMIT 1)
      FROM lane WHERE lane.service IS NOT NULL
)
SELECT lane.service, first.execution_type, waiting.n, greatest(0, extract(epoch FROM now() - first.since))::float8
  FROM lane
 CROSS JOIN LATERAL (
       SELECT execution_type, nullif(coalesce(requeued_at, created_at), '-infinity') AS since FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending'
        ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id LIMIT 1) first
 CROSS JOIN LATERAL (
       SELECT count(*) AS n FROM (SELECT FROM jobs.tb_job_run
        WHERE service_name = lane.service AND status = 'pending' LIMIT $1) few) waiting
 WHERE lane.service IS NOT NULL`

// closedSQL lists the lanes that are held for all agents, each with one reason:
// the first of switch, circuit, budgets, rate limit and a busy service that holds it.
const closedSQL = `
SELECT l.service_name,
       CASE WHEN NOT t.enabled THEN 'type_disabled'
            WHEN gate.circuit > clock_timestamp() THEN 'circuit_open'
            WHEN gate.hour > clock_timestamp() THEN 'budget'
            WHEN gate.cost > clock_timestamp() THEN 'cost_budget'
            WHEN gate.minute > clock_timestamp() THEN 'rate_limit'
            ELSE 'busy' END
  FROM jobs.tb_lane l
  JOIN jobs.tb_execution_type t USING (execution_type)
 CROSS JOIN LATERAL (
       SELECT CASE WHEN l.failure_threshold > 0 AND l.failures_in_row >= l.failure_threshold
                   THEN greatest(l.open_until, l.probe_until) END AS circuit,
              jobs.gate_opens(l.service_name, 'hour', l.max_invocations_per_hour) AS hour,
              jobs.gate_opens(l.service_name, 'minute', l.rate_limit_per_minute) AS minute,
              jobs.cost_opens(l.service_name, l.max_cost_per_hour, l.max_cost_per_job) AS cost) gate
 WHERE NOT t.enabled OR greatest(gate.circuit, gate.hour, gate.minute, gate.cost, l.busy_until) > clock_timestamp()`

// costsSQL reads the services with a budget in USD.
const costsSQL = `
SELECT l.service_name, c.settled + c.reserved, l.max_cost_per_hour
  FROM jobs.tb_lane l CROSS JOIN LATERAL jobs.cost_spent(l.service_name) c WHERE l.max_cost_per_hour > 0`

func (q *Queue) read(ctx context.Context) (*queueState, error) {
	if q.conn == nil {
		conn, err := jobs.Connect(ctx, q.config, jobs.Patience{Network: queueDeadline, Lock: queueDeadline})
		if err != nil {
			return nil, err
		}
		q.conn = conn
	}
	config := q.source.Stats().Registry
	s := &queueState{waiting: map[jobs.ExecutionType]int64{}, oldest: map[jobs.ExecutionType]time.Duration{}}
	if err := s.readWaiting(ctx, q.conn, config); err != nil {
		return nil, fmt.Errorf("read the waiting jobs: %w", err)
	}
	if err := s.readClosed(ctx, q.conn, config); err != nil {
		return nil, fmt.Errorf("read the held lanes: %w", err)
	}
	if err := s.readCosts(ctx, q.conn, config); err != nil {
		return nil, fmt.Errorf("read what lanes have cost: %w", err)
	}
	return s, nil
}

func (s *queueState) readCosts(ctx context.Context, conn *pgx.Conn, config *registry.Config) error {
	rows, err := conn.Query(ctx, costsSQL)
	if err != nil {
		return err
	}
	var c laneCosts
	_, err = pgx.ForEachRow(rows, []any{&c.Service, &c.Spent, &c.Limit}, func() error {
		if known, ok := config.Service(c.Service); ok && known.Name == c.Service {
			s.costs = append(s.costs, c)
		}
		return nil
	})
	return err
}

func (s *queueState) readWaiting(ctx context.Context, conn *pgx.Conn, config *registry.Config) error {
	rows, err := conn.Query(ctx, waitingSQL, int64(waitingCap))
	if err != nil {
		return err
	}
	var service string
	var typ jobs.ExecutionType
	var n int64
	var oldest *float64
	_, err = pgx.ForEachRow(rows, []any{&service, &typ, &n, &oldest}, func() error {
		if known, ok := config.Service(service); ok { // the registry decides, whatever the row says
			typ = known.ExecutionType
		}
		s.waiting[typ] += n
		if oldest != nil {
			s.oldest[typ] = max(s.oldest[typ], time.Duration(*oldest*float64(time.Second)))
		}
		return nil
	})
	return err
}

func (s *queueState) readClosed(ctx context.Context, conn *pgx.Conn, config *registry.Config) error {
	rows, err := conn.Query(ctx, closedSQL)
	if err != nil {
		return err
	}
	var lane closedLane
	_, err = pgx.ForEachRow(rows, []any{&lane.Service, &lane.Reason}, func() error {
		if known, ok := config.Service(lane.Service); ok && known.Name == lane.Service {
			s.closed = append(s.closed, lane)
		}
		return nil
	})
	return err
}
