package jobs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Gates bound what all agents together may start of a service. Zero values
// bound nothing.
type Gates struct {
	PerMinute int           // requests in any sliding minute: jobs, and more tries within their attempts (rate_limit_per_minute)
	PerHour   int           // the same in any sliding hour (max_invocations_per_hour)
	USD       float64       // in any sliding hour (max_cost_per_hour)
	MostUSD   float64       // that one job may cost: set aside with its claim
	Threshold int           // failures in a row that open the circuit (failure_threshold)
	Recovery  time.Duration // how long it stays open before one job tries (recovery_timeout)
}

// Bounded tells whether each claim must be counted for all agents.
func (g Gates) Bounded() bool { return g.PerMinute > 0 || g.PerHour > 0 || g.USD > 0 }

// SpendAgain counts one more request of a running attempt, for all agents. A
// positive time says that there is no room before it has passed: then nothing
// is counted, and the request must not be made.
func SpendAgain(ctx context.Context, conn *pgx.Conn, service string, g Gates) (opens time.Duration, err error) {
	var seconds *float64
	err = conn.QueryRow(ctx, `SELECT jobs.spend_again($1, $2, $3)`, service, int32(g.PerMinute), int32(g.PerHour)).Scan(&seconds)
	if err != nil {
		return 0, fmt.Errorf("count a further request of service %s: %w", service, err)
	}
	if seconds == nil {
		return 0, nil
	}
	return max(time.Duration(*seconds*float64(time.Second)), time.Millisecond), nil
}

// Gate is what a claim found of a gated lane.
type Gate struct {
	Service string
	Claimed int
	Busy    bool          // another agent is claiming from it now: nothing was looked at
	Opens   time.Duration // until it lets the next job through; 0: it is open
}

// Circuit is what the ends of a service's attempts mean for its circuit.
type Circuit struct {
	Service  string
	Reset    bool // one ended well: whatever failed before does not count
	Failures int  // that came after it, or in all
}

const resetCircuitsSQL = `
UPDATE jobs.tb_lane SET failures_in_row = 0, open_until = NULL, probe_until = NULL, updated_at = now()
 WHERE service_name = ANY ($1) AND failures_in_row > 0`

const failCircuitSQL = `
UPDATE jobs.tb_lane
   SET failures_in_row = failures_in_row + $2, probe_until = NULL, updated_at = now(),
       open_until = CASE WHEN failures_in_row + $2 >= failure_threshold AND (open_until IS NULL OR open_until <= now())
                         THEN now() + make_interval(secs => recovery_seconds) ELSE open_until END
 WHERE service_name = $1 AND failure_threshold > 0`

// queueCircuits counts for the circuits, in one order for all agents.
func queueCircuits(batch *pgx.Batch, circuits []Circuit) {
	slices.SortFunc(circuits, func(a, b Circuit) int { return cmp.Compare(a.Service, b.Service) })
	var well []string
	for _, c := range circuits {
		if c.Reset {
			well = append(well, c.Service)
		}
	}
	if len(well) > 0 {
		batch.Queue(resetCircuitsSQL, well)
	}
	for _, c := range circuits {
		if c.Failures > 0 {
			batch.Queue(failCircuitSQL, c.Service, int32(c.Failures))
		}
	}
}

// LaneSettings is what the registry says of a lane, for the table of lanes.
type LaneSettings struct {
	Service     string
	Type        ExecutionType
	Concurrency int
	Gates       Gates
	Fallback    bool // it can run by http instead: its base_url says where
}

const publishLanesSQL = `
INSERT INTO jobs.tb_lane AS l (service_name, execution_type, registry_hash, concurrency, rate_limit_per_minute,
       max_invocations_per_hour, failure_threshold, recovery_seconds, max_cost_per_hour, has_fallback)
SELECT service, type, $1, concurrency, per_minute, per_hour, threshold, recovery, usd, fallback
  FROM unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::float8[], $10::bool[])
       AS n(service, type, concurrency, per_minute, per_hour, threshold, recovery, usd, fallback)
 ORDER BY service
ON CONFLICT (service_name) DO UPDATE
   SET execution_type = excluded.execution_type, registry_hash = excluded.registry_hash,
       concurrency = excluded.concurrency, rate_limit_per_minute = excluded.rate_limit_per_minute,
       max_invocations_per_hour = excluded.max_invocations_per_hour, max_cost_per_hour = excluded.max_cost_per_hour,
       failure_threshold = excluded.failure_threshold, recovery_seconds = excluded.recovery_seconds,
       has_fallback = excluded.has_fallback, updated_at = now()
 WHERE l.registry_hash <> excluded.registry_hash`

// PublishLanes writes the lanes of the registry with the hash given, so that
// all agents count together and screens can say why jobs wait. Lanes that
// stand there already cost nothing.
func PublishLanes(ctx context.Context, conn *pgx.Conn, hash string, lanes []LaneSettings) error {
	n := len(lanes)
	services, types := make([]string, n), make([]string, n)
	numbers, usd, fallbacks := make([][]int32, 5), make([]float64, n), make([]bool, n)
	for i := range numbers {
		numbers[i] = make([]int32, n)
	}
	for i, l := range lanes {
		services[i], types[i], usd[i], fallbacks[i] = l.Service, string(l.Type), l.Gates.USD, l.Fallback
		for k, v := range []int{l.Concurrency, l.Gates.PerMinute, l.Gates.PerHour, l.Gates.Threshold,
			int(l.Gates.Recovery.Seconds())} {
			numbers[k][i] = int32(v)
		}
	}
	_, err := conn.Exec(ctx, publishLanesSQL, hash, services, types, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
		usd, fallbacks)
	return err
}

const trippedSQL = `SELECT service_name FROM jobs.tb_lane WHERE failure_threshold > 0 AND failures_in_row >= failure_threshold`

// Tripped lists the services whose circuit is not closed.
func Tripped(ctx context.Context, db Querier) ([]string, error) {
	rows, err := db.Query(ctx, trippedSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
