package jobs

import (
	"github.com/jackc/pgx/v5"
)

// Cost settles what an attempt had set aside of its service's budget.
type Cost struct {
	Service string
	Job     *Job
	Agent   ID       // that claimed it
	USD     *float64 // nil: nobody knows, so all that was set aside counts
}

// Busy says that a service's jobs cannot be run for a while on an agent, for
// those who look.
type Busy struct {
	Service string
	Reason  string
	Seconds float64
}

const settleSQL = `SELECT jobs.settle_costs($1, $2, $3, $4, $5)`

// queueCosts settles costs. What was released because its agent was given up for
// dead is settled all the same, once.
func queueCosts(batch *pgx.Batch, costs []Cost) {
	for len(costs) > 0 {
		agent := costs[0].Agent
		var services []string
		var ids []ID
		var attempts []int32
		var usd []*float64
		rest := costs[:0:0]
		for _, c := range costs {
			if c.Agent != agent {
				rest = append(rest, c)
				continue
			}
			services, ids = append(services, c.Service), append(ids, c.Job.ID)
			attempts, usd = append(attempts, int32(c.Job.Attempt)), append(usd, c.USD)
		}
		batch.Queue(settleSQL, agent, services, ids, attempts, usd)
		costs = rest
	}
}

const busySQL = `
UPDATE jobs.tb_lane SET busy_until = now() + make_interval(secs => $2), busy_reason = $3 WHERE service_name = $1`

// queueBusy writes why lanes wait, in one order for all agents.
func queueBusy(batch *pgx.Batch, lanes []Busy) {
	for _, l := range lanes {
		batch.Queue(busySQL, l.Service, l.Seconds, l.Reason)
	}
}
