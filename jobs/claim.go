package jobs

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Place is where a job stands in its lane: by the time since which it waits,
// then by id. Agents look for jobs from a place on, so that what they have
// dealt with costs nothing, however long PostgreSQL must keep its traces.
type Place struct {
	Micros int64 // since 1970, the database's clock
	ID     ID
}

// The ends of every lane.
var (
	First = Place{Micros: math.MinInt64} // before all jobs
	Last  = Place{Micros: math.MaxInt64} // behind all jobs
)

// Compare orders places.
func (p Place) Compare(q Place) int {
	if c := cmp.Compare(p.Micros, q.Micros); c != 0 {
		return c
	}
	return bytes.Compare(p.ID[:], q.ID[:])
}

// Before tells whether p comes before q.
func (p Place) Before(q Place) bool { return p.Compare(q) < 0 }

func (p Place) timestamp() pgtype.Timestamptz {
	switch p.Micros {
	case math.MinInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	case math.MaxInt64:
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: time.UnixMicro(p.Micros), Valid: true}
}

// placeAt is the place of a row that waits since the time given.
func placeAt(since pgtype.Timestamptz, id ID) Place {
	switch since.InfinityModifier {
	case pgtype.NegativeInfinity:
		return Place{Micros: math.MinInt64, ID: id}
	case pgtype.Infinity:
		return Place{Micros: math.MaxInt64, ID: id}
	}
	return Place{Micros: since.Time.UnixMicro(), ID: id}
}

// Lane is one service's place in a claim: how many of its waiting jobs the
// agent has room for. A switched-off, throttled or full lane is left out of
// the claim, so however many jobs wait in it they cost the others nothing.
type Lane struct {
	Service string        // as rows spell it
	Type    ExecutionType // what the registry says runs it; written to the row
	Room    int           // at least 1
	From    Place         // the jobs behind this place
	Gates   Gates         // of a gated lane
}

// Claim asks for waiting jobs. The zero value claims nothing.
type Claim struct {
	Lanes []Lane
	Limit int    // at most this many jobs over all Lanes
	Gated []Lane // lanes whose gates are to be asked first; each has room of its own
}

// The switches of types and services, the circuits and the agent's own lease are
// read in the claim itself: what was switched off or stopped, or a circuit that
// opened, is obeyed by the next claim after the commit, and an agent that was
// given up for dead gets nothing. The rows are updated where they were locked,
// all in one scan, without a second search by id and without a join.
//
// One lane, as of a registry with one service or where only one has jobs under
// load, has a statement of its own, which saves the unnesting and joining.
var (
	claimSQL = strings.NewReplacer("{typeOfRow}", "($3::text[])[array_position($2::text[], r.service_name)]", "{picked}", `
    SELECT j.place
      FROM unnest($2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::uuid[])
           AS l(service, type, room, behind, behind_id)
     CROSS JOIN LATERAL (`+inLane.Replace(waitingSQL)+`) j
     WHERE `+inLane.Replace(openSQL)+`
     LIMIT $7`).Replace(claimRowsSQL)
	claimLaneSQL = strings.NewReplacer("{typeOfRow}", "$3::text", "{picked}",
		ofLane.Replace(strings.Replace(waitingSQL, "{open}", "AND "+openSQL, 1))).Replace(claimRowsSQL)

	inLane = strings.NewReplacer("{service}", "l.service", "{type}", "l.type", "{room}", "l.room", "{behind}", "l.behind, l.behind_id", "{open}", "")
	ofLane = strings.NewReplacer("{service}", "$2::text", "{type}", "$3::text", "{room}", "$4::int", "{behind}", "$5::timestamptz, $6::uuid")
)

// openSQL holds jobs.may_claim written out: as a call, it would cost every claim
// of a lane without gates.
const (
	claimRowsSQL = `
UPDATE jobs.tb_job_run r
   SET status = 'running', agent_id = $1, execution_type = {typeOfRow},
       attempts = coalesce(r.attempts, 0) + 1, max_attempts = coalesce(r.max_attempts, 3),
       started_at = now(), completed_at = NULL, retry_at = NULL, updated_at = now()
 WHERE r.ctid = ANY (ARRAY ({picked}))
RETURNING ` + claimedSQL + `, r.ctid`

	waitingSQL = `
           SELECT ctid AS place FROM jobs.tb_job_run
            WHERE service_name = {service} AND status = 'pending'
              AND (coalesce(requeued_at, created_at, '-infinity'::timestamptz), id) > ({behind}) {open}
            ORDER BY coalesce(requeued_at, created_at, '-infinity'::timestamptz), id
            LIMIT {room}
              FOR UPDATE SKIP LOCKED`
	openSQL = `EXISTS (SELECT FROM jobs.tb_agent a WHERE a.id = $1 AND a.lease_expires_at > now())
       AND (SELECT t.enabled AND t.stopped_at IS NULL FROM jobs.tb_execution_type t WHERE t.execution_type = {type})
       AND coalesce((SELECT c.enabled AND (c.runs_as IS NULL OR c.runs_as = {type})
                            AND (c.failure_threshold = 0 OR c.failures_in_row < c.failure_threshold)
                       FROM jobs.tb_lane c WHERE c.service_name = {service}), true)`
)

// What a gated lane is asked with. A lane with a budget in USD is asked for that
// too.
var (
	claimGatedSQL  = gatedColumnsSQL + `jobs.claim_gated($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) g`
	claimPricedSQL = gatedColumnsSQL + `jobs.claim_priced($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) g`

	gatedColumnsSQL = `
SELECT ` + strings.ReplaceAll(claimedSQL, "r.", "(g.job).") + `, g.busy, g.opens_in
  FROM `
)

// searchSQL finds the services with waiting jobs by one probe a service.
const searchSQL = `
WITH RECURSIVE lane (service) AS (
    (SELECT service_name FROM jobs.tb_job_run WHERE status = 'pending' ORDER BY service_name LIMIT 1)
    UNION ALL
    SELECT (SELECT service_name FROM jobs.tb_job_run
             WHERE status = 'pending' AND service_name > lane.service ORDER BY service_name LIMIT 1)
      FROM lane WHERE lane.service IS NOT NULL
)
SELECT service FROM lane WHERE service IS NOT NULL`

func (c *Claim) queue(batch *pgx.Batch, agent ID, out *Exchanged) {
	if len(c.Lanes) > 0 && c.Limit > 0 {
		sql, args := c.statement(agent)
		batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			out.Claimed = slices.Grow(out.Claimed, min(c.Limit, 256))
			r, err := newReader(rows, claimedPlaceTypes)
			if err != nil {
				return err
			}
			for rows.Next() {
				j := r.job(rows.RawValues())
				j.place = r.tid()
				out.Claimed = append(out.Claimed, j)
			}
			return rows.Err()
		})
	}
	for i := range c.Gated {
		l := &c.Gated[i]
		g := l.Gates
		sql, args := claimGatedSQL, []any{agent, l.Service, l.Type, int32(l.Room), l.From.timestamp(), l.From.ID,
			int32(g.PerMinute), int32(g.PerHour), int32(g.Threshold), g.Recovery.Seconds()}
		if g.USD > 0 {
			sql, args = claimPricedSQL, append(args, g.USD, g.MostUSD)
		}
		batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			return readGated(rows, l.Service, out)
		})
	}
}

// statement is what claims from the lanes without gates.
func (c *Claim) statement(agent ID) (sql string, args []any) {
	if len(c.Lanes) == 1 {
		l := &c.Lanes[0]
		return claimLaneSQL, []any{agent, l.Service, string(l.Type), int32(min(l.Room, c.Limit)), l.From.timestamp(), l.From.ID}
	}
	n := len(c.Lanes)
	services, types, rooms := make([]string, n), make([]string, n), make([]int32, n)
	places, ids := make([]pgtype.Timestamptz, n), make([]ID, n)
	for i := range c.Lanes {
		l := &c.Lanes[i]
		services[i], types[i], rooms[i] = l.Service, string(l.Type), int32(l.Room)
		places[i], ids[i] = l.From.timestamp(), l.From.ID
	}
	return claimSQL, []any{agent, services, types, rooms, places, ids, int32(c.Limit)}
}

// readGated reads what jobs.claim_gated returns: the claimed jobs, and one row
// without a job about the lane.
func readGated(rows pgx.Rows, service string, out *Exchanged) error {
	gate := Gate{Service: service}
	r, err := newReader(rows, claimedTypes)
	if err != nil {
		return err
	}
	var opens *float64
	about := append(make([]any, len(claimedTypes)), &gate.Busy, &opens)
	for rows.Next() {
		if values := rows.RawValues(); values[0] != nil {
			out.Claimed = append(out.Claimed, r.job(values))
			gate.Claimed++
			continue
		}
		if err := rows.Scan(about...); err != nil {
			return err
		}
		if opens != nil {
			gate.Opens = time.Duration(*opens * float64(time.Second))
		}
	}
	out.Gates = append(out.Gates, gate)
	return rows.Err()
}

// Patience is how long a connection waits for what may never come.
type Patience struct {
	Network time.Duration // for a silent peer, on both sides; and for a client that stopped in the middle of a transaction
	Lock    time.Duration // for somebody else's lock; Locked tells such an error
}

// Connect opens a connection for an agent's work but its exchanges. A network
// that fails silently, a client that is frozen, or somebody's lock can hold one
// up for so long and no longer.
func Connect(ctx context.Context, config *pgx.ConnConfig, p Patience) (*pgx.Conn, error) {
	return connect(ctx, config, p, "off")
}

// ConnectForExchanges opens a connection on which exchanges are made and nothing
// else: their statements say themselves where a join begins, and may join by a
// hash.
func ConnectForExchanges(ctx context.Context, config *pgx.ConnConfig, p Patience) (*pgx.Conn, error) {
	return connect(ctx, config, p, "on")
}

func connect(ctx context.Context, config *pgx.ConnConfig, p Patience, hashJoins string) (*pgx.Conn, error) {
	config = config.Copy()
	network := strconv.FormatInt(p.Network.Milliseconds(), 10)
	third := max(time.Second, p.Network/3)
	seconds := strconv.Itoa(int(third.Seconds()))
	for name, value := range map[string]string{
		"idle_in_transaction_session_timeout": network, "tcp_user_timeout": network,
		"lock_timeout":        strconv.FormatInt(p.Lock.Milliseconds(), 10),
		"tcp_keepalives_idle": seconds, "tcp_keepalives_interval": seconds, "tcp_keepalives_count": "2",
		// Every statement here walks an index or knows the row's place. A plan
		// made once does for all, whatever the statistics of a young table say.
		"plan_cache_mode": "force_generic_plan", "jit": "off", "enable_seqscan": "off", "enable_bitmapscan": "off",
		"enable_hashjoin": hashJoins, "enable_mergejoin": "off", "enable_sort": "off", "enable_incremental_sort": "off",
	} {
		config.RuntimeParams[name] = value
	}
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true,
		Idle: third, Interval: third, Count: 2}}
	config.DialFunc = dialer.DialContext
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	registerArrays(conn.TypeMap())
	return conn, nil
}
